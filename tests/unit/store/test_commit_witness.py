"""A database that has lost acknowledged commits says so, and one that has not does not."""

import hashlib
import logging
import os
import shutil
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from secondlook.cli.store import check_command
from secondlook.store import Store, backup, commit_witness, open_store
from secondlook.store.commit_witness import WRAP, CommitWitness, LostCommits
from secondlook.store.database import insert_new
from secondlook.store.integrity import check
from secondlook.store.schema import texts
from secondlook_client.errors import Damaged, StorageFull, StoreUnavailable


def add(store: Store, number: int) -> None:
    content = f"{number} " + "x" * 200
    digest = hashlib.blake2b(content.encode(), digest_size=16).digest()
    row = {"digest": digest, "text": content}
    with store.database.writing() as connection:
        insert_new(connection, texts, [row])


def written(store: Store) -> int:
    with store.database.reading() as connection:
        return len(connection.execute(texts.select()).all())


def lost(store: Store) -> list[str]:
    return [str(finding) for finding in check(store) if "acknowledged" in finding.problem]


def crashed(tmp_path: Path, rows: int = 44) -> Path:
    """A store's folder as the process left it that was killed after so many commits."""
    with open_store(tmp_path / "alive", serving=True) as store:
        for number in range(rows):
            add(store, number)
        return Path(shutil.copytree(tmp_path / "alive", tmp_path / "dead"))


