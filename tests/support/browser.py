"""Chromium without a window: what a page is once its scripts have run."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def browse(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The page's DOM on stdout, what its scripts complain of on stderr."""
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    return subprocess.run([*command, *options, str(page)], capture_output=True, text=True, timeout=240, check=True)


@contextlib.contextmanager
def drive(downloads: Path, *options: str) -> Iterator[Any]:
    """A browser that is driven: real keys, files and a log of the network. Skips where Chromium or selenium is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="driving a browser needs selenium")
    from selenium.webdriver.chrome.service import Service

    driver, browser = shutil.which("chromedriver"), shutil.which("chromium")
    if not driver or not browser:
        pytest.skip("driving a browser needs Debian's chromium and chromium-driver")
    asked = webdriver.ChromeOptions()
    asked.binary_location = browser
    asked.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,1400", *options):
        asked.add_argument(option)
    found = webdriver.Chrome(options=asked, service=Service(driver))
    try:
        found.set_script_timeout(60)
        found.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
        yield found
    finally:
        found.quit()
