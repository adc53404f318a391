"""Calls of tools: how a model writes them, how they are read out of its text, and how it is made to write one."""
