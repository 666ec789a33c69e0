"""The models on a device: which are good and which refused, remembered over kills."""

from pathlib import Path

import pytest

from secondlook.edge.model_cache import MAX_REFUSED, MAX_TRIES, ModelCache
from secondlook_client.errors import BadSetting


def test_the_cache_remembers_over_restarts_and_keeps_few(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path, "street", keep=2)
    for version in (1, 2, 3):
        cache.path(version).mkdir()
        (tmp_path / f"{version + 1}.part").mkdir()
        cache.mark_good(version, f"d{version}")
    (tmp_path / "notes").mkdir()
    again = ModelCache(tmp_path, "street", keep=2)
    assert again.good == [(3, "d3"), (2, "d2")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3", "notes", "state.json"]
    again.mark_good(2, "d2")
    assert ModelCache(tmp_path, "street").good == [(2, "d2"), (3, "d3")], "the last used first"
    again.refuse("d2", "it is\nslow")
    last = ModelCache(tmp_path, "street")
    assert last.good == [(3, "d3")] and last.refused == {"d2": "it is slow"}
    assert not last.path(2).exists()


def test_a_model_that_crashes_the_process_is_recognised(tmp_path: Path) -> None:
    started = []
    for _ in range(MAX_TRIES + 2):
        started.append(
            ModelCache(tmp_path, "street").begin_trial("deadly")
        )  # and the process is gone
    assert started == [True] * MAX_TRIES + [False] * 2
    assert f"ended {MAX_TRIES} times" in ModelCache(tmp_path, "street").refused["deadly"]


def test_a_trial_that_was_given_up_does_not_count(tmp_path: Path) -> None:
    for _ in range(10):
        cache = ModelCache(tmp_path, "street")
        assert cache.begin_trial("d")
        cache.end_trial("d")


def test_refusals_are_bounded(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path, "street")
    for number in range(MAX_REFUSED + 10):
        cache.refuse(f"d{number}", "x" * 10_000)
    assert len(cache.refused) == MAX_REFUSED and "d9" not in cache.refused
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
    cache = ModelCache(tmp_path, "street")
    assert cache.good == [] and cache.begin_trial("d")


def test_models_of_another_name_are_removed(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path, "street")
    cache.path(1).mkdir()
    cache.mark_good(1, "d1")
    assert ModelCache(tmp_path, "yard").good == []
    assert not (tmp_path / "1").exists()


def test_a_full_disk_does_not_break_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ModelCache(tmp_path, "street")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    cache.refuse("d", "bad")
    assert cache.refused == {"d": "bad"}, "known at least until this process ends"
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_work_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSetting, match="--models"):
        ModelCache(tmp_path / "file", "street")
    with pytest.raises(BadSetting, match="at least 2"):
        ModelCache(tmp_path, "street", keep=1)
