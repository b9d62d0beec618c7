"""The report: every family, every file, nothing fetched; in a browser it answers the mouse and the keyboard."""

import csv
import dataclasses
import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.browser import browse
from tests.support.models import HYBRID, MASKED, MAXVIT, RESNET, VIT, lively, noise
from vitrail.api.inspect import open_shown
from vitrail.cli import main
from vitrail.errors import ConfigError, DoesNotApply
from vitrail.images.preprocess import Preprocess
from vitrail.images.sources import open_data
from vitrail.inspection.analyses import ANALYSES, FIGURES
from vitrail.inspection.attention_hooks import watch
from vitrail.inspection.explorer import membership, pool_attention, read_attention, shown_grid
from vitrail.inspection.maps import attention
from vitrail.inspection.reconstruction import reconstruct
from vitrail.inspection.report import inspect
from vitrail.models.mae import patchify, pixel_target
from vitrail.models.vit import ViTConfig
from vitrail.weights.bundle import Record, load, save_bundle

EVIL = "</script><script>alert(1)</script>"
PLAIN = ViTConfig(width=24, depth=2, heads=3, mlp_width=40, patch=(8, 8), image=(32, 24), classes=4)
APPLIES = {
    "vit": {"attention", "flow", "heads", "positions", "filters", "patches", "neighbours", "alignment"},
    "hybrid": {"attention", "flow", "heads", "positions", "filters", "patches", "neighbours", "alignment"},
    "maxvit": {"flow", "heads", "filters", "patches", "neighbours", "alignment"},
    "mae": {
        "attention",
        "flow",
        "heads",
        "positions",
        "filters",
        "patches",
        "neighbours",
        "reconstruction",
        "alignment",
    },
    "resnet": {"flow", "filters", "patches", "neighbours", "alignment"},
}


def with_record(config, **changes):
    model = lively(config)
    model.record = Record(config=config, preprocess=Preprocess(size=config.image), **changes)
    return model


def pictures(config, count=5):
    return (noise(count, 3, *config.image).abs() * 90).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("config", [PLAIN, HYBRID, MAXVIT, MASKED, RESNET], ids=lambda config: config.family)
def test_every_family_has_what_applies_and_says_what_does_not(config, tmp_path):
    found = inspect(with_record(config), pictures(config), keys=[EVIL, "b", "c", "d", "e"], quiet=True)
    assert {name for name, (one,) in found.findings.items() if one is not None} == APPLIES[config.family]
    assert len(found.missing) == len(ANALYSES) - len(APPLIES[config.family])
    text = found.write(tmp_path / "out").read_text("utf-8")
    assert "<script>alert" not in text and not re.search(r"(?:https?:)?//[a-z]", re.sub(r"base64,[\w+/=\s]+", "", text))
    for title, why in found.missing:
        assert title in text and html.escape(why, quote=False) in html.unescape(text).replace("'", "'")
    for name in APPLIES[config.family]:
        rows = list(csv.DictReader((tmp_path / "out" / "numbers" / f"{name}.csv").read_text().splitlines()))
        assert rows and len(json.loads((tmp_path / "out" / "numbers" / f"{name}.json").read_text())["rows"]) == len(
            rows
        )
    drawn = {path.stem for path in (tmp_path / "out" / "figures").glob("*.svg")}
    assert drawn == {path.stem for path in (tmp_path / "out" / "figures").glob("*.png")} and len(drawn) >= 5
    assert drawn <= set(FIGURES)
    for path in (tmp_path / "out" / "figures").glob("*.png"):
        Image.open(path).verify()


def test_without_images_the_weights_are_looked_at():
    found = inspect(lively(PLAIN), quiet=True)
    assert {name for name, (one,) in found.findings.items() if one is not None} == {"positions", "filters"}
    assert all(why == "no images were given" or "paints nothing" in why or "CKA" in why for _, why in found.missing)


