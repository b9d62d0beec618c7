"""One function for each command, with the same names and defaults; `import vitrail` gives them all."""
