"""Which folders a server may read: those it was told about, and nothing that links lead to."""

import os
from collections.abc import Sequence
from pathlib import Path

from secondlook.errors import InvalidInput, NotAllowed, NotFound


def allowed(root: str, roots: Sequence[Path]) -> Path:
    """The folder that a client named, with its links resolved.

    Raises ``NotAllowed`` when it is not inside one of ``roots`` (what is there stays unsaid),
    ``NotFound`` when it is and there is no such folder, and ``InvalidInput`` for no path at all.
    """
    path = Path(root)
    if not path.is_absolute() or "\x00" in root:
        raise InvalidInput(f"expected the absolute path of a folder on the server, got '{root}'")
    if ".." in path.parts:
        raise NotAllowed(f"'{root}' holds '..'; write the path without it")
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(os.path.realpath(known)) for known in roots):
        raise NotAllowed(
            f"this server may not read '{root}'; start it with --allow-root and that folder, or "
            "upload the pictures"
        )
    if not real.is_dir():
        raise NotFound(f"there is no folder '{root}' on the server; check the path")
    return real
