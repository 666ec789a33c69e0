"""What happens with detections on the device: a function of the user's, or lines of JSON."""

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from secondlook.core.errors import NotFound
from secondlook.detector.frames import Detection, Frame

Hook = Callable[[Frame, Sequence[Detection]], object]
"""Called for each frame in the camera's loop, so it should be quick: frames wait for it."""


def load_hook(place: str) -> Hook:
    """The function at ``package.module:function``, from the path or the working folder.

    Raises ``NotFound`` with what is missing.
    """
    module_name, _, name = place.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as cause:
        raise NotFound(
            f"there is no hook '{place}' ({cause}); give it as package.module:function"
        ) from cause
    if not callable(found):
        raise NotFound(f"'{place}' is no function")
    hook: Hook = found
    return hook


def printing(out: TextIO) -> Hook:
    """A hook that writes a line of JSON for each frame; raises ``BrokenPipeError`` as files do."""

    def write(frame: Frame, found: Sequence[Detection]) -> None:
        out.write(line_of(frame, found) + "\n")
        out.flush()

    return write


def line_of(frame: Frame, found: Sequence[Detection]) -> str:
    """``{"frame", "at", "size", "detections": [{"class", "probability", "score", "box"}]}``."""
    height, width = frame.pixels.shape[:2]
    return json.dumps(
        {
            "frame": frame.name,
            "at": round(frame.wall, 3),
            "size": [width, height],
            "detections": [
                {
                    "class": d.class_name,
                    "probability": round(d.probability, 4),
                    "score": round(d.score, 4),
                    "box": [round(side, 1) for side in d.box],
                }
                for d in found
            ],
        },
        ensure_ascii=False,
    )
