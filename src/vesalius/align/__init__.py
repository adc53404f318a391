"""Objectives and batch sources beyond next-token prediction: instruction tuning, and whatever else aligns a model."""
