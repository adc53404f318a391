"""A model behind OpenAI's HTTP interface: chat, completions, embeddings, responses, and batches of them from a file."""
