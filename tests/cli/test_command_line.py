"""The command line's frame: fast help, errors as one paragraph with their exit code, no traceback unless asked for."""

import ast
import importlib.resources
import json
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vitrail
from vitrail import cli, errors
from vitrail.api.words import PEERS, SHORT
from vitrail.cli import COMMANDS, main, name_options
from vitrail.cli.arguments import squared
from vitrail.cli.study import STUDIES


def fresh(*code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *code], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("a --size 64 b", "a --size 64 64 b"),
        ("--size=64", "--size 64 64"),
        ("--size 64x48 a", "--size 64 48 a"),
        ("--size 64 48", "--size 64 48"),
        ("--size", "--size"),
        ("--size abc 64", "--size abc 64"),
        ("--top 64", "--top 64"),
    ],
)
def test_one_number_is_a_square(words: str, found: str) -> None:
    assert " ".join(squared(words.split(), "--size")) == found


def test_help_answers_without_torch() -> None:
    script = "import sys, vitrail.cli; code = vitrail.cli.main(['--help']); print(code, sorted(sys.modules))"
    answer = fresh("-c", script)
    assert answer.returncode == 0, answer.stderr
    assert "commands:" in answer.stdout
    heavy = {"torch", "numpy", "PIL", "torchvision", "tyro", "rich", "pydantic"}
    assert not heavy & set(answer.stdout.rsplit("[", 1)[1].replace("'", "").rstrip("]\n").split(", "))


