"""Which types are checked while tests run: those with a shape, `Float[Tensor, "B N D"]`, which no static checker sees.

pyrefly checks the others; checking them here too doubles the time of a small training. VITRAIL_DEEP=1 checks all.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import jaxtyping

_checked = jaxtyping.jaxtyped


def _check_shapes(*, typechecker: Any) -> Callable[[Any], Any]:
    """In place of jaxtyping's own decorator, which its import hook writes above every function and class."""

    def decorate(what: Any) -> Any:
        function = getattr(what, "__func__", None) or getattr(what, "fget", None) or what
        has_shape = "jaxtyping." in repr(getattr(function, "__annotations__", {}))
        return _checked(what, typechecker=typechecker) if has_shape else what

    return decorate


def watch() -> None:
    """Before Vitrail is imported."""
    if not os.environ.get("VITRAIL_DEEP"):
        jaxtyping.jaxtyped = _check_shapes


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """The exporter's symbolic sizes are no int, as the checks want them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
