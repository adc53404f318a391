"""Rewards that a program can check: each is `reward(task, completion) -> Verdict`, from 0 to 1 and with its reason."""
