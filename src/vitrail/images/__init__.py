"""Everything before a batch exists: where images come from, how bytes become pixels, how pixels become a model's input."""
