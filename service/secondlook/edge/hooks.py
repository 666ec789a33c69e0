"""What happens with detections on the device: a function of the user, or lines of JSON."""

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from secondlook.config.terminal import printable_json
from secondlook.detector.frames import Detection, SourceFrame
from secondlook_client.errors import NotFound

Hook = Callable[[SourceFrame, Sequence[Detection]], object]
"""Called for each frame in the agent's loop, so it must be fast: frames wait for it."""


def load_hook(place: str) -> Hook:
    """The function ``package.module:function``, from the Python path or the working folder.

    Raises ``NotFound``.
    """
    module_name, _, name = place.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as cause:
        raise NotFound(
            f"the hook '{place}' cannot be imported ({cause}); give it as package.module:function"
        ) from cause
    if not callable(found):
        raise NotFound(f"the hook '{place}' is not a function; give it as package.module:function")
    hook: Hook = found
    return hook


def json_lines_hook(out: TextIO) -> Hook:
    """A hook that writes one line of JSON per frame. Raises ``BrokenPipeError``."""

    def write(frame: SourceFrame, found: Sequence[Detection]) -> None:
        out.write(json_line(frame, found) + "\n")
        out.flush()

    return write


def json_line(frame: SourceFrame, found: Sequence[Detection]) -> str:
    """``{"frame", "at", "size", "detections": [{"class", "probability", "score", "box"}]}``."""
    height, width = frame.pixels.shape[:2]
    line = json.dumps(
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
    return printable_json(line)
