"""Open tables and open configs: this package fills them, and so do the plug-ins a user installs."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Generic, TypeVar, overload

from vitrail.errors import ConfigError, suggest

T = TypeVar("T")
V = TypeVar("V")

_DECORATES: Any = object()
GROUP = "vitrail.plugins"
"""Entry points of this group are modules that register things when imported, or functions that do when called."""


class Registry(Mapping[str, T], Generic[T]):
    """A table that others may add to.

        PROTOCOLS = Registry[Callable[..., Outcome]]("protocol")

        @PROTOCOLS.register("knn")
        def classify_by_neighbours(features): ...

        PROTOCOLS["knn"]     # ConfigError for an unknown name: the known ones, and the nearest

    The first unknown name loads the plug-ins, then it is looked up again. `what` names an entry in messages.
    """

    def __init__(self, what: str, values: Mapping[str, T] | None = None) -> None:
        self.what = what
        self._values: dict[str, T] = dict(values or {})

    @overload
    def register(self, name: str) -> Callable[[V], V]: ...
    @overload
    def register(self, name: str, value: T) -> T: ...
    def register(self, name: str, value: Any = _DECORATES) -> Any:
        """Adds a value under a new name; without a value, a decorator that adds what it stands above.

        ConfigError where the name has another value already.
        """
        if value is _DECORATES:
            return lambda decorated: self.register(name, decorated)
        if self._values.setdefault(name, value) is not value:
            raise ConfigError(
                f"a second {self.what} called {name!r}", next_step="choose another name, or remove one plug-in"
            )
        return value

    def __getitem__(self, name: str) -> T:
        if name not in self:
            raise ConfigError(
                f"no {self.what} is called {name!r}",
                allowed=", ".join(self._values),
                next_step=suggest(name, self._values),
            )
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        if name not in self._values:
            load_plugins()
        return name in self._values

    def get(self, name: str, default: Any = None) -> Any:
        """The value of this name, or `default`."""
        return self._values[name] if name in self else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Registry({self.what!r}: {', '.join(self._values)})"


_loaded: set[str] = set()


def load_plugins() -> None:
    """Loads every entry point of the group `vitrail.plugins`, once. ConfigError names one that fails."""
    for point in entry_points(group=GROUP):
        if point.value not in _loaded:
            _loaded.add(point.value)  # first: a plug-in may look names up while it loads
            _load(point)


def _load(point: EntryPoint) -> None:
    try:
        loaded = point.load()
        if callable(loaded):
            loaded()
    except Exception as error:
        _loaded.discard(point.value)
        raise ConfigError(
            f"the plug-in {point.name!r} ({point.value}) failed: {type(error).__name__}: {error}",
            next_step="update or uninstall the package that brings it",
        ) from error


@dataclass(frozen=True)
class OpenConfig:
    """Base of configs that others may add kinds of. `family` tells them apart, in Python and in JSON.

    A base, such as `ModelConfig`, defines `member`; its kinds set `family`. A field of the base's type holds any kind.
    """

    family: ClassVar[str] = ""

    @classmethod
    def member(cls, family: str) -> type["OpenConfig"]:
        """The class of this family. ConfigError for an unknown one."""
        raise NotImplementedError

    @classmethod
    def upgrade(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Values that an earlier version wrote, under the names of today."""
        return data
