"""Where models live on disk: Hugging Face directories, opened and saved."""
