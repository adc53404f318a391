"""The sections of a recipe that belong to one method each."""
