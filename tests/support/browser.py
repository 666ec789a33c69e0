"""A browser without a window, for pages whose script matters."""

import shutil
import subprocess
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
"""The programs that are tried."""
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
"""The first that is installed; None where none is."""


def document(page: Path, *flags: str, width: int = 1400) -> str:
    """What a page has become when its scripts have run, in a browser with an empty profile.

    ``flags`` say when that is. ``width`` of the window in pixels.
    """
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    with tempfile.TemporaryDirectory() as profile:
        command += [f"--user-data-dir={profile}", f"--window-size={width},1000", *flags]
        done = subprocess.run(
            [*command, "--dump-dom", page.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    return done.stdout
