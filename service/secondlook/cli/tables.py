"""Figures as a person reads them."""

import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 160
"""Columns assumed where the output is no terminal, so that tables in logs do not fold at 80."""


def console() -> "Console":
    """The standard output, for tables."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    return Console(width=shutil.get_terminal_size().columns if terminal else WIDE)


def share(value: float | None) -> str:
    """A share in [0, 1] with three digits, or a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"


def counted(count: int, noun: str) -> str:
    """``1 picture``, ``2,000 pictures``, ``3 boxes``."""
    ending = "" if count == 1 else "es" if noun.endswith("x") else "s"
    return f"{count:,} {noun}{ending}"


def size(count: int) -> str:
    """A number of bytes in the unit that a person would use."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.1f} {unit}" if unit != "bytes" else f"{count} bytes"
        value /= 1000
    return f"{value:.1f} TB"
