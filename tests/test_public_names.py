"""The public names: each where the table says, none imported before it is used, and known to type checkers."""

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import pytest

import vitrail
from vitrail import cli

OTHERWISE = {"models": "list_models", "recipes": "RECIPES", "study": "study"}
"""Functions, tables and packages that have another name than their command."""
GROUPS = {
    "data": {"check": "Check", "clean": "Clean", "pack": "Pack", "show": ""},
    "run": {"verify": "Verify", "export": "Export"},
    "weights": {"show": "ShowFile", "convert": "Convert", "check": "Check"},
}
"""Commands within a command and their options; `data check` is `check_data`."""
PLAIN = [name for name in cli.COMMANDS if name not in GROUPS and name not in OTHERWISE]
SAME = [name for name in PLAIN if name not in ("export", "look", "name", "plan", "push", "similar", "trace", "tune")]


def test_every_command_has_its_function() -> None:
    within = {f"{verb}_{group}" for group, verbs in GROUPS.items() for verb in verbs}
    assert {*PLAIN, *OTHERWISE.values(), *within} <= {*vitrail.__all__, *vitrail._PACKAGES}


def same_defaults(kind: type, function: Callable) -> int:
    """How many options have the name of a parameter; each has its default. An empty one stands for None."""
    typed = {part.name: part.default for part in fields(kind) if part.default is not MISSING}
    called = inspect.signature(function).parameters
    both = typed.keys() & called.keys() - {"data", "protocols", "corruptions"}  # names with commas between
    assert {name: typed[name] or None for name in both} == {name: called[name].default or None for name in both}
    return len(both)


@pytest.mark.parametrize("command", SAME)
def test_a_command_and_its_function_have_the_same_defaults(command: str) -> None:
    module = importlib.import_module(f"vitrail.cli.{command}")
    kind = next(
        one for one in vars(module).values() if getattr(one, "__module__", "") == module.__name__ and is_dataclass(one)
    )
    assert same_defaults(kind, getattr(vitrail, command)) > 3


@pytest.mark.parametrize(("group", "verb"), [(group, verb) for group, verbs in GROUPS.items() for verb in verbs])
def test_a_command_within_a_command_has_the_same_defaults_too(group: str, verb: str) -> None:
    if kind := GROUPS[group][verb]:
        module = importlib.import_module(f"vitrail.cli.{group}")
        same_defaults(getattr(module, kind), getattr(vitrail, f"{verb}_{group}"))


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
