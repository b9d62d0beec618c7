"""Questions that take many runs to answer, each as one command and one report."""
