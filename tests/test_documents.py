"""The documents tell the truth: links lead somewhere, commands and options exist, the Python examples run."""

import gc
import pkgutil
import re
import shlex
from pathlib import Path

import pytest
import tyro

from vitrail import cli
from vitrail.cli import COMMANDS, main
from vitrail.config import sealed_json
from vitrail.errors import ConfigError
from vitrail.registry import Registry
from vitrail.storage import write_whole
from vitrail.training.run import Run

pytestmark = pytest.mark.flow

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)#]+)(?:#[^)]*)?\)")
DOTTED = re.compile(r"\bvitrail(?:\.[a-zA-Z_]\w*)+")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    found = ((path, match) for path in DOCUMENTS for match in BLOCK.finditer(path.read_text("utf-8")))
    return [(str(path.relative_to(ROOT)), match[2]) for path, match in found if match[1] == language]


def commands() -> list[tuple[str, str]]:
    lines = [(where, line.split("#")[0].strip()) for where, block in blocks("sh") for line in block.splitlines()]
    return [(where, line) for where, line in lines if line.startswith("vitrail ")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    targets = [match[1] for match in LINK.finditer(BLOCK.sub("", path.read_text("utf-8")))]
    missing = [target for target in targets if "://" not in target and not (path.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("path", [one for one in DOCUMENTS if one.name != "log.md"], ids=lambda path: path.name)
def test_modules_and_functions_exist(path: Path) -> None:
    for name in set(DOTTED.findall(path.read_text("utf-8"))) - {"vitrail.plugins"}:  # an entry point
        pkgutil.resolve_name(name)


@pytest.mark.parametrize(("where", "line"), commands(), ids=lambda value: str(value))
def test_commands_and_their_options_exist(where: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line)[1:]
    assert words[0] in COMMANDS, f"{where}: {line}"
    of_two_words = words[0] in ("data", "study", "weights")
    command = tuple(words[: 1 + of_two_words])
    if command not in HELP:
        assert all(main([*command, help_]) == 0 for help_ in ("--help", "--help-all"))
        HELP[command] = capsys.readouterr().out
    known = HELP[command]
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    assert all(option in known for option in options if option != "--help"), f"{where}: {line}"


HELP: dict[tuple[str, ...], str] = {}
"""The answer of a command, asked once."""


class Parsed(BaseException):
    """Every option of a command is known and has a value it may have."""


@pytest.mark.parametrize(("where", "line"), commands(), ids=lambda value: str(value))
def test_commands_parse(where: str, line: str, in_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Each word by the command's own reading. A file that is not here may stop it before, and nothing else."""
    if "--like" in line:
        write_whole(in_folder / "runs/photos-1/run.json", sealed_json(Run(data="digits")))
    read = tyro.cli

    def read_and_stop(*words, **options):
        read(*words, **options)
        raise Parsed

    monkeypatch.setattr(tyro, "cli", read_and_stop)
    try:
        code = main(shlex.split(line)[1:])
    except Parsed:
        return
    said = capsys.readouterr().err
    assert code not in (0, 2, ConfigError.exit_code) and re.search("there is nothing at|runs/|is not there", said), said


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes an example's rows out of the open tables afterwards."""
    for table in [one for one in gc.get_objects() if type(one) is Registry]:
        monkeypatch.setattr(table, "_values", dict(table._values))
    monkeypatch.setattr(cli, "COMMANDS", dict(COMMANDS))


@pytest.mark.usefixtures("tables", "in_folder")
@pytest.mark.parametrize(("where", "code"), [one for one in blocks("python") if "runs/" not in one[1]], ids=str)
def test_python_examples_run(where: str, code: str) -> None:
    exec(compile(code, where, "exec"), {})
