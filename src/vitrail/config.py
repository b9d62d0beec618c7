"""Frozen dataclasses to JSON and back, and the one reader of JSON. An unknown key stops with a suggestion; nothing is guessed.

`parse_json` and `read_object` take any JSON that a stranger wrote: size, depth and numbers are bounded. `read_json` reads
a config; `sealed_json` writes one with a digest of itself, and a changed bit is seen.

This is the only module that knows pydantic. A config stands next to the class that it configures. Its `__post_init__`
may check values, and never assigns any.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import tomllib
import types
from collections.abc import Callable, Generator, Iterable, Mapping
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from vitrail.errors import ConfigError, VitrailError, suggest
from vitrail.registry import OpenConfig
from vitrail.storage import read_regular

T = TypeVar("T")

LARGEST, DEEPEST = 64 << 20, 64
"""Bytes of the largest JSON file that is read, and brackets inside of each other."""
LARGEST_TEXT = 1 << 20
"""Bytes of the largest file that a person writes, such as a suite."""
SEAL = "seal"
"""The first key of a sealed file: a sha256 over all others."""

Range = tuple[Callable[[float], bool], str]
"""Whether a number may be, and in words which ones may."""
COUNT: Range = (lambda number: number >= 1, "1 or more")
ABOVE_ZERO: Range = (lambda number: 0 < number < math.inf, "a number above 0")
NOT_NEGATIVE: Range = (lambda number: 0 <= number < math.inf, "0 or more")
SEED: Range = (lambda number: 0 <= number < 1 << 63, "0 or more, below 2^63")
SHARE: Range = (lambda number: 0 <= number < 1, "0 or more, and below 1")
PROBABILITY: Range = (lambda number: 0 <= number <= 1, "0 to 1")


def check_ranges(config: Any, **ranges: Range) -> None:
    """Raises ConfigError for a number outside its range; None, which is "not given", passes, NaN does not."""
    for name, (holds, allowed) in ranges.items():
        value = getattr(config, name)
        if any(not holds(number) for number in (value if isinstance(value, tuple) else (value,)) if number is not None):
            raise ConfigError(f"{name} = {value}", allowed=allowed)


@cache
def _adapter(kind: Any) -> Any:  # a TypeAdapter, which the runtime type checker of the tests cannot read
    return TypeAdapter(kind)


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain JSON values: dicts, lists, strings, numbers."""
    return json.loads(json.dumps(_plain(config)))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        family = {"family": value.family} if isinstance(value, OpenConfig) else {}
        return family | {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def from_dict(kind: type[T], data: Any, *, where: str = "config") -> T:
    """A `kind` (a dataclass, or the base or union of several told apart by `family`) out of plain JSON values.

    Raises ConfigError that names every wrong key with its path, what was found and the nearest known key.
    """
    problems: list[str] = []
    made = _resolve(kind, data, "", problems)
    if not problems:
        made = _validate(kind, made, "", problems)
    if problems:
        raise ConfigError(f"{where}: " + ", ".join(problems), next_step="mend the named keys")
    return made


def with_changes(config: T, changes: Mapping[str, Any], *, where: str = "config") -> T:
    """The config with some values changed, by dotted name; a dict or a config changes a part.

        with_changes(run, {"optim.lr": 5e-4, "batch_size": 64})

    Raises ConfigError for a name that is not there, with the nearest, and for a value that cannot be.
    """
    tree = to_dict(config)
    for name, value in changes.items():
        *path, last = name.split(".")
        part = tree
        for key in path:
            part = part.setdefault(key, {})
        if dataclasses.is_dataclass(value):
            part[last] = to_dict(value)
        else:
            part[last] = {**(part.get(last) or {}), **value} if isinstance(value, Mapping) else value
    return from_dict(type(config), tree, where=where)


def parse_json(content: bytes | str) -> Any:
    """JSON that anyone may have written.

    ValueError for text that is not UTF-8, more than 64 brackets inside of each other, a name twice in one object, a
    number that is not finite, and a whole number of more than 64 bits.
    """
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        data = json.loads(
            text, object_pairs_hook=_each_once, parse_int=_whole, parse_float=_finite, parse_constant=_finite
        )
    except RecursionError:
        raise ValueError("too many brackets inside of each other") from None
    level = _containers([data])
    for _ in range(DEEPEST):
        level = [part for node in level for part in _containers(node.values() if isinstance(node, dict) else node)]
    if level:
        raise ValueError(f"more than {DEEPEST} brackets inside of each other")
    if "\\ud" in text or "\\uD" in text:  # half of a character, which no file can hold
        json.dumps(data, ensure_ascii=False).encode()
    return data


def _containers(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if isinstance(value, dict | list)]


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _whole(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) >= 1 << 64:
        raise ValueError(f"the number {digits[:30]} has more than 64 bits")
    return int(digits)


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise ValueError(f"the number {number[:30]} is not finite")
    return float(number)


def read_object(path: Path, error: type[VitrailError] = ConfigError) -> dict[str, Any]:
    """The object in a JSON file; `error` for a file that cannot be read, and for one that holds anything else."""
    with _unreadable(path, "JSON", error, "mend or copy it"):
        data = parse_json(read_regular(path, LARGEST))
        if not isinstance(data, dict):
            raise ValueError("no JSON object")
        return data


def read_toml(path: Path, *, next_step: str = "mend it") -> dict[str, Any]:
    """The tables of a TOML file that anyone may have written, as `read_object` reads JSON."""
    with _unreadable(path, "TOML", ConfigError, next_step):
        return tomllib.loads(read_regular(path, LARGEST_TEXT).decode("utf-8"))


@contextlib.contextmanager
def _unreadable(path: Path, kind: str, error: type[VitrailError], next_step: str) -> Generator[None]:
    """Inside, what a file that cannot be read raises becomes `error`."""
    try:
        yield
    except (OSError, ValueError, RecursionError) as why:
        reason = getattr(why, "strerror", None) or why
        raise error(f"{path} is not a readable {kind} file ({reason})", next_step=next_step) from None


def read_json(kind: type[T], path: Path, *, missing: Mapping[str, Any] | None = None) -> T:
    """Reads a config file. ConfigError that names the file, for one that is damaged or unknown, or does not fit its seal.

    `missing` are values of keys that the file may lack: those of an older version, where they are not today's defaults.
    """
    data = read_object(path)
    if data.pop(SEAL, None) not in (None, seal_of(data)):
        raise ConfigError(
            f"{path} was changed after Vitrail wrote it: its {SEAL!r} is another",
            next_step=f'copy it again; or, if you changed it on purpose, remove its line "{SEAL}"',
        )
    return from_dict(kind, {**(missing or {}), **data}, where=str(path))


def sealed_json(config: Any) -> str:
    """The config as the text of a file, with its seal first."""
    data = to_dict(config)
    return json.dumps({SEAL: seal_of(data), **data}, indent=1)


def seal_of(data: Any) -> str:
    """The sha256 of JSON values, whatever the order of keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _resolve(kind: Any, data: Any, path: str, problems: list[str]) -> Any:
    """The data in today's names, with the values of open configs already made. Unknown keys become problems.

    The walk is ours because pydantic drops unknown keys of standard dataclasses without a word.
    """
    known_kind = _member(kind, data)
    if not dataclasses.is_dataclass(known_kind) or not isinstance(data, dict):
        return data
    open_config = isinstance(known_kind, type) and issubclass(known_kind, OpenConfig)
    data = dict(getattr(known_kind, "upgrade", dict)(data))
    if open_config and data.pop("family", known_kind.family) != known_kind.family:
        problems.append(f"{path}family is not {known_kind.family!r}")
    hints = get_type_hints(known_kind)
    known = [field.name for field in dataclasses.fields(known_kind)]
    found = {}
    for key, value in data.items():
        if key not in known:
            hint = suggest(str(key), known) or f"known: {', '.join(known)}"
            problems.append(f"unknown key {path + str(key)!r} ({hint})")
        else:
            found[key] = _resolve(hints[key], value, f"{path}{key}.", problems)
            if _is_plain(hints[key]):
                _refuse_other_kind(hints[key], value, path + key, problems)
    return _validate(known_kind, found, path, problems) if open_config and not problems else found


def _validate(kind: Any, data: Any, path: str, problems: list[str]) -> Any:
    try:
        return _adapter(kind).validate_python(data)
    except ValidationError as error:
        problems += [path + _explain(problem) for problem in error.errors()]
        return None


def _is_plain(kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return True
    return all(map(_is_plain, get_args(kind))) if get_args(kind) else kind in (int, float, str, bool, NoneType, ...)


def _refuse_other_kind(kind: Any, value: Any, name: str, problems: list[str]) -> None:
    """Text is no number here, and a number no truth value: pydantic would turn one into the other."""
    try:
        _adapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        problems.append(f"{name} = {_short(value)}{_words(error.errors()[0]['msg'])}")
    except TypeError:
        return  # no JSON value: a caller's own


def _member(kind: Any, data: Any) -> Any:
    """The dataclass that `data` describes: of an open config or a union by `family`, or the only one."""
    if isinstance(kind, type) and issubclass(kind, OpenConfig) and "member" in vars(kind):
        return kind.member(str(data.get("family", ""))) if isinstance(data, dict) else kind
    if get_origin(kind) not in (Union, types.UnionType):
        return kind
    members = [member for member in get_args(kind) if dataclasses.is_dataclass(member)]
    if len(members) > 1 and isinstance(data, dict):
        members = [m for m in members if data.get("family") in (getattr(m, "family", None), None)]
    return members[0] if members else None


def _explain(problem: Any) -> str:
    name, message = ".".join(str(part) for part in problem["loc"]), problem["msg"]
    if message.startswith(_OWN):  # a config's own check, which tells what was found
        return f"{name}: ".removeprefix(": ") + message.removeprefix(_OWN)
    return f"{name or 'value'} = {_short(problem['input'])}{_words(message)}"


_OWN, _SHOULD = "Value error, ", "Input should be "
_KINDS = {
    "array": "a list",
    "tuple": "several values",
    "string": "text",
    "boolean": "true or false",
    "integer": "a whole number",
}


def _words(message: str) -> str:
    """pydantic's message in our words."""
    if not message.startswith(_SHOULD):
        return f": {message}"
    allowed = message.removeprefix(_SHOULD)
    kind = allowed.removeprefix("a valid ").split(",")[0]
    return "; allowed: " + (_KINDS.get(kind, f"a {kind}") if allowed.startswith("a valid ") else allowed)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
