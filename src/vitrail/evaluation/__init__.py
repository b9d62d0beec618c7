"""Numbers about a model: accuracy with its interval, probes."""
