"""Models that give a number: reward models and process reward models."""
