"""The end of the flow: JSON lines, progress, tables, figures and one self-contained page, out of arrays and strings."""