def test_a_report_replaces_an_earlier_one_and_nothing_else(tmp_path):
    earlier = ("report.html", "figures/cka.svg", "figures/against-view.png", "numbers/against-heads.csv")
    own = ("figures/mine.png", "numbers/mine.csv", "notes.txt")
    for name in (*earlier, *own):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    inspect(lively(PLAIN), quiet=True).write(tmp_path)
    assert (tmp_path / "report.html").read_text("utf-8") and all((tmp_path / name).exists() for name in own)
    assert not [name for name in earlier[1:] if (tmp_path / name).exists()]


def test_numbers_of_the_report_are_those_of_the_calls(tmp_path):
    model, images = with_record(PLAIN), pictures(PLAIN)
    inspect(model, images, quiet=True).write(tmp_path)
    rows = list(csv.DictReader((tmp_path / "numbers" / "attention.csv").read_text().splitlines()))
    maps = attention(model, images[:4], queries=[0])
    assert len(rows) == 4 * 2 * 3
    for row in rows[:6]:
        patches = maps[int(row["layer"]) - 1].patches[0, int(row["head"]) - 1, 0]
        assert float(row["on patches"]) == pytest.approx(float(patches.sum()), rel=1e-5)
        assert float(patches[int(row["peak row"]), int(row["peak column"])]) == float(patches.max())


def test_chosen_layers_and_heads_are_all_there_is_and_wrong_ones_are_errors():
    model, images = with_record(PLAIN), pictures(PLAIN)
    found = inspect(model, images, layers=[-1], heads=[1, 3], quiet=True)
    (one,) = found.findings["attention"]
    assert {(row[1], row[2]) for row in one.table.rows} == {(2, 1), (2, 3)}
    with pytest.raises(ConfigError, match="layer 3 of a model with 2 layers"):
        inspect(model, images, layers=[3], quiet=True)
    with pytest.raises(ConfigError, match="head 4 of a model with 3 heads"):
        inspect(model, images, heads=[4], quiet=True)


def test_maps_of_the_page_are_the_models_and_coarser_ones_keep_their_sums(monkeypatch):
    model, image = with_record(VIT), pictures(VIT, 1)[0]
    seen = read_attention(model, image)
    exact = attention(model, image[None])
    assert seen.grid == (14, 10) and [maps.shape for maps in seen.maps] == [(4, 141, 140)] * 3
    share = exact[1].weights[0, 2, 7, 1:]
    assert np.abs(seen.maps[1][3, 7] / 23 - (share / share.max()).sqrt().numpy()).max() <= 0.5 / 23 + 1e-6
    monkeypatch.setattr("vitrail.inspection.explorer.MOST_CELLS", 9 * 35**2)
    coarse = read_attention(model, image)
    assert coarse.coarser and coarse.grid == shown_grid((14, 10), 9) == (7, 5)
    sums = []
    watch(model, image[None], lambda tap: sums.append(pool_attention(tap, [0], (7, 5))), layers=[1])
    whole = exact[0].weights[0, 0, 1:, 1:].unflatten(1, (14, 10)).unflatten(0, (14, 10))
    expected = whole.unflatten(0, (7, 2)).unflatten(2, (5, 2)).unflatten(4, (7, 2)).unflatten(6, (5, 2))
    expected = expected.mean((1, 3)).sum((3, 5)).flatten(2).flatten(0, 1)
    torch.testing.assert_close(sums[0][1, 1:], expected)


def test_cells_of_a_coarser_grid_share_what_lies_across_their_border():
    found = membership((3, 2), (2, 2))
    assert torch.allclose(found.sum(1), torch.ones(6, dtype=torch.float64))
    assert torch.allclose(found[2], torch.tensor([0.5, 0, 0.5, 0], dtype=torch.float64))


def test_a_masked_autoencoder_is_shown_as_it_paints():
    model, images = with_record(MASKED), pictures(MASKED, 2)
    found = reconstruct(model, images, ratio=0.5)
    grey = (found.masked == 128).all(1).unflatten(2, (3, 16)).unflatten(1, (4, 16)).all(4).all(2)
    assert grey.flatten(1).sum(1).tolist() == [6, 6]
    seen = ~grey.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None].expand_as(images)
    assert (found.painted[seen].int() - images[seen].int()).abs().max() <= 1
    with pytest.raises(DoesNotApply, match="paints nothing"):
        reconstruct(with_record(PLAIN), pictures(PLAIN))
    with pytest.raises(DoesNotApply, match="do not say whether their decoder predicts pixels or normalised pixels"):
        reconstruct(with_record(dataclasses.replace(MASKED, target="unknown")), images)


