"""From a name to a model and back: aliases, downloads, Hugging Face directories, GGUF files; open, save, export."""
