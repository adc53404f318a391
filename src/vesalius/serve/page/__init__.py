"""The chat page: static files, and the routes that give them out."""