@pytest.mark.parametrize("target", ["pixels", "normalised"])
def test_a_perfect_prediction_is_painted_as_the_true_image(target, monkeypatch):
    """Back in pixels through the patch's own mean and deviation where the target took them out."""
    model, images = with_record(dataclasses.replace(MASKED, target=target)), pictures(MASKED, 2)
    perfect = pixel_target(patchify(model.record.preprocess.normalise(images), MASKED.patch), target)
    monkeypatch.setattr(model, "predict", lambda pixels, mask: perfect)
    found = reconstruct(model, images)
    assert (found.painted.int() - images.int()).abs().max() <= 1 and float(found.error.max()) < 1e-5


@pytest.fixture
def report(tmp_path):
    one, other = with_record(PLAIN), with_record(ViTConfig(**{**PLAIN.__dict__, "depth": 4, "pool": "mean"}))
    images = pictures(PLAIN)
    return inspect(one, images, against=other, name="one", against_name="other", keys=[EVIL, "b"], quiet=True).write(
        tmp_path
    )


TOUCH = """
<script>
setTimeout(async () => {
  const wait = () => new Promise((resolve) => setTimeout(resolve, 150));
  const said = () => [...document.querySelectorAll("[id^=explorer-said]")].map((one) => one.textContent);
  const stage = document.querySelector(".stage"), log = [];
  const note = async () => { await wait(); log.push(said()); };
  await note();
  const key = (name) => stage.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
  key("ArrowDown"); await note();
  key("ArrowRight"); await note();
  for (let k = 0; k < 9; k++) key("ArrowLeft");
  await note();
  key("Home"); await note();
  const slide = (name, value) => {
    const one = document.getElementById("explorer-" + name);
    one.value = value;
    one.dispatchEvent(new Event("input"));
  };
  slide("layer", 0); slide("head", 2); await note();
  const area = stage.getBoundingClientRect();
  const place = { clientX: area.left + area.width * 0.99, clientY: area.top + 1 };
  stage.dispatchEvent(new PointerEvent("pointermove", place)); await note();
  const out = document.createElement("pre");
  out.id = "log"; out.textContent = JSON.stringify(log); document.body.append(out);
}, 300);
</script>"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs a browser")
def test_a_browser_answers_keyboard_and_mouse(report):
    touched = report.with_name("touched.html")
    touched.write_text(report.read_text("utf-8").replace("</body>", TOUCH + "</body>"), "utf-8")
    done = browse(touched, "--virtual-time-budget=20000")
    assert "CONSOLE" not in done.stderr
    log = json.loads(html.unescape(re.search(r'<pre id="log">(.*?)</pre>', done.stdout)[1]))
    start, down, right, left, home, slid, hovered = log
    assert start[0].startswith("layer 2, mean of the heads: the class token looks most at row")
    assert start[1].startswith("layer 4, mean of the heads: the mean patch looks most")
    assert "the patch in row 2, column 1 " in down[0] and "the patch in row 2, column 1 " in down[1]
    assert "row 2, column 2 " in right[0] and "row 2, column 0 " in left[0]
    assert home == start
    assert slid[0].startswith("layer 1, head 2: the class token") and slid[1].startswith("layer 1, head 2")
    assert "the patch in row 0, column 2 " in hovered[0]


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs a browser")
def test_without_scripts_the_figures_are_there(report):
    """Chromium has no switch for it: the page's own rules are told to run no script."""
    text = report.read_text("utf-8").replace("script-src 'unsafe-inline'", "script-src 'none'")
    quiet = report.with_name("quiet.html")
    quiet.write_text(text, "utf-8")
    done = browse(quiet)
    assert '<div class="explorer" id="explorer" hidden="">' in done.stdout
    assert done.stdout.count("<svg") > 12 and "<noscript>" in done.stdout


