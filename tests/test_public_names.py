"""The public names: sorted, each where it says, none imported before it is used, and known to type checkers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vitrail


def test_sorted_and_about_thirty() -> None:
    order = sorted(vitrail.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert vitrail.__all__ == order
    assert 25 <= len(vitrail.__all__) <= 40


@pytest.mark.parametrize("name", vitrail.__all__)
def test_every_name_is_there(name: str) -> None:
    found = getattr(vitrail, name)
    assert getattr(found, "__name__", name) == name
    assert getattr(found, "__module__", "vitrail").startswith("vitrail")
    assert found.__doc__, f"{name} has no docstring"


def test_the_three_lists_agree() -> None:
    """`__all__`, the table of homes, and the imports that type checkers read."""
    tree = ast.parse(Path(vitrail.__file__).read_text("utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name: node.module.removeprefix("vitrail.")
        for node in guarded.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    assert typed == vitrail._HOMES
    assert sorted(typed) == sorted(vitrail.__all__)


def test_importing_costs_nothing() -> None:
    script = "import sys, vitrail; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'vti'"):
        vitrail.vti  # noqa: B018
