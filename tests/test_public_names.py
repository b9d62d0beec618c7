"""The public names: each where the table says, none imported before it is used, and known to type checkers."""

import ast
import importlib
import inspect
import subprocess
import sys
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import pytest

import vitrail

COMMANDS = [
    "compare",
    "embed",
    "evaluate",
    "inspect",
    "look",
    "plan",
    "predict",
    "probe",
    "robustness",
    "serve",
    "similar",
    "trace",
    "train",
]


def test_every_command_has_its_function() -> None:
    assert set(COMMANDS) <= set(vitrail.__all__)


@pytest.mark.parametrize(
    "command", ["compare", "embed", "evaluate", "inspect", "predict", "probe", "robustness", "serve", "train"]
)
def test_a_command_and_its_function_have_the_same_defaults(command: str) -> None:
    """An option of the same name has the same value where it is not typed; an empty one stands for None."""
    module = importlib.import_module(f"vitrail.cli.{command}")
    kind = next(
        one for one in vars(module).values() if getattr(one, "__module__", "") == module.__name__ and is_dataclass(one)
    )
    typed = {part.name: part.default for part in fields(kind) if part.default is not MISSING}
    called = inspect.signature(getattr(vitrail, command)).parameters
    both = typed.keys() & called.keys() - {"data", "protocols", "corruptions"}  # names with commas between
    assert len(both) > 3
    assert {name: typed[name] for name in both} == {name: called[name].default for name in both}


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
