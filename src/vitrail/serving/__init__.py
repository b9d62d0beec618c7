"""A server that holds its promises, and the page where people see a Vision Transformer look."""
