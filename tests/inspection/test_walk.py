"""The trace as a page: every step names its function, pictures are there, a browser steps through."""

import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitrail
from tests.support.browser import browse
from tests.support.models import RESNET, VIT, lively, noise
from vitrail.cli import main
from vitrail.inspection.trace import trace
from vitrail.inspection.trace_page import page_of, place_of, thumbnail, walk
from vitrail.reports.page import write_page

PIXELS = (noise(3, 224, 160).abs() * 90).clamp(0, 255).to(torch.uint8)


def test_every_step_with_an_equation_names_the_function_that_makes_it():
    places = {step.name: place_of(step) for step in trace(lively(VIT), noise(1, 3, 224, 160))}
    for place in filter(None, places.values()):
        file, number, name = re.fullmatch(r"(.+):(\d+), \w+\.?(\w*)", place).groups()
        line = (Path(vitrail.__file__).parent / file).read_text("utf-8").splitlines()[int(number) - 1]
        assert re.match(rf" *def {name or 'attend'}\(", line)
    assert {name for name, place in places.items() if not place} == {"x", "logits"}
    made = {name: place.split(", ")[-1] for name, place in places.items()}
    wanted = {"x_p E": "PatchEmbed.forward", "z_0": "ViT.place", "q_1": "Attention.project", "A_1": "attend"}
    wanted |= {"MSA_1": "Attention.forward", "z'_1": "Block.forward", "GELU_1": "Mlp.forward", "y": "ViT.pool"}
    assert wanted.items() <= made.items()


def test_every_step_has_a_picture_attention_too():
    stops = walk(lively(VIT), noise(1, 3, 224, 160), PIXELS)
    without = [stop.step.name for stop in stops if stop.picture is None]
    assert without == ["[x_class; x_p E]"]
    assert all(
        stop.picture.dtype == np.uint8 and stop.picture.shape[2] == 3 for stop in stops if stop.picture is not None
    )
    assert walk(lively(RESNET), noise(1, 3, 64, 48), PIXELS)[-1].step.name == "logits"


@pytest.mark.parametrize("shape", [(197, 768), (12, 197, 64), (197, 16, 16, 3), (1000,), (1,)], ids=str)
def test_a_picture_of_any_tensor(shape):
    picture = thumbnail(noise(*shape))
    assert picture.ndim == 3 and max(picture.shape) <= 288 and picture.max() > 100


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs a browser")
def test_a_browser_steps_through(tmp_path):
    path = write_page(tmp_path / "trace.html", "Trace", [page_of(walk(lively(VIT), noise(1, 3, 224, 160), PIXELS))])
    text = path.read_text("utf-8")
    assert not re.search(r"(?:https?:)?//[a-z]", re.sub(r"base64,[\w+/=\s]+", "", text))
    touch = """<script>
    const log = [], said = () => document.getElementById("walk-said").textContent;
    log.push(said());
    document.getElementById("walk-on").click(); log.push(said());
    document.getElementById("walk-on").click(); log.push(said());
    document.getElementById("walk-back").click(); log.push(said());
    log.push(String(document.querySelectorAll("#walk > li[data-on]").length));
    const out = document.createElement("pre"); out.id = "log"; out.textContent = JSON.stringify(log); document.body.append(out);
    </script></body>"""
    path.write_text(text.replace("</body>", touch), "utf-8")
    done = browse(path)
    assert "CONSOLE" not in done.stderr
    log = json.loads(html.unescape(re.search(r'<pre id="log">(.*?)</pre>', done.stdout)[1]))
    first, second, third, back, on = log
    assert (
        first.endswith(": x")
        and second.endswith(": patches")
        and third.endswith(": x_p")
        and back == second
        and on == "1"
    )


def test_the_command_writes_it(tmp_path, capsys):
    Image.fromarray(PIXELS.permute(1, 2, 0).numpy()).save(tmp_path / "photo.png")
    words = ["trace", str(tmp_path / "photo.png"), "--model", "vit-mu/16", "--html", str(tmp_path / "trace.html")]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "z_0" in out and "page: " in err
    assert "models/layers.py:" in (tmp_path / "trace.html").read_text("utf-8")
