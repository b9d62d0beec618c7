"""Trainings here draw no report, except in a module that says `DRAWS_REPORTS = True`."""

from collections.abc import Iterator

import pytest

from tests.support.runs import no_report


@pytest.fixture(scope="module", autouse=True)
def _undrawn(request: pytest.FixtureRequest) -> Iterator[None]:
    if getattr(request.module, "DRAWS_REPORTS", False):
        yield
        return
    with no_report():
        yield
