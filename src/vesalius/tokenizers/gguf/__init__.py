"""Tokenizers of GGUF files: their metadata read, written, and what the names of their pre-tokenizers mean."""
