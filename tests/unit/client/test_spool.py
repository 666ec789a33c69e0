import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondlook_client.errors import InvalidInput, SpoolFull, SpoolUnusable
from secondlook_client.spool import MAX_SEQUENCE, SUFFIX, Spool, SpoolLimits

QUICK = SpoolLimits(sync=False)


def contents(spool: Spool) -> list[tuple[str, bytes]]:
    found, at = [], -1
    while frame := spool.after(at):
        found.append((frame.name, frame.data))
        at = frame.sequence
    return found


def test_frames_come_back_whole_and_in_order_after_a_restart(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    numbers = [spool.put(bytes([i]) * i, f"кадр {i}") for i in range(5)]
    assert numbers == sorted(set(numbers))
    spool.close()
    again = Spool(tmp_path / "spool")
    assert contents(again) == [(f"кадр {i}", bytes([i]) * i) for i in range(5)]
    assert (again.frames, again.total_bytes) == (
        5,
        sum(f.stat().st_size for f in tmp_path.rglob("*.fr*")),
    )


def test_what_was_removed_is_gone_for_good_and_its_number_is_not_used_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    first = spool.put(b"a")
    assert first is not None
    spool.remove(first)
    spool.remove(first)
    second = spool.put(b"b")
    assert second is not None
    assert second > first
    assert contents(spool) == [("", b"b")]
    spool.close()
    assert [path.suffix for path in tmp_path.iterdir()] == [SUFFIX]


def test_numbers_go_on_above_what_the_server_has_seen(tmp_path: Path) -> None:
    spool = Spool(tmp_path, QUICK)
    spool.number_above(2**45)
    assert spool.put(b"a") == 2**45 + 1


@pytest.mark.parametrize("strange", [2**47, 2**48 - 1, 2**63 - 1, 2**64 - 1])
def test_a_number_that_no_device_reaches_is_not_counted_on_from(
    tmp_path: Path, strange: int
) -> None:
    spool = Spool(tmp_path, QUICK)
    spool.number_above(strange)
    number = spool.put(b"a")
    assert number is not None
    assert number < 2**42


@pytest.mark.parametrize("wall_s", [-1e9, 0, 4e9, 1e12, 9e9])
def test_a_clock_that_jumps_never_gives_a_number_twice_or_one_too_high(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wall_s: float
) -> None:
    spool = Spool(tmp_path, QUICK)
    first = spool.put(b"a")
    monkeypatch.setattr("time.time_ns", lambda: int(wall_s * 1e9))
    second, third = spool.put(b"b"), spool.put(b"c")
    assert first is not None and second is not None and third is not None
    assert first < second < third <= MAX_SEQUENCE
    assert [data for _, data in contents(spool)] == [b"a", b"b", b"c"]


def framed(folder: Path, number: str, data: bytes) -> Path:
    """A whole frame under any name."""
    with closing(Spool(folder / "other", QUICK)) as spool:
        spool.put(data)
        (path,) = spool.folder.iterdir()
        return path.rename(folder / f"{number}{SUFFIX}")


@pytest.mark.parametrize("number", [2**47, 2**48 - 1, 2**63 - 1, 2**63, 2**64])
def test_a_frame_with_a_number_that_no_server_takes_is_numbered_anew(
    tmp_path: Path, number: int
) -> None:
    framed(tmp_path, f"{7:019d}", b"old")
    framed(tmp_path, f"{number:019d}", b"strange")
    framed(tmp_path, f"{number + 1:019d}", b"stranger")
    (tmp_path / "other").rmdir()
    for _ in range(2):  # the next start finds nothing strange any more
        with closing(Spool(tmp_path, QUICK)) as spool:
            assert [data for _, data in contents(spool)] == [b"old", b"strange", b"stranger"]
            last = spool.put(b"new")
            assert last is not None and last < 2**42
            spool.remove(last)
    assert max(int(path.stem) for path in tmp_path.iterdir()) < 2**42


@pytest.mark.parametrize(
    "name",
    ["1", "-000000000000000001", "٣" * 19, "0" * 20, "9" * 200, "½", " " * 19, "9" * 25],
)
def test_a_file_that_is_no_frame_of_the_spool_is_left_alone(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = framed(tmp_path, name, b"not ours")
    (tmp_path / "other").rmdir()
    with closing(Spool(tmp_path, QUICK)) as spool:
        assert (spool.frames, spool.dropped) == (0, 0)
        spool.put(b"ours")
        assert contents(spool) == [("", b"ours")]
    assert path.exists() and "no frames of this spool" in caplog.text


def test_links_and_folders_with_a_frame_s_name_are_not_followed(tmp_path: Path) -> None:
    outside = framed(tmp_path, "x", b"outside")
    folder = tmp_path / "spool"
    folder.mkdir()
    (folder / f"{1:019d}{SUFFIX}").symlink_to(outside)
    (folder / f"{2:019d}{SUFFIX}").mkdir()
    (folder / f"{3:019d}.part").mkdir()
    with closing(Spool(folder, QUICK)) as spool:
        assert spool.frames == 0
        assert spool.put(b"a") is not None
    assert outside.exists()


def test_frames_refused_as_too_high_keep_their_order_and_overwrite_none(tmp_path: Path) -> None:
    spool = Spool(tmp_path, QUICK)
    numbers = [spool.put(bytes([n])) for n in range(4)]
    assert numbers[1] is not None and numbers[3] is not None
    spool.renumber_from(numbers[1], numbers[3] - 1)  # the first new number is taken by the last
    assert [data[0] for _, data in contents(spool)] == [0, 1, 2, 3]
    spool.renumber_from(numbers[0] or 0, 100)
    found = spool.after(-1)
    assert found is not None and found.sequence == 101
    assert spool.put(b"x") == 105, "the clock is not trusted any more"
    spool.close()
    assert [data for _, data in contents(Spool(tmp_path))][-1] == b"x"


def test_what_a_spool_keeps_is_for_its_user_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        spool = Spool(tmp_path / "a" / "spool")
        spool.put(b"a")
    finally:
        os.umask(before)
    modes = [path.stat().st_mode & 0o777 for path in sorted((tmp_path / "a").rglob("*"))]
    assert modes == [0o700, 0o600]
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


def test_a_full_spool_drops_the_oldest(tmp_path: Path) -> None:
    spool = Spool(tmp_path, SpoolLimits(max_bytes=340, sync=False))
    for i in range(5):
        spool.put(bytes([i]) * 100)
    assert [data[0] for _, data in contents(spool)] == [3, 4]
    assert spool.total_bytes <= 340
    assert spool.dropped == 3


def test_or_the_newest_or_says_so(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a", SpoolLimits(250, "drop_newest", sync=False))
    kept = [spool.put(bytes([i]) * 100) for i in range(4)]
    assert [number is None for number in kept] == [False, False, True, True]
    assert [data[0] for _, data in contents(spool)] == [0, 1]
    assert spool.dropped == 2
    strict = Spool(tmp_path / "b", SpoolLimits(250, "raise", sync=False))
    strict.put(b"x" * 200)
    with pytest.raises(SpoolFull, match="not got yet"):
        strict.put(b"y" * 200)
    assert contents(strict) == [("", b"x" * 200)]


def test_a_frame_larger_than_the_spool_is_refused_and_pushes_nothing_out(tmp_path: Path) -> None:
    spool = Spool(tmp_path, SpoolLimits(max_bytes=150, sync=False))
    spool.put(b"x" * 50)
    with pytest.raises(SpoolFull, match="raise max_bytes"):
        spool.put(b"y" * 200)
    assert spool.frames == 1


@pytest.mark.parametrize("damage", ["empty", "short", "changed"])
def test_a_frame_damaged_on_the_disk_is_left_out_and_counted(tmp_path: Path, damage: str) -> None:
    spool = Spool(tmp_path)
    for letter in (b"a", b"b", b"c"):
        spool.put(letter * 50)
    spool.close()
    victim = sorted(tmp_path.glob("*.frame"))[1]
    whole = victim.read_bytes()
    victim.write_bytes({"empty": b"", "short": whole[:-9], "changed": whole[:-1] + b"!"}[damage])
    (tmp_path / "0000000000000000123.part").write_bytes(b"half a frame")
    (tmp_path / "notes.txt").write_text("somebody else's")
    again = Spool(tmp_path)
    assert [data[:1] for _, data in contents(again)] == [b"a", b"c"]
    assert again.dropped == 1
    assert not victim.exists()
    assert not (tmp_path / "0000000000000000123.part").exists()
    assert (tmp_path / "notes.txt").exists()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with pytest.raises(SpoolUnusable, match="another process"):
        Spool(tmp_path)
    spool.close()
    Spool(tmp_path).close()


def test_a_folder_that_went_away(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    shutil.rmtree(tmp_path / "spool")
    with pytest.raises(SpoolUnusable, match="choose another folder"):
        spool.put(b"a")
    assert (spool.frames, spool.total_bytes) == (0, 0)


def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")
    with pytest.raises(SpoolUnusable, match="choose another folder"):
        Spool(tmp_path / "spool")


def test_limits_are_checked() -> None:
    with pytest.raises(InvalidInput, match="drop_oldest"):
        SpoolLimits(when_full="panic")
    with pytest.raises(InvalidInput, match="at least 1"):
        SpoolLimits(max_bytes=0)


def test_a_killed_process_loses_no_frame_that_send_returned_for(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "from secondlook_client.spool import Spool\n"
        "spool = Spool(Path(sys.argv[1]))\n"
        "while True:\n"
        "    number = spool.put(os.urandom(5000))\n"
        "    os.write(1, f'{number}\\n'.encode())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(20)]
    process.kill()
    told += [int(line) for line in process.stdout.read().split()]
    process.wait()
    spool = Spool(tmp_path)
    found, at = set(), -1
    while frame := spool.after(at):
        assert len(frame.data) == 5000
        found.add(frame.sequence)
        at = frame.sequence
    assert set(told) <= found
    assert spool.dropped == 0


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 120)),
        st.tuples(st.just("remove"), st.integers(0, 5)),
        st.tuples(st.just("reopen"), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(steps=steps)
def test_a_spool_is_a_bounded_queue_whatever_is_done_to_it(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    limits = SpoolLimits(max_bytes=400, sync=False)
    spool = Spool(folder, limits)
    expected: dict[int, bytes] = {}
    for what, number in steps:
        if what == "put":
            data = bytes([len(expected) % 256]) * number
            sequence = spool.put(data)
            assert sequence is not None
            expected[sequence] = data
        elif what == "remove" and number < len(expected):
            gone = sorted(expected)[number]
            spool.remove(gone)
            expected.pop(gone, None)
        elif what == "reopen":
            spool.close()
            spool = Spool(folder, limits)
        present = dict(sorted(expected.items())[len(expected) - spool.frames :])
        assert [data for _, data in contents(spool)] == list(present.values())
        assert spool.total_bytes == sum(f.stat().st_size for f in folder.glob("*.frame")) <= 400
        expected = present
    spool.close()