def test_help_is_quick() -> None:
    """0.2 s is the promise, counted in processor time: a busy neighbour is not the command's doing."""

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        fresh("-m", "vitrail", "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    assert min(once() for _ in range(5)) < 0.2


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert "examples:" in said
    assert f"vitrail {command} " in said.split("examples:")[1]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("vitrail 0.")


def test_unknown_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 78
    said = capsys.readouterr().err
    assert "did you mean 'train'?" in said
    assert "Traceback" not in said


NEEDED = {
    "compare": ["run", "run", "data"],
    "embed": ["run", "data", "--out", "f.safetensors"],
    "evaluate": ["run", "data"],
    "export": ["run"],
    "inspect": ["run"],
    "look": ["run", "photo"],
    "predict": ["run", "file"],
    "probe": ["run"],
    "push": ["folder", "owner/name"],
    "robustness": ["run", "data"],
    "run": ["verify", "run"],
    "similar": ["f.safetensors"],
    "suite": ["suite.toml"],
    "trace": ["image"],
    "tune": ["run"],
}
"""Words without which a command says that they are missing, and no more."""


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_option_exits_2(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    group = {"data": ["check", "d"], "weights": ["show", "f"], "study": ["pretraining", "d"]}
    assert main([command, *group.get(command, NEEDED.get(command, [])), "--surely-not-an-option"]) == 2
    assert "surely-not-an-option" in capsys.readouterr().err


GROUPS = {
    "data": ("check", "pack", "show", "clean"),
    "weights": ("show", "convert", "check"),
    "study": tuple(STUDIES),
    "run": ("verify", "export"),
}
LIGHT = [[name] for name in COMMANDS] + [[group, one] for group, names in GROUPS.items() for one in names]
"""Commands whose help imports no torch."""


def test_help_of_a_command_answers_without_torch() -> None:
    script = f"import sys\nfrom vitrail.cli import main\nfor words in {LIGHT!r}:\n"
    script += "  print('answer', words, main([*words, '--help']), 'torch' in sys.modules)"
    answer = fresh("-c", script)
    answers = [line for line in answer.stdout.splitlines() if line.startswith("answer ")]
    assert answers == [f"answer {words} 0 False" for words in LIGHT], answer.stderr


def test_the_table_of_models_is_what_is_counted(sweep: int) -> None:
    """The stored counts, made without torch, against the models themselves: every tenth, all under `make deep`."""
    from vitrail.models import cost, zoo
    from vitrail.recipes.request import fit_side

    stored = json.loads(importlib.resources.files("vitrail.models").joinpath("counts.json").read_text("utf-8"))
    assert list(stored) == list(zoo.list_models())
    for name, (family, parameters, gmacs) in list(stored.items())[:: 10 // sweep]:
        config = zoo.config(name)
        side = fit_side(224, config)
        config = zoo.config(name, image=(side, side), classes=1000)
        assert (family, parameters) == (config.family, cost.count_parameters(config)), name
        assert gmacs == round(cost.macs(config) / 1e9, 4), name


OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9]")
NOT_OURS = {"--nproc-per-node", "--help", "--help-all", "--debug", "--version", "--option", "--series"}
"""Of torchrun, of every command, an example of a docstring, and a colour in a style sheet."""


def sentences() -> Iterator[tuple[str, str]]:
    """(file, text) of every string in the package; what an f-string fills in is left out."""
    for path in Path(vitrail.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path.name, node.value


def advice() -> Iterator[tuple[str, str]]:
    """(file, text) of every `next_step` of the library."""
    for path in Path(vitrail.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "next_step" and path.parent.name != "cli":
                yield path.name, "".join(part.value for part in ast.walk(node.value) if is_text(part))


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_the_library_speaks_python() -> None:
    """It names parameters, and the command line writes them as its options."""
    assert not [(name, text) for name, text in advice() if OPTION.search(text) and "`vitrail " not in text]
    said = "try `batch=32`, `layer=(1, 2)`, `resume='a b'`, `override=True` or another `optim.weight_decay`"
    assert name_options(said) == (
        "try --batch 32, --layer 1 2, --resume 'a b', --override or another --optim.weight-decay"
    )
    assert (
        name_options("`vitrail models` lists lines of `path label`") == "`vitrail models` lists lines of `path label`"
    )


def test_every_option_and_command_that_a_text_names_exists(capsys: pytest.CaptureFixture[str]) -> None:
    """Errors, advice, help and docstrings: F1 of the critique was advice to type `--download`, which no command had."""
    groups = [[group, one] for group, names in GROUPS.items() for one in names]
    distilled = ["train", "digits", "--recipe", "distill_small"]
    for words in [*([name] for name in COMMANDS if name not in GROUPS), *groups, distilled]:
        assert main([*words, "--help-all"]) == 0, words
    known = set(OPTION.findall(capsys.readouterr().out)) | {f"--{short}" for short in SHORT} | NOT_OURS
    known |= {option.replace("--", "--no-") for option in known} | {"--csv", "--json"}
    wrong = [(name, option) for name, text in sentences() for option in OPTION.findall(text) if option not in known]
    assert not wrong
    assert {f"--{ours.replace('_', '-')}" for ours in PEERS.values() if " " not in ours} <= known
    main(["train", "digits", "--help-all"])
    assert not {f"--{theirs.replace('_', '-')}" for theirs in PEERS} & set(OPTION.findall(capsys.readouterr().out))
    parameters = [(name, option) for name, text in advice() for option in OPTION.findall(name_options(text))]
    assert parameters and not [pair for pair in parameters if pair[1] not in known]
    commands = [(name, one) for name, text in sentences() for one in re.findall(r"`vitrail ([a-z][a-z-]*)", text)]
    assert commands and not [pair for pair in commands if pair[1] not in COMMANDS]


CODES = {
    errors.ConfigError: 78,
    errors.ShapeError: 78,
    errors.DataError: 65,
    errors.DecodeError: 65,
    errors.WeightsError: 65,
    errors.StorageError: 74,
    errors.CheckpointError: 74,
    errors.NonFiniteError: 70,
    errors.Preempted: 143,
}


@pytest.mark.parametrize("kind", CODES)
def test_an_error_is_a_paragraph_and_its_exit_code(kind, monkeypatch, capsys) -> None:
    def fails(words):
        raise kind("found this", allowed="that", next_step="do so")

    monkeypatch.setattr(cli, "main_of", lambda name: fails)
    assert main(["train"]) == CODES[kind]
    assert capsys.readouterr().err == "error: found this; allowed: that; do so\n"


def test_a_bug_says_how_to_see_more(monkeypatch, capsys) -> None:
    def fails(words):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(cli, "main_of", lambda name: fails)
    assert main(["train"]) == 70
    said = capsys.readouterr().err
    assert said.startswith("internal error (RuntimeError: no such luck)")
    assert "--debug" in said
    with pytest.raises(RuntimeError, match="no such luck"):
        main(["train", "--debug"])


def test_ctrl_c_is_one_line(monkeypatch, capsys) -> None:
    def interrupted(words):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main_of", lambda name: interrupted)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = "import vitrail.cli as c; c.overview = lambda: 'a line\\n' * 100000; raise SystemExit(c.main([]))"
    script = f'{sys.executable} -c "{code}" | head -1; echo ${{PIPESTATUS[0]}}'
    answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert answer.stdout == "a line\n141\n"
    assert answer.stderr == ""


def test_a_reader_that_leaves_a_table_is_no_error() -> None:
    """rich ends the process itself when its pipe breaks, with another code."""
    script = f"{sys.executable} -m vitrail recipes | true; echo ${{PIPESTATUS[0]}}"
    answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert (answer.stdout, answer.stderr) == ("141\n", "")


@pytest.mark.parametrize("command", ["evaluate", "inspect", "look", "export", "tune", "predict"])
def test_size_takes_one_number_or_two(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the one number was not understood, tyro would say so and exit with 2, before any file is looked at."""
    for size in ("32", "32x16", "32 16"):
        assert main([command, "nowhere", "nowhere.png", "--size", *size.split()]) != 2, capsys.readouterr().err


def test_an_option_of_another_toolkit_is_answered_before_torch_is_imported() -> None:
    said = "import sys; from vitrail.cli import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    done = fresh("-c", said, "train", "photos", "--imgsz=64", "--num-classes", "3")
    assert done.stdout.split() == ["2", "False"]
    assert done.stderr.splitlines() == ["--imgsz is --size here", "--num-classes: classes are counted from the images"]
