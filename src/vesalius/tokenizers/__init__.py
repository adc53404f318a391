"""Text to token ids and back: byte-level BPE by hand, fast encoding through `tokenizers`, chat templates."""
