"""Three drawings that travel with the package: the page shows them at once, and new weights are tried on them."""

from importlib.resources import files

SAMPLES: dict[str, bytes] = {
    name: files("vitrail.serving").joinpath("page", f"{name}.png").read_bytes() for name in ("bird", "house", "window")
}
"""Name -> a PNG file."""
