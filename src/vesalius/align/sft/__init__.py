"""Supervised fine-tuning: conversations in packed rows, loss where the assistant speaks."""
