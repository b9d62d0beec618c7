"""Arguments of the door's functions, checked against their annotations: a wrong kind is an error in words, not one deep inside.

Numbers, words, truth values, paths and collections of them are checked; models, images and the like are their function's
business. numpy's numbers are numbers, and a torch.device is its name. The words that several functions take stand here too,
where the command line finds them without torch.
"""

import functools
import inspect
import numbers
import os
import sys
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from vitrail.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")

Precision = Literal["auto", "fp32", "bf16"]
Split = Literal["auto", "train", "val", "test", "all"]
"""Part of a data set."""
Views = Literal["one", "flip", "five", "ten"]
"""Views of an image that are averaged."""
EngineName = Literal["auto", "torch", "onnxruntime", "openvino"]
Pool = Literal["auto", "cls", "mean", "cls+mean"]
"""Features of a block."""
Say = Callable[[str], object]
"""Hears sentences about the work."""

_KINDS: dict[Any, tuple[Any, str]] = {
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str, "a word"),
    bool: (bool, "True or False"),
    Path: (os.PathLike, "a path"),
    types.NoneType: (types.NoneType, "None"),
}


_LISTS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@functools.cache
def check_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """The function; a plain argument of another kind than its annotation raises ConfigError before it is called."""
    signature = inspect.signature(function)
    hints = {name: hint for name, hint in get_type_hints(function).items() if name in signature.parameters}
    hints = {name: hint for name, hint in hints.items() if signature.parameters[name].kind not in _LISTS}

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        bound.arguments.update({name: name_device(value) for name, value in bound.arguments.items()})
        check_values(bound.arguments, hints)
        return function(*bound.args, **bound.kwargs)

    return checked


def name_device(value: Any) -> Any:
    """The name of a torch.device; any other value as it is. Torch is not imported for it."""
    torch = sys.modules.get("torch")
    return str(value) if torch and isinstance(value, torch.device) else value


def check_values(values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Raises ConfigError for a value of another kind than its name's."""
    for name, value in values.items():
        if name in hints and not fits(value, hints[name]):
            raise ConfigError(f"{name} = {str(value)[:80]!r}, a {type(value).__name__}", allowed=describe(hints[name]))


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a plain kind; any value is of another."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, str | int) and value in parts
    if origin in (tuple, Sequence):
        return _is_collection(
            value, [part for part in parts if part is not ...], fixed=origin is tuple and ... not in parts
        )
    if kind in (int, float) and isinstance(value, bool):
        return False
    return kind not in _KINDS or isinstance(value, _KINDS[kind][0])


def _is_collection(value: Any, parts: list[Any], *, fixed: bool) -> bool:
    if not isinstance(value, Collection) or isinstance(value, str | bytes):
        return False
    if not fixed:
        return all(fits(one, parts[0]) for one in value)
    return len(value) == len(parts) and all(map(fits, value, parts))


def describe(kind: Any) -> str:
    """A kind in words."""
    origin, parts = get_origin(kind), [part for part in get_args(kind) if part is not ...]
    if origin is Literal:
        return ", ".join(map(repr, parts))
    if origin in (Union, types.UnionType):
        return " or ".join(map(describe, parts))
    if origin in (tuple, Sequence):
        return f"several, each {describe(parts[0])}"
    return _KINDS[kind][1] if kind in _KINDS else getattr(kind, "__name__", str(kind))
