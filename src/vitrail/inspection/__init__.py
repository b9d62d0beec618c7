"""Looking at a model from outside: hooks and recomputation; the model is never changed to be looked at."""
