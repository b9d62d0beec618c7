"""One tree of errors: every exception class of the package is in it, and its drawing is true."""

import importlib
import inspect
import pickle
import pkgutil
import re

import pytest

import vitrail
from vitrail import errors
from vitrail.errors import ConfigError, MemoryRanOut, StorageError, VitrailError, recognise_error

CONTROL_FLOW = {"Interrupted", "Stopped", "Problem", "Gone", "_Died"}
"""Caught inside the package, and never shown: a `Problem` becomes an HTTP answer."""
OPTIONAL = {"vitrail.__main__"}


def exceptions() -> dict[str, type[BaseException]]:
    """Every exception class that a module of the package defines."""
    found = {}
    for info in pkgutil.walk_packages(vitrail.__path__, "vitrail."):
        if info.name in OPTIONAL:
            continue
        try:
            module = importlib.import_module(info.name)
        except ModuleNotFoundError as error:  # an extra that is not installed
            assert error.name and not error.name.startswith("vitrail"), error
            continue
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, BaseException) and kind.__module__.startswith("vitrail"):
                found[name] = kind
    return found


def test_every_exception_of_the_package_is_in_the_tree() -> None:
    found = exceptions()
    outside = {name for name, kind in found.items() if not issubclass(kind, VitrailError)}
    assert outside <= CONTROL_FLOW  # those of the server are met where its extra is installed
    assert {kind.__module__ for name, kind in found.items() if name not in CONTROL_FLOW} == {"vitrail.errors"}


def test_the_drawing_shows_every_class_with_its_parent_and_exit_code() -> None:
    drawn, above = {}, {}
    for line in re.findall(r"^.*exit \d+ .*$", errors.__doc__ or "", re.M):
        depth = (len(line) - len(line.lstrip("│├└─ "))) // 4
        name, code = re.findall(r"(\w+) +exit (\d+)", line)[0]
        above[depth] = name
        drawn[name] = (above.get(depth - 1), int(code))
    kinds = {name: kind for name, kind in exceptions().items() if name not in CONTROL_FLOW}
    real = {name: (parent(kind), kind.exit_code) for name, kind in kinds.items()}
    assert drawn == real


def parent(kind: type[VitrailError]) -> str | None:
    return next((base.__name__ for base in kind.__bases__ if issubclass(base, VitrailError)), None)


@pytest.mark.parametrize("kind", [kind for name, kind in exceptions().items() if name not in CONTROL_FLOW])
def test_an_error_keeps_its_three_parts_between_processes(kind: type[VitrailError]) -> None:
    error = kind("found", allowed="this", next_step="do that")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and str(again) == str(error) == "found; allowed: this; do that"


def test_the_nearest_name_stands_before_a_long_list() -> None:
    assert (
        str(ConfigError("found", allowed="a, b", next_step="did you mean 'a'?"))
        == "found; did you mean 'a'?; allowed: a, b"
    )


@pytest.mark.parametrize(
    ("error", "kind"),
    [(MemoryError(), MemoryRanOut), (OSError(28, "No space left on device", "x"), StorageError), (ValueError(), None)],
)
def test_what_is_recognised(error: Exception, kind: type | None) -> None:
    known = recognise_error(error, "testing", "ask for less")
    assert known is None if kind is None else isinstance(known, kind)
