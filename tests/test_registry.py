"""Open tables: what this package puts in, what a plug-in adds, what is refused."""

import sys
from pathlib import Path

import pytest

from vitrail import registry
from vitrail.errors import ConfigError
from vitrail.registry import Registry


def test_a_mapping_of_what_was_given_and_registered():
    table = Registry[int]("number", {"one": 1})
    assert table.register("two", 2) == 2
    assert dict(table) == {"one": 1, "two": 2}
    assert table.get("three") is None and "three" not in table
    assert len(table) == 2


def test_as_a_decorator_it_leaves_the_function_as_it_is():
    table = Registry("shape")

    @table.register("square")
    def area(side: int) -> int:
        return side * side

    assert table["square"] is area


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    table = Registry("model family", {"hybrid": 1, "resnet": 2})
    with pytest.raises(
        ConfigError, match=r"no model family is called 'resnett'; .*'resnet'.*; allowed: hybrid, resnet"
    ):
        table["resnett"]


def test_a_second_value_is_refused_the_same_one_is_not():
    table = Registry("number", {"one": 1})
    table.register("one", 1)
    with pytest.raises(ConfigError, match="a second number called 'one'"):
        table.register("one", 2)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Installs a distribution `panes` with one entry point, whose module has this text."""

    def install(text: str, point: str = "panes_plugin:add") -> None:
        (tmp_path / "panes_plugin.py").write_text(text)
        about = tmp_path / "panes-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: panes\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[vitrail.plugins]\npanes = {point}\n")

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_loaded", set())
    yield install
    sys.modules.pop("panes_plugin", None)


ADDS = """
from vitrail import registry
calls = []
def add():
    calls.append(1)
    assert "circle" not in registry.TABLE  # a look-up while it loads
    registry.TABLE.register("oval", 3)
"""


@pytest.mark.parametrize("point", ["panes_plugin:add", "panes_plugin"])
def test_the_first_unknown_name_loads_plugins_once(plugin, monkeypatch: pytest.MonkeyPatch, point: str):
    table = Registry[int]("shape")
    monkeypatch.setattr(registry, "TABLE", table, raising=False)
    plugin(ADDS if ":" in point else f"{ADDS}\nadd()", point)
    assert table["oval"] == 3
    assert "triangle" not in table
    assert sys.modules["panes_plugin"].calls == [1]


def test_a_plugin_that_fails_is_named(plugin):
    plugin("def add(): raise RuntimeError('no glass')")
    with pytest.raises(ConfigError, match=r"'panes' \(panes_plugin:add\) failed: RuntimeError: no glass; update or"):
        Registry("shape")["oval"]
