"""Chromium without a window: what a page is once its scripts have run."""

import subprocess
from pathlib import Path


def browse(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The page's DOM on stdout, what its scripts complain of on stderr."""
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    return subprocess.run([*command, *options, str(page)], capture_output=True, text=True, timeout=240, check=True)
