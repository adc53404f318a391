"""Adapters: a few new numbers around a model that stays as it is, put in and taken out from outside."""
