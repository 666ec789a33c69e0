"""Students of a store: opened, and followed as others are promoted."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from registered import keep
from students import image, write_student

from secondlook.core.errors import BadSetting, Damaged
from secondlook.detector.runtime import OnnxDetector
from secondlook.registry.active_model import Promoted, opened
from secondlook.store import Store, open_store

IMAGE = image((0, 0), (3, 1))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """On one database: what is special of the other is tested with the store."""
    with open_store(tmp_path / "data", "") as made:
        yield made


def kept(store: Store, folder: Path, seed: int) -> int:
    write_student(folder / str(seed), seed=seed)
    return keep(store, folder / str(seed)).version


def promote(store: Store, version: int, before: int | None = None) -> None:
    assert store.students.promote("street", version, "a test", before)


class Adopted(list[OnnxDetector]):
    """Every student in its turn."""

    def await_count(self, count: int) -> None:
        deadline = time.monotonic() + 10
        while len(self) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(self) == count


def following(store: Store, adopt: Callable[[OnnxDetector], None]) -> Promoted:
    return Promoted(store, "street", adopt, threads=1, every_s=0.02)


def test_a_version_is_opened_from_the_store(store: Store, tmp_path: Path) -> None:
    kept(store, tmp_path, 0)
    detector = opened(store.blobs, store.students.get("street", 1), threads=1)
    assert len(detector.detect([IMAGE], floor=0.5)[0]) == 2
    detector.close()


def test_each_promoted_version_takes_over_from_the_one_before(store: Store, tmp_path: Path) -> None:
    first, second = kept(store, tmp_path, 0), kept(store, tmp_path, 1)
    promote(store, first)
    adopted = Adopted()
    with following(store, adopted.append):
        assert len(adopted) == 1
        time.sleep(0.1)
        assert len(adopted) == 1
        promote(store, second, first)
        adopted.await_count(2)
        assert len(adopted[1].detect([IMAGE])[0]) >= 2
        deadline = time.monotonic() + 10
        with pytest.raises(ValueError, match="closed"):
            while time.monotonic() < deadline:
                adopted[0].detect([IMAGE])
        store.students.rollback("street")
        adopted.await_count(3)
        assert adopted[2].manifest.digest == adopted[0].manifest.digest
    with pytest.raises(ValueError, match="closed"):
        adopted[2].detect([IMAGE])


def test_until_one_is_promoted_there_is_none(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version, adopted = kept(store, tmp_path, 0), Adopted()
    with following(store, adopted.append):
        assert not adopted
        assert "no version of 'street' is promoted yet" in caplog.text
        promote(store, version)
        adopted.await_count(1)


@pytest.mark.parametrize("fault", ["gone", "refused"])
def test_one_that_cannot_be_used_leaves_the_one_before_at_work(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    versions = [kept(store, tmp_path, seed) for seed in range(3)]
    bad = store.students.get("street", versions[1])
    adopted, refused = Adopted(), list[OnnxDetector]()

    def adopt(detector: OnnxDetector) -> None:
        if fault == "refused" and detector.manifest.digest == bad.digest:
            refused.append(detector)
            raise BadSetting("it knows other classes")
        adopted.append(detector)

    if fault == "gone":
        whole = store.blobs.get

        def get(sha256: str) -> bytes:
            if sha256 == bad.files["model.onnx"].sha256:
                raise Damaged("the model is not there")
            return whole(sha256)

        store.blobs.get = get  # type: ignore[method-assign]
    promote(store, versions[0])
    with following(store, adopt), caplog.at_level(logging.ERROR):
        promote(store, versions[1], versions[0])
        deadline = time.monotonic() + 10
        while "version 2 of 'street' cannot be used" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)
        assert len(caplog.messages) == 1  # not again at each look
        assert len(refused) == (fault == "refused")
        for detector in refused:
            with pytest.raises(ValueError, match="closed"):
                detector.detect([IMAGE])
        assert len(adopted) == 1 and len(adopted[0].detect([IMAGE])[0]) >= 2
        promote(store, versions[2], versions[1])
        adopted.await_count(2)


def test_a_database_that_is_away_for_a_while_is_waited_for(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version, adopted = kept(store, tmp_path, 0), Adopted()
    whole, asked = store.students.get, []

    def get(name: str) -> object:
        asked.append(name)
        if len(asked) < 3:
            raise OSError("no route to the database")
        return whole(name)

    promote(store, version)
    store.students.get = get  # type: ignore[method-assign, assignment]
    with following(store, adopted.append):
        adopted.await_count(1)
    assert caplog.text.count("cannot be told now") == 2
