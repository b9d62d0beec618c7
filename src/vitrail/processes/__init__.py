"""Which process this is: ranks, shards of a model, signals."""
