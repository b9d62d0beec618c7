"""Small sets of pictures for `photos.py`, made from what a Debian machine has: the same files for the same seed.

Each is FOLDER/{train,test}/CLASS/NUMBER.png. A seed draws another split, and other letters. Stamps come from
`tuxpaint-stamps-default`, clothes from `dataset-fashion-mnist`, digits from scikit-learn, fonts from matplotlib.
"""

import gzip
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
from PIL import Image, ImageDraw, ImageFont, ImageOps

STAMPS = Path("/usr/share/tuxpaint/stamps")
FASHION = Path("/usr/share/datasets/fashion-mnist")
FOUR = ("animals", "food", "plants", "vehicles")
EIGHT = (*FOUR, "household", "seasonal", "symbols", "town")
"""All subjects with 24 pictures or more."""
LETTERS = "ABEFGHKMPRSX"
FONTS = ("Sans", "Sans-Bold", "Sans-Oblique", "SansMono", "SansMono-Bold", "Serif", "Serif-Bold", "Serif-Italic")

Labelled = Iterator[tuple[str, str, Image.Image]]
"""Part, class and picture."""


@dataclass(frozen=True)
class PhotoSet:
    pixels: int
    """Height and width at which every contender trains."""
    draw: Callable[[random.Random], Labelled]


def make(name: str, seed: int, root: Path) -> Path:
    """The folder of the set; made where it is not there yet."""
    folder = root / f"{name}-{seed}"
    if folder.exists():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as unfinished:
        for number, (part, label, picture) in enumerate(SETS[name].draw(random.Random(seed))):
            path = Path(unfinished) / name / part / label / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
        (Path(unfinished) / name).rename(folder)
    return folder


def divided(
    groups: Mapping[str, Sequence], chance: random.Random, learn: float, *, most: int | None = None
) -> Iterator[tuple]:
    """Part, class and item: of each class at most `most` items by chance, the share `learn` of them to learn from."""
    for label, items in groups.items():
        chosen = chance.sample(list(items), len(items))[:most]
        cut = round(learn * len(chosen))
        yield from (("train" if k < cut else "test", label, item) for k, item in enumerate(chosen))


def stamps(subjects: Sequence[str], learn: float = 0.6, most: int | None = None) -> Callable[[random.Random], Labelled]:
    def draw(chance: random.Random) -> Labelled:
        if not STAMPS.is_dir():
            raise SystemExit(f"{STAMPS} is not there: apt-get install tuxpaint-stamps-default")
        files = {subject: sorted((STAMPS / subject).rglob("*.png")) for subject in subjects}
        for part, label, path in divided(files, chance, learn, most=most):
            yield part, label, on_white(path)

    return draw


def on_white(path: Path) -> Image.Image:
    with Image.open(path) as stored:
        picture = stored.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def small(chance: random.Random) -> Labelled:
    """The split of `few4`, at 24×24 pixels."""
    for part, label, picture in stamps(FOUR)(chance):
        yield part, label, picture.resize((24, 24))


def oblong(chance: random.Random) -> Labelled:
    """Each stamp as wide as a high canvas, at some height."""
    for part, label, picture in stamps(FOUR, most=60)(chance):
        yield part, label, ImageOps.pad(picture, (200, 600), color="white", centering=(0.5, chance.random()))


def digits(chance: random.Random) -> Labelled:
    """All 1,797, a fifth of each class to test on."""
    for part, label, pixels in divided(_digits(), chance, 0.8):
        yield part, label, Image.fromarray(pixels)


def few_digits(chance: random.Random) -> Labelled:
    """18 of each digit to learn from, and 50 to test on."""
    for part, label, pixels in divided(_digits(), chance, 18 / 68, most=68):
        yield part, label, Image.fromarray(pixels)


def _digits() -> dict[str, list[numpy.ndarray]]:
    from sklearn.datasets import load_digits

    stored = load_digits()
    grey = (stored.images * (255 / 16)).round().astype(numpy.uint8)
    return {str(digit): list(grey[stored.target == digit]) for digit in range(10)}


def fashion(chance: random.Random) -> Labelled:
    """60 training images of each class, and 200 test images; the set's own split is kept."""
    if not FASHION.is_dir():
        raise SystemExit(f"{FASHION} is not there: apt-get install dataset-fashion-mnist")
    for part, stored, count in (("train", "train", 60), ("test", "t10k", 200)):
        images, labels = (_idx(FASHION / f"{stored}-{what}.gz") for what in ("images-idx3-ubyte", "labels-idx1-ubyte"))
        for label in range(10):
            for index in chance.sample(numpy.flatnonzero(labels == label).tolist(), count):
                yield part, str(label), Image.fromarray(images[index])


def _idx(path: Path) -> numpy.ndarray:
    content = gzip.decompress(path.read_bytes())
    sizes = numpy.frombuffer(content, ">u4", count=content[3], offset=4)
    return numpy.frombuffer(content, numpy.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)


def letters(chance: random.Random) -> Labelled:
    """30 of each letter to learn from and 30 to test on."""
    for letter in LETTERS:
        for number in range(60):
            yield "train" if number < 30 else "test", letter, letter_picture(letter, chance)


def letter_picture(letter: str, chance: random.Random) -> Image.Image:
    """Grey on grey, 48×48, of any size and place, turned up to 15 degrees, noisy."""
    import matplotlib

    file = Path(matplotlib.get_data_path(), "fonts/ttf", f"DejaVu{chance.choice(FONTS)}.ttf")
    font = ImageFont.truetype(file, chance.randint(22, 34))
    ground, contrast = chance.randint(90, 165), chance.choice((-1, 1)) * chance.randint(30, 60)
    picture = Image.new("L", (48, 48), ground)
    place = [24 + chance.randint(-5, 5) for _ in range(2)]
    ImageDraw.Draw(picture).text(place, letter, fill=ground + contrast, font=font, anchor="mm")
    picture = picture.rotate(chance.uniform(-15, 15), Image.Resampling.BICUBIC, fillcolor=ground)
    noise = numpy.random.default_rng(chance.getrandbits(32)).normal(0, 12, (48, 48))
    return Image.fromarray((numpy.asarray(picture) + noise).clip(0, 255).astype(numpy.uint8))


SETS = {
    "few4": PhotoSet(112, stamps(FOUR)),
    "two": PhotoSet(112, stamps(("animals", "vehicles"))),
    "subjects8": PhotoSet(112, stamps(EIGHT, learn=0.5, most=42)),
    "small24": PhotoSet(56, small),
    "digits10": PhotoSet(56, few_digits),
    "digits": PhotoSet(56, digits),
    "fashion600": PhotoSet(56, fashion),
    "letters": PhotoSet(84, letters),
    "oblong": PhotoSet(112, oblong),
}
