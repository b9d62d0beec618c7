"""Train a model: the loop, the optimiser, the state of a run and its folder."""
