"""Names that steer terminals, turn the direction of reading, are markup or formulas: shown as escapes, whoever prints them."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from vitrail.cli import main
from vitrail.hardware import Hardware
from vitrail.images.preprocess import Preprocess
from vitrail.models.vit import ViTConfig
from vitrail.reports.progress import Bar, Lines
from vitrail.reports.tables import Column, Table
from vitrail.reports.terminal import CleanStream, printable
from vitrail.training.loop import train
from vitrail.training.run import Run

HOSTILE = "\x1b]0;pwned\x07\x1b[2J\x9b31m\u202egnp\u2066[/b][red]\x7f\r"
STEERS = set("\x1b\x07\x9b\u202e\u2066\x7f\x00\x08")


def test_printable_text_is_itself_and_the_rest_becomes_escapes_of_json() -> None:
    plain = "über 日本語 🦔\u00a0\u202f\n\tcafe\u0301"
    assert printable(plain) == plain
    found = printable(HOSTILE + "\ud800\U000e0001")
    assert found.isprintable() and json.loads(f'"{found}"') == HOSTILE + "\ud800\U000e0001"


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1+1", "-2", "@SUM(1)", "\t=1", "\r=1"])
def test_no_cell_of_a_csv_is_a_formula(text: str) -> None:
    line = Table((Column("name"), Column("number")), ((text, -2.5),)).csv().partition("\n")[2]
    assert line.lstrip('"').startswith("'" + text[0]) and line.endswith(",-2.5\n")


def test_bars_and_lines_show_names_as_they_are() -> None:
    for kind, terminal in ((Bar, True), (Lines, False)):
        heard = io.StringIO()
        with kind(3, HOSTILE, console=Console(file=heard, force_terminal=terminal, width=200)) as bar:
            bar.note(HOSTILE)
            bar.update(1, **{HOSTILE: 1.0})
            list(bar.track([1, 2], 2, HOSTILE))
        assert "]0;pwned" in heard.getvalue() and "[/b][red]" in heard.getvalue()
        assert not STEERS - {"\x1b"} & set(heard.getvalue()) and "\x1b]" not in heard.getvalue()


def test_json_keeps_its_meaning_and_colours_may_stay() -> None:
    heard = io.StringIO()
    CleanStream(heard).write(json.dumps({HOSTILE: HOSTILE}, ensure_ascii=False))
    assert json.loads(heard.getvalue()) == {HOSTILE: HOSTILE} and not STEERS & set(heard.getvalue())
    coloured = io.StringIO()
    CleanStream(coloured, colours=True).write("\x1b[1mbold\x1b[0m\x1b[2J")
    assert coloured.getvalue() == "\x1b[1mbold\x1b[0m\\u001b[2J"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of images whose classes have hostile names, and a run trained on it in a folder called [red]run."""
    root = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(0)
    lines = ["path,label"]
    for number in range(24):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(root / f"={number}.png")
        label = [HOSTILE.replace("\r", ""), "=cmd|' /C calc'!A0"][number % 2]
        lines.append(f'={number}.png,"{label}"')
    (root / "list.csv").write_text("\n".join(lines), "utf-8")
    model = ViTConfig(width=16, depth=1, heads=1, mlp_width=16, patch=(8, 8), image=(16, 16))
    run = Run(
        data=str(root / "list.csv"), model=model, preprocess=Preprocess(size=(16, 16)), batch_size=8, length="2 steps",
        hardware=Hardware(workers=0),
    )  # fmt: skip
    train(run, out=root / "[red]run", quiet=True)
    return root


@pytest.mark.parametrize(
    "command",
    [
        "train {list} --out {root}/new --length x",
        "train {list} --out {run}",
        "evaluate {run} {list} --split test",
        "evaluate {run} {list} --split test --json",
        "evaluate {run} {list} --split test --csv",
        "evaluate {run} {root}/\x1b[2J\u202egone",
        "predict {run} {root}/=1.png",
        "predict {run} {root}/=1.png --csv",
        "predict {run} {root}/=1.png --json",
        "predict {root}/\x9b31m {root}/=1.png",
        "data check {list}",
        "data check {list} --json",
        "data pack {list} --out {root}/[b]packed",
        "probe {run} {list} --protocols nearest-mean",
        "embed {run} {list} --out {root}/features.safetensors",
        "weights show {run}",
        "weights show {root}/\u202e.pth",
        "robustness {run} {list} --corruptions brightness",
        "compare {run} {run} {list}",
        "run verify {run}",
        "inspect {run} {root}/=1.png --out {root}/page.html",
        "plan {list}",
        "suite {root}/\x1b.toml",
        "\x1b[2J\x07",
        "train --\u202e",
    ],
)
def test_no_command_lets_a_name_steer_the_terminal(command: str, hostile: Path, capsys) -> None:
    places = {"{root}": str(hostile), "{run}": str(hostile / "[red]run"), "{list}": str(hostile / "list.csv")}
    words = command.split(" ")
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    code = None
    try:
        code = main(words)
    except SystemExit as exit_:
        code = exit_.code
    said = capsys.readouterr()
    assert code != 70, said.err
    assert not STEERS & set(said.out + said.err)
    if "--json" in words and code == 0:
        assert "pwned" in json.dumps(json.loads(said.out))


def test_what_is_logged_and_a_traceback_are_clean(tmp_path: Path) -> None:
    program = "import sys; from vitrail.cli import main; sys.exit(main(['--debug', 'evaluate', sys.argv[1], 'digits']))"
    said = subprocess.run(
        [sys.executable, "-c", program, "no\x1b[2J\u202e"], capture_output=True, text=True, check=False
    )
    assert "Traceback" in said.stderr and not STEERS & set(said.stderr)
