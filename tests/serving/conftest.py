"""One server for the tests that do not change it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.serving import Running


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.serving import save_model

    return save_model(tmp_path_factory.mktemp("served") / "small")


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.serving import save_model

    return save_model(tmp_path_factory.mktemp("served") / "other", seed=1)


@pytest.fixture(scope="session")
def served(bundle: Path, other: Path) -> "Iterator[Running]":
    from tests.support.serving import running

    with running({"small": bundle, "other": other}) as found:
        yield found
