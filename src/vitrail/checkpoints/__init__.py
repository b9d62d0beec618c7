"""Checkpoints of a run: write, read, in shards, in the background."""
