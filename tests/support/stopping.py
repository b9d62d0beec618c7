"""A training that is told to stop at one step, as a scheduler would tell it."""

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from vitrail.training import loop


@contextlib.contextmanager
def stopped_at(step: int) -> Iterator[None]:
    """Sends this process SIGTERM when a training inside has done that step."""
    learn = loop.learn

    def stopping(setup, state, *rest):
        learn(setup, state, *rest)
        if state.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "learn", stopping)
        yield
