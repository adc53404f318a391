"""Optimizers written by hand beside torch's fused AdamW, the groups of parameters, and the choice by name."""
