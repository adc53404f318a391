"""Data that a model makes itself: by a constitution, by what a program finds right, by its own judgement."""
