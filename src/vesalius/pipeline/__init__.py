"""The life of a model as stages: a recipe names them, `run_recipe` runs them in order in one run directory."""
