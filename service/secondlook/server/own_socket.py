"""A socket in a private folder: for programs of the server's own user, without TLS or token.

Whoever may open it may read the store's files as well. Trainings that the server starts, and
commands that start a server for themselves, use it.
"""

import os
import shutil
import tempfile

MAX_FOLDER = 60
"""Bytes of the folder's parent: the path of a socket has at most 107."""


class OwnSocket:
    """The folder and the address of one socket, until it is closed."""

    def __init__(self) -> None:
        parent = tempfile.gettempdir()
        if len(os.fsencode(parent)) > MAX_FOLDER:
            parent = "/tmp"
        self._folder = tempfile.mkdtemp(prefix="secondlook-", dir=parent)
        self.address = f"unix:{self._folder}/socket"
        """As gRPC's servers and clients take it."""

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self._folder, ignore_errors=True)
