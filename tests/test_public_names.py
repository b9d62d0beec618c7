"""The public names: each where the table says, none imported before it is used, and known to type checkers."""

import ast
import inspect
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import vitrail
from vitrail import cli
from vitrail.cli.options import options_of

OTHERWISE = {"models": "list_models", "recipes": "RECIPES", "study": "study"}
"""Functions, tables and packages that have another name than their command."""
GROUPS = {
    "data": ("check", "clean", "pack", "show"),
    "run": ("verify", "export"),
    "weights": ("show", "convert", "check"),
}
"""Commands within a command; `data check` is `check_data`."""
PLAIN = [name for name in cli.COMMANDS if name not in GROUPS and name not in OTHERWISE]
OWN = {"plan", "train", "show_data", "trace"}
"""Functions whose commands have options of their own."""
SAME = sorted({*PLAIN, *(f"{verb}_{group}" for group, verbs in GROUPS.items() for verb in verbs)} - OWN)


def test_every_command_has_its_function() -> None:
    within = {f"{verb}_{group}" for group, verbs in GROUPS.items() for verb in verbs}
    assert {*PLAIN, *OTHERWISE.values(), *within} <= {*vitrail.__all__, *vitrail._PACKAGES}


@pytest.mark.parametrize("name", SAME)
def test_the_options_that_are_read_from_a_function_are_its_parameters(name: str) -> None:
    """Read as text, they are those of the imported function, in its order, with its defaults, and each has its help."""
    function = inspect.signature(getattr(vitrail, name)).parameters
    odd = {part: None for part, one in function.items() if one.annotation is inspect.Parameter.empty or part == "say"}
    kind = options_of(name, "about", of=str, features=str, **odd)
    options = {part.name: part.default for part in fields(kind)}
    assert options == {
        part: MISSING if one.default is one.empty else one.default for part, one in function.items() if part not in odd
    }
    helped = [tyro_help(hint) for hint in get_type_hints(kind, include_extras=True).values()]
    assert None not in helped


def tyro_help(hint: Any) -> str | None:
    return next((note.help for note in get_args(hint) if hasattr(note, "help")), None)


@pytest.mark.parametrize("name", vitrail.__all__)
def test_every_name_is_there(name: str) -> None:
    found = getattr(vitrail, name)
    assert getattr(found, "__name__", name) == name
    assert getattr(found, "__module__", "vitrail").startswith("vitrail")
    assert found.__doc__, f"{name} has no docstring"


@pytest.mark.parametrize("name", vitrail._PACKAGES)
def test_every_package_is_there(name: str) -> None:
    assert getattr(vitrail, name).__name__ == f"vitrail.{name}"


def test_type_checkers_read_the_same_table() -> None:
    tree = ast.parse(Path(vitrail.__file__).with_suffix(".pyi").read_text("utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    typed = {alias.asname: node.module.removeprefix("vitrail.") for node in imports for alias in node.names}
    packages = {name for name, module in typed.items() if module == "vitrail"}
    assert {name: module for name, module in typed.items() if module != "vitrail"} == vitrail._HOMES
    assert packages == set(vitrail._PACKAGES)


def test_names_of_the_docstring_exist() -> None:
    assert vitrail.__doc__
    for line in vitrail.__doc__.splitlines():
        for word in [word for word in line.replace("(", " ").replace("`", " ").split() if word.startswith("vitrail.")]:
            name = word.removeprefix("vitrail.").rstrip(",")
            assert not name or hasattr(vitrail, name), word


def test_importing_costs_nothing() -> None:
    script = "import sys, vitrail; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


def test_an_unknown_name_is_an_attribute_error_with_the_nearest() -> None:
    with pytest.raises(AttributeError, match="no attribute 'vti'"):
        vitrail.vti  # noqa: B018
    with pytest.raises(AttributeError, match="did you mean 'predict'"):
        vitrail.predcit  # noqa: B018


def test_the_version_is_the_package_s() -> None:
    from importlib.metadata import version

    assert vitrail.__version__ == version("vitrail")
