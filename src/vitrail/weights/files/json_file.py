"""JSON files from strangers: an object of modest size, or a WeightsError."""

import json
from pathlib import Path
from typing import Any

from vitrail.errors import WeightsError

LARGEST = 16 << 20


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. WeightsError for anything else, and for a file above 16 MB."""
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"larger than {LARGEST:,} bytes")
        data = json.loads(path.read_text("utf-8"))
        if not isinstance(data, dict):
            raise ValueError("no JSON object")
        return data
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not a readable JSON file ({error})", next_step="mend it, or move it") from None
