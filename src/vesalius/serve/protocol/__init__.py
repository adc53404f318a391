"""What comes in over HTTP: one file for each endpoint's request. Names and meanings are OpenAI's."""
