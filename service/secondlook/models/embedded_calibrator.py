"""The calibrator that comes with the embedded models. Needs no torch, unlike they."""

from pathlib import Path

from secondlook.labeling.calibrator import Calibrator

FILE = Path(__file__).parent / "weights" / "calibrator.json"
"""Written by ``recipes.calibrator.train``."""


def embedded_calibrator() -> Calibrator:
    """What scores and answers of the two are worth, for the classes of the demo world."""
    return Calibrator.from_json(FILE.read_text("utf-8"))
