"""Drawings hold the numbers they were given, follow the page's theme, and take any class name."""

import io
import re
import xml.etree.ElementTree as xml
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image

from vitrail.reports import figures
from vitrail.reports.confusion import draw_confusion
from vitrail.reports.figures import INK, SERIES, curves, reliability
from vitrail.reports.sheets import prediction_sheet

ROWS = [{"step": k, "epoch": k / 10, "loss": 2 / k, "accuracy": 1 - 1 / k, "lr": 0.01} for k in range(1, 50)]
HELD_OUT = [{"step": k, "epoch": k / 10, "held_out_nll": 1 / k, "held_out_top1": 1 - 1 / k} for k in range(10, 50, 10)]


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()).strip() for node in xml.fromstring(svg.replace("xlink:", "")).iter("text")]


def all_drawings():
    edges = np.linspace(0, 1, 4).tolist()
    yield from curves(ROWS + HELD_OUT)
    yield draw_confusion(np.arange(9).reshape(3, 3), ["a", "b", "c"])
    yield draw_confusion(np.eye(70, dtype=int), [f"class {k}" for k in range(70)])
    yield reliability(edges, [0, 2, 8], [None, 0.5, 0.9], [None, 0.5, 1.0])


@pytest.mark.parametrize("drawing", list(all_drawings()), ids=lambda drawing: drawing.alt[:12])
def test_a_drawing_fits_into_any_page(drawing):
    """Well-formed, only the page's colours, nothing to fetch, no ids but those it refers to, and words for it all."""
    root = xml.fromstring(drawing.svg.replace("xlink:", ""))
    assert root.tag == "svg" and root.get("viewBox")
    assert INK not in drawing.svg and "currentColor" in drawing.svg
    bare = re.sub(r"var\(--series-\d, (#\w+)\)", "", drawing.svg)
    assert not any(colour in bare for colour in SERIES)
    assert "http" not in drawing.svg and "url(#" in drawing.svg + "url(#" and "<style" not in drawing.svg
    ids = {node.get("id") for node in root.iter() if node.get("id")}
    assert ids == set(re.findall(r"#([\w-]+)", bare.replace("#ffffff", ""))) & ids
    assert len(drawing.alt) > 20


def test_the_same_figure_is_the_same_bytes():
    matrix, names = np.arange(16).reshape(4, 4), list("abcd")
    assert draw_confusion(matrix, names) == draw_confusion(matrix, names)


def test_drawing_leaves_matplotlib_as_it_was():
    before = dict(matplotlib.rcParams)
    list(all_drawings())
    assert dict(matplotlib.rcParams) == before


def test_curves_say_where_they_begin_and_end_and_leave_out_what_was_not_logged():
    loss, accuracy, rate = curves(ROWS + HELD_OUT)
    assert loss.alt == "Loss over epoch: training from 2 to 0.04082; held out from 0.1 to 0.025."
    assert {"Loss", "training", "held out"} <= set(texts(loss.svg)) and "Accuracy" in texts(accuracy.svg)
    assert rate.alt.startswith("Learning rate")
    assert [drawing.alt.split()[0] for drawing in curves([{"epoch": 1, "lr": 0.1}, {"epoch": 2, "lr": None}])] == [
        "Learning"
    ]
    assert curves([]) == ()


def test_a_loss_of_zero_is_drawn_all_the_same():
    assert curves([{"epoch": 0, "loss": 1.0}, {"epoch": 1, "loss": 0.0}])[0].alt.endswith("training from 1 to 0.")


def test_confusion_writes_every_count_and_name():
    matrix = np.array([[91, 7], [0, 83]])
    found = texts(draw_confusion(matrix, ["cat", "dog"]).svg)
    assert {"91", "7", "83", "cat", "dog"} <= set(found) and "0" not in found
    assert "174 of 181 images on the diagonal" in draw_confusion(matrix, ["cat", "dog"]).alt


def test_class_names_may_be_any_text():
    names = ["$5 & <b>bold</b>", "猫", "a" * 50, "%d {x} \\frac", ""]
    found = texts(draw_confusion(np.eye(5, dtype=int), names).svg)
    assert {"$5 & <b>bold</b>", "猫", "%d {x} \\frac"} <= set(found)
    assert "a" * 17 + "…" in found


def test_reliability_says_each_bin():
    drawing = reliability([0.0, 0.5, 1.0], [0, 10], [None, 0.8], [None, 0.75])
    assert drawing.alt == "Reliability diagram, bin by bin: 80% sure 75% right."


@pytest.mark.parametrize(("count", "shape"), [(1, (8, 8, 1)), (24, (28, 28, 3)), (11, (40, 60, 3))])
def test_the_sheet_is_a_png_with_every_picture(count, shape):
    images = [np.full(shape, 40 + 8 * k, dtype=np.uint8) for k in range(count)]
    sheet = prediction_sheet(
        images, ["猫, is $5\nnot a dog"] * count, [k % 2 == 0 for k in range(count)], title="Predictions"
    )
    picture = np.asarray(Image.open(io.BytesIO(sheet)).convert("RGB"))
    for k in range(count):
        shade = picture == 40 + 8 * k
        assert shade.all(-1).sum() > 2000, f"picture {k} is there, unchanged, at a size to look at"


def test_an_empty_sheet_is_still_a_picture():
    assert Image.open(io.BytesIO(prediction_sheet([], [], []))).size[0] > 0


def test_a_loss_is_drawn_so_that_its_axis_has_numbers():
    """Over decades on a logarithmic axis, within one on a linear one."""
    for first, last in ((2.3, 0.003), (2.3, 1.7), (0.02, 0.01), (1e4, 1e-4)):
        (drawing,) = curves([{"epoch": 0, "loss": first}, {"epoch": 1, "loss": last}])
        numbers = [float(text) for text in texts(drawing.svg) if re.fullmatch(r"[\d.e+-]+", text)]
        assert len([number for number in numbers if last / 2 <= number <= first * 2 and number not in (0, 1)]) >= 2


def test_letters_that_the_own_font_lacks_are_written_in_an_installed_one(monkeypatch) -> None:
    """A font of other signs stands for one of Chinese or Japanese: it is found by what it can draw, not by its name."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    other = folder / "STIXGeneral.ttf"
    lacking = set(FT2Font(str(other)).get_charmap()) - set(FT2Font(str(folder / "DejaVuSans.ttf")).get_charmap())
    letter = next(chr(code) for code in sorted(lacking) if chr(code).isprintable())
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(folder / "cmr10.ttf"), str(other)])
    assert figures.choose_fonts(["plain", f"with {letter}"]) == ["DejaVu Sans", FT2Font(str(other)).family_name]
    assert figures.choose_fonts(["plain é ß"]) == ["DejaVu Sans"]
    names = figures.shorten("植物" * 12, 18), figures.shorten("plantes à fleurs rouges", 22)
    assert names == ("植物植物植物植物…", "plantes à fleurs roug…")


def test_training_curves_are_means_of_epochs() -> None:
    points = [(step / 10, float(step % 2)) for step in range(1, 41)]
    assert figures.mean_by_epoch(points) == [(epoch, 0.5) for epoch in (1.0, 2.0, 3.0, 4.0)]
    assert figures.mean_by_epoch(points[:20]) == points[:20]
    begun = figures.mean_by_epoch([*points, (4.01, 9.0)])  # one step of a fifth epoch is no curve of its own
    assert [epoch for epoch, _ in begun] == [1.0, 2.0, 3.0, 4.01] and begun[-1][1] < 2
