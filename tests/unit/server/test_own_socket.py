"""What servers that were killed left behind is removed, and nothing else."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from secondlook.server.own_socket import NAME, PREFIX, STARTING_S, remove_dead_sockets


@pytest.fixture
def short_path() -> Iterator[Path]:
    """The path of a socket has 107 bytes at most, which ``tmp_path`` may need for itself."""
    with TemporaryDirectory() as made:
        yield Path(made)


def folder(parent: Path, name: str, mode: int = 0o700) -> Path:
    made = parent / f"{PREFIX}{name}"
    made.mkdir(mode)
    made.chmod(mode)
    return made


def bound(at: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(at / NAME))
    return made


def test_only_the_private_folders_of_dead_servers_are_removed(short_path: Path) -> None:
    dead, alive, others, starting = (
        folder(short_path, n) for n in ("dead", "alive", "more", "new")
    )
    for refusing in (dead, starting):
        bound(refusing).close()
    listening = bound(alive)
    listening.listen()
    bound(others).close()
    (others / "notes").write_text("of somebody")
    shared = folder(short_path, "shared", 0o755)
    bound(shared).close()
    plain = folder(short_path, "plain")
    (plain / NAME).write_text("no socket")
    (short_path / f"{PREFIX}link").symlink_to(plain)
    folder(short_path, "empty")
    for path in set(short_path.iterdir()) - {starting}:
        before = path.stat().st_mtime - 2 * STARTING_S
        os.utime(path, (before, before))

    remove_dead_sockets(short_path)
    left = {path.name.removeprefix(PREFIX) for path in short_path.iterdir()}
    assert left == {"alive", "more", "new", "shared", "plain", "link"}
    assert (alive / NAME).is_socket() and (others / "notes").exists()
    listening.close()
    remove_dead_sockets(short_path)
    assert not alive.exists() and (starting / NAME).is_socket()
    remove_dead_sockets(short_path / "nowhere")
