"""No training here draws a report."""

from collections.abc import Iterator

import pytest

from tests.support.runs import no_report


@pytest.fixture(scope="package", autouse=True)
def _undrawn() -> Iterator[None]:
    with no_report():
        yield
