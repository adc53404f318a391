"""Distillation: a student learns what a teacher thinks of every next token."""
