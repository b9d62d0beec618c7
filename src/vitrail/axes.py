"""The legend of axis letters, used in every shape in this package.

Shapes are written as jaxtyping strings, `Float[Tensor, "B N D"]`, and checked while the tests run.
"""

AXES: dict[str, str] = {
    "B": "batch: images",
    "C": "channels of an image or a feature map",
    "H": "height in pixels",
    "W": "width in pixels",
    "h": "height of the patch grid",
    "w": "width of the patch grid",
    "N": "tokens: prefix first, then the patches row by row",
    "D": "width: features of a token",
    "K": "classes",
    "A": "attention heads",
    "d": "features of one head, D / A",
}