def cut_log(folder: Path) -> None:
    log = folder / "store.db-wal"
    os.truncate(log, log.stat().st_size // 2)


def rotten_log(folder: Path) -> None:
    log = folder / "store.db-wal"
    with log.open("r+b") as file:
        file.seek(log.stat().st_size // 2)
        file.write(b"\xa5" * 64)


def removed_log(folder: Path) -> None:
    (folder / "store.db-wal").unlink()


def emptied_database(folder: Path) -> None:
    removed_log(folder)
    os.truncate(folder / "store.db", 0)


def removed_database(folder: Path) -> None:
    removed_log(folder)
    (folder / "store.db").unlink()


@pytest.mark.parametrize(
    "fault", [cut_log, rotten_log, removed_log, emptied_database, removed_database]
)
def test_commits_that_are_gone_are_told_until_somebody_has_dealt_with_it(
    tmp_path: Path, fault: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    folder = crashed(tmp_path)
    fault(folder)
    with open_store(folder, serving=True) as store:
        assert "acknowledged are missing" in caplog.text
        gone = 44 - written(store)
        assert gone > 10
        (told,) = lost(store)
        for number in range(100, 200):  # work goes on, and covers nothing up
            add(store, number)
        assert lost(store) == [told]
        store.blobs.put(b"of a lost transaction, perhaps")
    with open_store(folder) as store:
        assert lost(store) == [told] and "secondlook restore" in told
    caplog.clear()
    open_store(folder, serving=True).close()
    assert "acknowledged are missing" in caplog.text
    options = ["--data", str(folder)]
    printed = CliRunner().invoke(check_command, options, standalone_mode=False)
    assert printed.return_value == 1 and "are missing" in printed.output
    assert "1 blob; keep them" in printed.output
    again = CliRunner().invoke(check_command, [*options, "--accept-losses"], standalone_mode=False)
    assert again.return_value == 0, again.output


def test_the_number_of_lost_commits_is_told(tmp_path: Path) -> None:
    folder = crashed(tmp_path)
    cut_log(folder)
    with open_store(folder) as store:
        assert lost(store)[0].startswith(f"the database: {44 - written(store)} transactions")
    cut = folder / "store.db"
    with sqlite3.connect(cut) as connection:  # and the next loss is seen too
        connection.execute("PRAGMA user_version = 3")
    connection.close()
    with open_store(folder) as store:
        assert len(lost(store)) == 2


def test_a_crash_between_commit_and_count_is_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = crashed(tmp_path)
    with open_store(folder) as store:
        monkeypatch.setattr(CommitWitness, "confirm", lambda self, number: None)
        add(store, 100)
        monkeypatch.undo()
    with open_store(folder) as store:
        assert (lost(store), written(store)) == ([], 45)
        add(store, 101)
    assert not caplog.records


def test_a_store_without_a_count_gets_one(tmp_path: Path) -> None:
    folder = crashed(tmp_path)
    (folder / "store.db-commits").unlink()
    with open_store(folder) as store:
        add(store, 100)
        assert lost(store) == []
    assert (folder / "store.db-commits").stat().st_size > 0


@pytest.mark.parametrize(
    "content", [b"", b"commits 0000000099 00000000\n", b"\xff" * 100, b"commits"]
)
def test_a_count_that_cannot_be_read_is_written_anew(tmp_path: Path, content: bytes) -> None:
    folder = crashed(tmp_path, 3)
    (folder / "store.db-commits").write_bytes(content)
    with open_store(folder) as store:
        add(store, 100)
    with open_store(folder) as store:
        assert lost(store) == []
    with sqlite3.connect(folder / "store.db") as connection:
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    with open_store(folder) as store:
        assert len(lost(store)) == 1


@given(content=st.binary(max_size=60))
def test_no_bytes_are_taken_for_a_count_that_was_not_written(content: bytes) -> None:
    assert commit_witness._parsed(content) is None


def test_the_count_goes_on_where_it_wraps(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute(f"PRAGMA user_version = {WRAP - 3}")
    connection.close()
    (tmp_path / "store.db-commits").unlink()
    with open_store(tmp_path) as store:
        for number in range(6):
            add(store, number)
    shutil.copytree(tmp_path, tmp_path / "copy")
    with open_store(tmp_path) as store:
        assert lost(store) == []
    with sqlite3.connect(tmp_path / "copy" / "store.db") as connection:
        connection.execute(f"PRAGMA user_version = {WRAP - 1}")
    connection.close()
    with open_store(tmp_path / "copy") as store:
        assert lost(store)[0].startswith("the database: 4 transactions")


def test_reading_and_writing_nothing_is_not_counted(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        add(store, 1)
        before = (tmp_path / "store.db-commits").read_bytes()
        with store.database.writing() as connection:
            insert_new(connection, texts, [])
        add(store, 1)  # is there already
        assert (tmp_path / "store.db-commits").read_bytes() == before


def test_two_processes_that_write_count_together(tmp_path: Path) -> None:
    with open_store(tmp_path) as one, open_store(tmp_path) as two:
        for number in range(20):
            add(one if number % 3 else two, number)
    with open_store(tmp_path) as store:
        assert (lost(store), written(store)) == ([], 20)


def test_a_backup_and_a_restored_store_have_lost_nothing(tmp_path: Path) -> None:
    folder, saved = crashed(tmp_path), tmp_path / "saved"
    with open_store(folder) as store:
        backup.back_up(store, saved)
        with open_store(saved) as used:  # somebody works with the backup
            for number in range(50, 70):
                add(used, number)
        backup.back_up(store, saved)
    with open_store(saved) as copy, open_store(tmp_path / "new") as restored:
        backup.restore(saved, restored)
        assert lost(copy) == lost(restored) == []
    assert not [path.name for path in saved.iterdir() if "part" in path.name]


@pytest.mark.parametrize(
    ("code", "kind"), [(28, StorageFull), (5, StoreUnavailable), (13, StoreUnavailable)]
)
def test_what_cannot_be_counted_is_not_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception]
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with open_store(tmp_path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", refuse)
            with pytest.raises(kind):
                add(store, 1)
        add(store, 2)


def test_a_note_that_is_damaged_is_still_a_note(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    (tmp_path / "store.db-lost").write_bytes(b'\xff\n{"count": 1e999, "noticed_at": NaN}\n')
    with open_store(tmp_path) as store:
        witness = store.database.witness
        assert witness is not None
        assert witness.losses() == (LostCommits(0, 0.0),) * 2
        assert len(lost(store)) == 2


def damaged(folder: Path) -> None:
    """Overwrite a page in the middle that is part of a table."""
    file = folder / "store.db"
    (page,) = struct.unpack(">H", file.read_bytes()[16:18])
    with file.open("r+b") as opened:
        opened.seek(2 * page)
        opened.write(b"\xa5" * page)


def test_a_damaged_database_is_told_when_a_server_starts(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for number in range(50):
            add(store, number)
    damaged(tmp_path)
    with pytest.raises(Damaged, match=r"`secondlook check` .*`secondlook restore`"):
        open_store(tmp_path, serving=True)


def test_looking_for_damage_ends_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with open_store(tmp_path) as store:
        for number in range(50):
            add(store, number)
    monkeypatch.setattr("secondlook.store.database.QUICK_CHECK_S", -1.0)
    monkeypatch.setattr("secondlook.store.database.STEPS_A_CHECK", 1)
    with caplog.at_level(logging.ERROR), open_store(tmp_path, serving=True) as store:
        add(store, 100)
    assert not caplog.records
