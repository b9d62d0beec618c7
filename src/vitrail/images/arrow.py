"""pyarrow, which reads and writes Parquet: needed where Parquet is used, and only there."""

import contextlib
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from vitrail.errors import ConfigError
from vitrail.storage import open_regular


def arrow() -> tuple[Any, Any]:
    """pyarrow and its Parquet. Raises ConfigError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError("Parquet files need pyarrow", next_step="pip install 'vitrail[parquet]'") from None
    return pyarrow, pyarrow.parquet


@contextlib.contextmanager
def plain_errors() -> Generator[None]:
    """Inside, all that pyarrow raises of a damaged file is a ValueError or an OSError, of one line."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except arrow()[0].ArrowException as error:
        raise ValueError(str(error).partition("\n")[0]) from None


def read_table(path: Path, columns: Sequence[str] | None = None) -> Any:
    """The table in a Parquet file whose pages have checksums. OSError, or ValueError for one that is damaged."""
    with plain_errors(), open_regular(path) as file:
        return arrow()[1].read_table(file, columns=columns, page_checksum_verification=True)
