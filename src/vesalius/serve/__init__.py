"""OpenAI-compatible HTTP over the engine, and a page in the browser to talk to it."""
