"""Weights on disk: our own bundles, and the only place that knows other people's key names.

    from vitrail.weights.bundle import load

    model = load("runs/digits-1")          # a run folder, a bundle folder, or a published file
    model.record.classes

Nothing is ever unpickled, half loaded, or adapted without saying so.
"""
