"""Which of a student's models runs: float32, or int8 where that is quicker."""

import platform
import sys
from collections.abc import Collection
from functools import cache
from pathlib import Path

from secondlook.detector.manifest import FP32, INT8, SELF_TEST
from secondlook.errors import BadSetting

FILES = {"fp32": FP32, "int8": INT8}
PRECISIONS = ("auto", *FILES)
_QUICK = {"avx512_vnni", "avx_vnni", "asimddp"}
"""As Linux names it: products of bytes are summed in one step, on x86 and on ARM."""
_MOST = 2**16
"""Bytes that are read about the first processors; the others are alike."""


def chosen(asked: str, names: Collection[str]) -> str:
    """``fp32`` or ``int8``, of a student that has the files ``names``.

    ``auto`` is int8 where this processor is quick at it and there is such a model, or no other.
    Raises ``BadSetting``.
    """
    if asked not in PRECISIONS:
        raise BadSetting(f"precision {asked!r} is unknown; known are {', '.join(PRECISIONS)}")
    if asked != "auto":
        return asked
    if INT8 in names and (multiplies_bytes() or FP32 not in names):
        return "int8"
    return "fp32"


def files_needed(asked: str, names: Collection[str]) -> tuple[str, ...]:
    """Of the files that a student has, those that it runs with, besides its manifest.

    Without an int8 model, which an export may have left out, int8 means fp32.
    """
    model = FILES[chosen(asked, names)]
    return (model if model in names else FP32, SELF_TEST)


@cache
def multiplies_bytes() -> bool:
    """Whether int8 is quicker than float32 on this processor; False where that is not known."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as file:
            return not _QUICK.isdisjoint(file.read(_MOST).split())
    except OSError:
        return False
