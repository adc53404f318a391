"""One training loop, and what it is made of: budget, schedules, optimizers, objectives, checkpoints, guard, report."""
