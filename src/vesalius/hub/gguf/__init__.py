"""GGUF: the one-file container of llama.cpp, with metadata, tokenizer and weights in blocks."""
