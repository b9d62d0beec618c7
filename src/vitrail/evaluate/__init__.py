"""Numbers about a model: one pass over the images, then any number of scores from what it gave."""
