"""The shelf of models on a device: what is good and what is refused, remembered over kills."""

from pathlib import Path

import pytest

from secondlook.core.errors import BadSetting
from secondlook.edge.model_cache import MAX_REFUSED, MAX_TRIES, Shelf


def test_the_shelf_remembers_over_restarts_and_keeps_few(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, "street", keep=2)
    for version in (1, 2, 3):
        shelf.path(version).mkdir()
        (tmp_path / f"{version + 1}.part").mkdir()
        shelf.keep(version, f"d{version}")
    (tmp_path / "notes").mkdir()
    again = Shelf(tmp_path, "street", keep=2)
    assert again.good == [(3, "d3"), (2, "d2")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3", "notes", "state.json"]
    again.keep(2, "d2")
    assert Shelf(tmp_path, "street").good == [(2, "d2"), (3, "d3")], "the last used first"
    again.refuse("d2", "it is\nslow")
    last = Shelf(tmp_path, "street")
    assert last.good == [(3, "d3")] and last.refused == {"d2": "it is slow"}
    assert not last.path(2).exists()


def test_a_model_that_ends_the_process_is_found_out(tmp_path: Path) -> None:
    lives = []
    for _ in range(MAX_TRIES + 2):
        lives.append(Shelf(tmp_path, "street").tried("deadly"))  # and the process is gone
    assert lives == [True] * MAX_TRIES + [False] * 2
    assert f"ended {MAX_TRIES} times" in Shelf(tmp_path, "street").refused["deadly"]


def test_a_try_that_was_given_up_does_not_count(tmp_path: Path) -> None:
    for _ in range(10):
        shelf = Shelf(tmp_path, "street")
        assert shelf.tried("d")
        shelf.untried("d")


def test_refusals_are_bounded(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, "street")
    for number in range(MAX_REFUSED + 10):
        shelf.refuse(f"d{number}", "x" * 10_000)
    assert len(shelf.refused) == MAX_REFUSED and "d9" not in shelf.refused
    assert (tmp_path / "state.json").stat().st_size < 50_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"name": 1, "good": {}, "refused": {}, "tries": {}}',
        '{"name": "street", "good": {"../../etc": "d"}, "refused": {}, "tries": {}}',
        '{"name": "street", "good": [], "refused": {}, "tries": {"d": "x"}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_state_is_a_new_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    shelf = Shelf(tmp_path, "street")
    assert shelf.good == [] and shelf.tried("d")


def test_models_of_another_name_make_room(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, "street")
    shelf.path(1).mkdir()
    shelf.keep(1, "d1")
    assert Shelf(tmp_path, "yard").good == []
    assert not (tmp_path / "1").exists()


def test_a_full_disk_makes_no_shelf_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(tmp_path, "street")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    shelf.refuse("d", "bad")
    assert shelf.refused == {"d": "bad"}, "known at least until the end of this life"
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_kept_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSetting, match="--models"):
        Shelf(tmp_path / "file", "street")
    with pytest.raises(BadSetting, match="at least 2"):
        Shelf(tmp_path, "street", keep=1)
