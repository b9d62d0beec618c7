"""Files that hold tensors, by format."""
