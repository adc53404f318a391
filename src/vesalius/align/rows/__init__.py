"""Conversations, prompts and answers as rows of tokens: what every batch source here is made of."""