@pytest.fixture
def bundle(tmp_path):
    save_bundle(tmp_path / "model", lively(PLAIN), Record(config=PLAIN, preprocess=Preprocess(size=PLAIN.image)))
    (tmp_path / "photos").mkdir()
    for name in "abcd":
        pixels = np.random.default_rng(ord(name)).integers(0, 255, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path


def test_the_command_writes_the_folder_and_prints_the_page(bundle, capsys):
    words = ["inspect", str(bundle / "model"), str(bundle / "photos"), "--against", str(bundle / "model"), "--out"]
    assert main([*words, str(bundle / "out")]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(bundle / "out" / "report.html") and "4 images" in err and "Reconstruction" in err
    names = {path.name for path in (bundle / "out" / "numbers").iterdir()}
    assert {"heads.csv", "against-heads.csv", "heads.json"} <= names
    # the same model on both sides: the same numbers
    assert (bundle / "out/numbers/heads.csv").read_text() == (bundle / "out/numbers/against-heads.csv").read_text()
    assert load(bundle / "model").training is False


def test_the_command_numbers_its_folders(bundle, capsys, monkeypatch):
    monkeypatch.chdir(bundle)
    Path("runs/inspection-1").mkdir(parents=True)
    assert main(["inspect", "model"]) == 0
    assert capsys.readouterr().out.strip() == str(Path("runs/inspection-2/report.html"))


def test_a_run_keeps_its_own_report(bundle, capsys):
    (bundle / "model" / "run.json").write_text("{}")
    assert main(["inspect", str(bundle / "model"), "--out", str(bundle / "model")]) == 78
    assert "is a run folder, with a report of its own; choose another --out" in capsys.readouterr().err


def test_opened_images_are_shown_by_their_test_part():
    splits = open_data("digits")
    assert open_shown(splits) is splits.test and open_shown(None) is open_shown([]) is None
    assert len(open_shown(Image.new("L", (8, 8)))) == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["{model}", "{photos}", "--layers", "7"], 78, "layer 7 of a model with 2 layers"),
        (["{model}", "{photos}", "--heads", "1", "9"], 78, "head 9 of a model with 3 heads"),
        (["{model}", "{empty}"], 65, "no images in"),
        (["{model}", "missing.png"], 65, "there is no file or folder 'missing.png'"),
        (["nothing-here", "{photos}"], 65, "there is no file or folder 'nothing-here'"),
        (["{model}", "{photos}", "--size", "33", "24"], 78, "33×24 does not divide"),
    ],
    ids=lambda value: str(value),
)
def test_mistakes_are_one_paragraph(words, code, message, bundle, capsys):
    (bundle / "empty").mkdir()
    words = [word.format(model=bundle / "model", photos=bundle / "photos", empty=bundle / "empty") for word in words]
    assert main(["inspect", *words, "--out", str(bundle / "out")]) == code
    assert message in capsys.readouterr().err
    assert not (bundle / "out" / "report.html").exists()


def test_five_channels_are_looked_at_and_traced(tmp_path, capsys, monkeypatch):
    """Satellite images: of more than three channels the first three are shown."""
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(PLAIN, channels=5)
    preprocess = Preprocess(size=config.image, mean=(0.5,) * 5, std=(0.5,) * 5)
    save_bundle("five", lively(config), Record(config=config, preprocess=preprocess))
    for number in range(4):
        np.save(f"{number}.npy", np.random.default_rng(number).integers(0, 256, (40, 50, 5), dtype=np.uint8))
    assert main(["inspect", "five", *(f"{number}.npy" for number in range(4)), "--out", "seen"]) == 0
    assert not {"Attention of the class token", "Patch features"} & set(
        re.findall("report: ([^:]+)", capsys.readouterr().err)
    )
    assert main(["trace", "0.npy", "--weights", "five", "--html", "t.html"]) == 0
    assert "<html" in (tmp_path / "t.html").read_text("utf-8")
