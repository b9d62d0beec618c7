"""Losses and how each is judged: one file an objective."""
