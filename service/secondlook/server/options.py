"""Where a server listens, what it takes and what it may read."""

import os
from dataclasses import dataclass
from pathlib import Path

from secondlook.images import DEFAULT_LIMITS, ImageLimits

MESSAGE_ROOM = 4 * 2**20
"""Bytes of a message besides its picture: the longest ontology has fewer."""
LARGEST_MESSAGE = 2**31 - 1
"""gRPC counts in 32 bits."""


@dataclass(frozen=True)
class ServerOptions:
    """Where a server listens and what it takes."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 picks a free one."""
    metrics_port: int | None = None
    """For Prometheus, on the same host; None is off, 0 picks a free one."""
    image_limits: ImageLimits = DEFAULT_LIMITS
    decode_threads: int = max(2, min(8, os.cpu_count() or 2))
    grace_s: float = 30.0
    """How long stopping waits for what was accepted."""
    roots: tuple[Path, ...] = ()
    """Folders that jobs may read pictures from."""
    trainings: Path | None = None
    """Folder that students are trained in; None: none are trained here."""
    trainings_at_once: int = 1

    @property
    def max_message_bytes(self) -> int:
        """The largest picture allowed, and room for the rest of a request."""
        return min(self.image_limits.max_bytes + MESSAGE_ROOM, LARGEST_MESSAGE)
