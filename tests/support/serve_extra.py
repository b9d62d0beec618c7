"""Imported first by what tests a server: without the extra these tests are skipped, and say so."""

import pytest

for name in ("starlette", "uvicorn", "prometheus_client"):
    pytest.importorskip(name, reason="a server needs the extra: pip install 'vitrail[serve]'")
