"""From samples to batches: throughput and order, apart from what the images mean."""
