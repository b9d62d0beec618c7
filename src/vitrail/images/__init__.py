"""Everything before a batch exists: where images come from, how bytes become pixels, and pixels a model's input."""
