"""What servers that were killed left behind is removed, and nothing else."""

import os
import socket
from pathlib import Path

from secondlook.server.own_socket import NAME, PREFIX, STARTING_S, remove_dead_sockets


def folder(parent: Path, name: str, mode: int = 0o700) -> Path:
    made = parent / f"{PREFIX}{name}"
    made.mkdir(mode)
    made.chmod(mode)
    return made


def bound(at: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(at / NAME))
    return made


def test_only_the_private_folders_of_dead_servers_are_removed(tmp_path: Path) -> None:
    dead, alive, others, starting = (folder(tmp_path, n) for n in ("dead", "alive", "more", "new"))
    for refusing in (dead, starting):
        bound(refusing).close()
    listening = bound(alive)
    listening.listen()
    bound(others).close()
    (others / "notes").write_text("of somebody")
    shared = folder(tmp_path, "shared", 0o755)
    bound(shared).close()
    plain = folder(tmp_path, "plain")
    (plain / NAME).write_text("no socket")
    (tmp_path / f"{PREFIX}link").symlink_to(plain)
    folder(tmp_path, "empty")
    for path in set(tmp_path.iterdir()) - {starting}:
        before = path.stat().st_mtime - 2 * STARTING_S
        os.utime(path, (before, before))

    remove_dead_sockets(tmp_path)
    left = {path.name.removeprefix(PREFIX) for path in tmp_path.iterdir()}
    assert left == {"alive", "more", "new", "shared", "plain", "link"}
    assert (alive / NAME).is_socket() and (others / "notes").exists()
    listening.close()
    remove_dead_sockets(tmp_path)
    assert not alive.exists() and (starting / NAME).is_socket()
    remove_dead_sockets(tmp_path / "nowhere")
