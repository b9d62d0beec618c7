"""A browser's folder answers in transformers.js itself, in node: `npm install --ignore-scripts @huggingface/transformers`."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.exporting.conftest import UNEVEN, pictures, subject_of
from vitrail.exporting.layouts import export_browser
from vitrail.models.backbone import Backbone
from vitrail.prediction.engine import TorchEngine
from vitrail.prediction.predict import predict

pytestmark = [pytest.mark.oracle, pytest.mark.deep]
pytest.importorskip("onnxscript", reason="needs vitrail[export]")
LIBRARY = "@huggingface/transformers"
_ASK = """
const { pipeline, env } = require("@huggingface/transformers");
const [place, name, ...files] = process.argv.slice(1);
env.allowRemoteModels = false;
env.localModelPath = place;
(async () => {
  const ask = await pipeline("image-classification", name, { dtype: "fp32", device: "cpu" });
  for (const file of files) console.log(JSON.stringify(await ask(file, { top_k: 5 })));
})();
"""


@pytest.fixture(autouse=True)
def _has_library() -> None:
    node = shutil.which("node")
    found = node and subprocess.run([node, "-e", f"require.resolve('{LIBRARY}')"], capture_output=True).returncode == 0
    if not found:
        pytest.skip(f"needs node, and {LIBRARY} in ./node_modules or in NODE_PATH")


def test_transformers_js_gives_the_same_probabilities(model: Backbone, tmp_path: Path) -> None:
    """Images of the native size: any other is resized by the browser's canvas, or by sharp in node."""
    export_browser(subject_of(model, pictures()), tmp_path / "page")
    (height, width), source = UNEVEN.size, pictures(4)
    files = [tmp_path / f"{index}.png" for index in range(len(source))]
    for index, file in enumerate(files):
        Image.fromarray(source.pixels(index)[:height, :width]).save(file)
    command = ["node", "-e", _ASK, f"{tmp_path}/", "page", *map(str, files)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()
    right = predict(TorchEngine.of(model, precision="fp32"), files, top_k=5, quiet=True)
    for line, one in zip(lines, right, strict=True):
        given = {answer["label"]: answer["score"] for answer in json.loads(line)}
        assert given == pytest.approx(dict(zip(one.labels, one.probabilities, strict=True)), abs=1e-5)
