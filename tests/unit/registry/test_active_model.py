"""Students of a store: opened, and followed as others are promoted."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from registered import add_version
from students import image, write_bomb, write_student

from secondlook.detector.runtime import OnnxDetector
from secondlook.registry import active_model
from secondlook.registry.active_model import PromotionWatcher, open_version
from secondlook.store import Store, open_store
from secondlook_client.errors import BadSetting, Damaged, Unavailable

IMAGE = image((0, 0), (3, 1))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """On one database: what is special of the other is tested with the store."""
    with open_store(tmp_path / "data", "") as made:
        yield made


def kept(store: Store, folder: Path, seed: int) -> int:
    write_student(folder / str(seed), seed=seed)
    return add_version(store, folder / str(seed)).version


def promote(store: Store, version: int, before: int | None = None) -> None:
    assert store.model_versions.promote("street", version, "a test", before)


class Taken(list[OnnxDetector]):
    """Every student that was handed over."""

    def await_count(self, count: int) -> None:
        deadline = time.monotonic() + 10
        while len(self) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(self) == count


def following(store: Store, use: Callable[[OnnxDetector], None]) -> PromotionWatcher:
    return PromotionWatcher(store, "street", use, threads=1, every_s=0.02)


def test_a_version_is_opened_from_the_store(store: Store, tmp_path: Path) -> None:
    kept(store, tmp_path, 0)
    detector = open_version(store.blobs, store.model_versions.get("street", 1), threads=1)
    assert len(detector.detect([IMAGE], floor=0.5)[0]) == 2
    detector.close()


def test_each_promoted_version_takes_over_from_the_one_before(store: Store, tmp_path: Path) -> None:
    first, second = kept(store, tmp_path, 0), kept(store, tmp_path, 1)
    promote(store, first)
    taken = Taken()
    with following(store, taken.append):
        assert len(taken) == 1
        time.sleep(0.1)
        assert len(taken) == 1
        promote(store, second, first)
        taken.await_count(2)
        assert len(taken[1].detect([IMAGE])[0]) >= 2
        deadline = time.monotonic() + 10
        with pytest.raises(ValueError, match="closed"):
            while time.monotonic() < deadline:
                taken[0].detect([IMAGE])
        store.model_versions.rollback("street")
        taken.await_count(3)
        assert taken[2].manifest.digest == taken[0].manifest.digest
    with pytest.raises(ValueError, match="closed"):
        taken[2].detect([IMAGE])


def test_before_a_promotion_there_is_no_model(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version, taken = kept(store, tmp_path, 0), Taken()
    with following(store, taken.append):
        assert not taken
        assert "no version of 'street' is promoted yet" in caplog.text
        promote(store, version)
        taken.await_count(1)


@pytest.mark.parametrize("fault", ["gone", "refused"])
def test_a_version_that_cannot_be_used_leaves_the_previous_one_in_use(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    versions = [kept(store, tmp_path, seed) for seed in range(3)]
    bad = store.model_versions.get("street", versions[1])
    taken, refused = Taken(), list[OnnxDetector]()

    def use(detector: OnnxDetector) -> None:
        if fault == "refused" and detector.manifest.digest == bad.digest:
            refused.append(detector)
            raise BadSetting("it knows other classes")
        taken.append(detector)

    if fault == "gone":
        whole = store.blobs.get

        def get(sha256: str) -> bytes:
            if sha256 == bad.files["model.onnx"].sha256:
                raise Damaged("the model is not there")
            return whole(sha256)

        store.blobs.get = get  # type: ignore[method-assign]
    promote(store, versions[0])
    with following(store, use), caplog.at_level(logging.ERROR):
        promote(store, versions[1], versions[0])
        deadline = time.monotonic() + 10
        while "version 2 of 'street' cannot be used" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)
        assert len(caplog.messages) == 1  # not again at each check
        assert len(refused) == (fault == "refused")
        for detector in refused:
            with pytest.raises(ValueError, match="closed"):
                detector.detect([IMAGE])
        assert len(taken) == 1 and len(taken[0].detect([IMAGE])[0]) >= 2
        promote(store, versions[2], versions[1])
        taken.await_count(2)


def test_a_database_that_is_unreachable_for_a_while_is_waited_for(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version, taken = kept(store, tmp_path, 0), Taken()
    whole, asked = store.model_versions.get, []

    def get(name: str) -> object:
        asked.append(name)
        if len(asked) < 3:
            raise OSError("no route to the database")
        return whole(name)

    promote(store, version)
    store.model_versions.get = get  # type: ignore[method-assign, assignment]
    with following(store, taken.append):
        taken.await_count(1)
    assert caplog.text.count("cannot be read now") == 2


def test_a_version_that_takes_too_much_is_never_opened_here(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sound = kept(store, tmp_path, 0)
    write_bomb(tmp_path / "bomb")
    bad = add_version(store, tmp_path / "bomb").version
    promote(store, sound)
    taken = Taken()
    before = psutil.Process().memory_info().rss
    with following(store, taken.append), caplog.at_level(logging.ERROR):
        promote(store, bad, sound)
        deadline = time.monotonic() + 30
        while "version 2 of 'street' cannot be used" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert "more than 1,024 MB of memory" in caplog.text
        assert len(taken) == 1 and len(taken[0].detect([IMAGE])[0]) >= 2
    assert psutil.Process().memory_info().rss < before + 2**28


def test_a_version_that_cannot_be_tried_now_is_tried_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(store, kept(store, tmp_path, 0))
    works, asked = active_model.open_tried, []

    def fail_once(*given: object, **more: object) -> OnnxDetector:
        asked.append(given)
        if len(asked) == 1:
            raise Unavailable("no process can be started")
        return works(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(active_model, "open_tried", fail_once)
    taken = Taken()
    with following(store, taken.append):
        taken.await_count(1)
    assert len(asked) == 2
