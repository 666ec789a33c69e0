"""``check``, ``backup``, ``restore`` and ``forget``, as a person types them."""

import hashlib
import os
from pathlib import Path

import pytest
from settled import empty, settled_job, street

from secondlook.cli import run
from secondlook.store import open_store


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> list[str]:
    """Flags of a store with two finished jobs."""
    data = tmp_path / "data"
    with open_store(data, database_url) as store:
        settled_job(store, "first", street("a", "b") + empty("c"))
        settled_job(store, "second", street("b"))
    for path in (data / "blobs").glob("??/*"):
        os.utime(path, (1, 1))
    flags = ["--data", str(data)]
    return [*flags, "--database-url", database_url] if database_url else flags


def test_check_says_that_all_is_well(place: list[str], capsys) -> None:
    assert run(["check", *place]) == 0
    assert "no problem" in capsys.readouterr().out


def test_check_says_what_is_wrong_and_fails(place: list[str], tmp_path: Path, capsys) -> None:
    name = hashlib.sha256(b"b").hexdigest()
    (tmp_path / "data" / "blobs" / name[:2] / name).unlink()
    assert run(["check", *place]) == run(["check", "--quick", *place]) == 1
    out = capsys.readouterr().out
    assert f"({name[:12]}): its bytes are missing" in out and "1 problem" in out


def test_a_store_goes_to_another_database_and_back(
    place: list[str], tmp_path: Path, postgres, capsys
) -> None:
    assert run(["backup", str(tmp_path / "backup"), *place]) == 0
    other = ["--data", str(tmp_path / "other"), "--database-url"]
    other.append(postgres.url(postgres.new_database()))
    assert run(["restore", str(tmp_path / "backup"), *other]) == 0
    assert run(["backup", str(tmp_path / "again"), *other]) == 0
    assert run(["restore", str(tmp_path / "again"), "--data", str(tmp_path / "last")]) == 0
    capsys.readouterr()
    assert run(["check", "--data", str(tmp_path / "last")]) == 0
    assert run(["check", *other]) == 0
    output = capsys.readouterr().out.splitlines()
    assert output[0] == output[1] and output[0].endswith("no problem")
    assert run(["restore", str(tmp_path / "backup"), *other]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_a_backup_that_is_not_whole_fails(place: list[str], tmp_path: Path, capsys) -> None:
    name = hashlib.sha256(b"b").hexdigest()
    (tmp_path / "data" / "blobs" / name[:2] / name).unlink()
    assert run(["backup", str(tmp_path / "backup"), *place]) == 1
    assert f"not copied: blob {name[:12]} is not in the blob store" in capsys.readouterr().err


def test_forget_removes_nothing_without_yes(place: list[str], capsys) -> None:
    assert run(["forget", "--run", "first", *place]) == 0
    shown = capsys.readouterr().out
    assert "would be removed: 3 results of 3 images in runs; 2 images (2 bytes)" in shown
    assert "give --yes" in shown
    assert run(["forget", "--run", "first", "--without-labels", "--yes", *place]) == 0
    assert "removed: 1 result of 1 image in runs; 1 image" in capsys.readouterr().out
    assert run(["forget", "--run", "first", "--yes", *place]) == 0
    assert "removed, as nothing is left of them: 1 run" in capsys.readouterr().out
    assert run(["check", *place]) == 0


def test_forget_by_time(place: list[str], capsys) -> None:
    assert run(["forget", "--older-than", "1h", "--yes", *place]) == 0
    assert capsys.readouterr().out.startswith("removed: 0 results of 0 images")
    assert run(["forget", "--before", "2999-01-01", "--yes", *place]) == 0
    assert capsys.readouterr().out.startswith("removed: 4 results of 4 images in runs; 3 images")


def test_forget_orphans(place: list[str], tmp_path: Path, capsys) -> None:
    stray = tmp_path / "data" / "blobs" / "ab" / ("ab" * 32)
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"x")
    os.utime(stray, (1, 1))
    assert run(["check", *place]) == 0
    assert "unused, as a crash may leave them: 1 blob;" in capsys.readouterr().out
    assert run(["forget", "--orphans", "--yes", *place]) == 0
    assert not stray.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check"], "say where the store is: --data DIR"),
        (["check", "--data", "nowhere"], "there is no store in nowhere"),
        (["check", "--database-url", "mysql://x", "--data", "."], "a database URL is postgresql"),
        (["restore", "nowhere", "--data", "new"], "nowhere holds no backup"),
        (["forget", "--data", "nowhere"], "say what to forget"),
        (["forget", "--older-than", "soon", "--data", "x"], "such as 12h, 30d or 8w, got 'soon'"),
        (
            ["forget", "--before", "soon", "--data", "x"],
            "such as 2026-03-31 or",
        ),
    ],
)
def test_errors_name_the_way_out(arguments, message, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    assert message in capsys.readouterr().err
