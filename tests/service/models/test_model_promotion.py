"""Versions of students are compared, promoted and rolled back over gRPC."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from registered import another_student, freeze_quarters
from students import CLASSES, replace_model, swap_classes, write_bomb

from secondlook.detector.manifest import read_manifest
from secondlook.detector.runtime import OnnxDetector
from secondlook.registry import active_model
from secondlook_client import Client
from secondlook_client.errors import (
    Busy,
    Damaged,
    DeadlineExceeded,
    InvalidInput,
    NotBetter,
    NotFound,
    NotReady,
)


def test_the_current_version_is_none_until_one_is_promoted(client: Client, folder: Path) -> None:
    assert client.models.current("street") is None
    client.models.add(folder)
    assert client.models.current("street") is None
    with pytest.raises(NotFound, match="`secondlook models promote street 1`"):
        client.models.get("street")
    promoted = client.models.promote("street", 1)
    assert promoted.comparison is None and promoted.model.promotion == "the first one"
    assert client.models.current("street") == promoted.model


def test_a_version_that_finds_as_much_is_promoted_and_rolled_back(client, folder) -> None:
    for path in (folder, another_student(folder, "second")):
        client.models.add(path)
    client.models.promote("street", 1)
    promoted = client.models.promote("street", 2)
    told = promoted.comparison
    assert told is not None
    assert (told.snapshot, told.split, told.images, told.current_version) == ("s", "val", 8, 1)
    assert told.current_map50 == told.candidate_map50 == pytest.approx(1.0)
    assert "mAP50 1.000 against 1.000 of version 1, on 8 held-out images" in (
        promoted.model.promotion
    )
    assert client.models.rollback("street").version == 1
    assert client.models.current("street").promotion == "rolled back from version 2"
    with pytest.raises(NotFound, match="no version of 'street' was current before version 1"):
        client.models.rollback("street")


def test_a_version_that_finds_less_is_refused_unless_forced(client, folder) -> None:
    client.models.add(folder)
    client.models.add(another_student(folder, "blind", classes=("person",)))
    client.models.promote("street", 1)
    with pytest.raises(NotBetter, match=r"mAP50 0\.500 against 1\.000 .* --force") as refused:
        client.models.promote("street", 2)
    assert refused.value.reason == "not_better"
    assert client.models.current("street").version == 1
    forced = client.models.promote("street", 2, force=True)
    assert forced.comparison is None and forced.model.promotion == "promoted by force"
    # Back to one that finds more: compared on the classes of the current one alone.
    again = client.models.promote("street", 1)
    assert again.comparison.current_map50 == again.comparison.candidate_map50 == 1.0


def test_the_order_of_the_classes_does_not_matter(client, folder, kept) -> None:
    freeze_quarters(kept, "turned", classes=("car", *reversed(CLASSES)))
    client.models.add(folder)
    client.models.add(another_student(folder, "more", classes=(*CLASSES, "car")))
    client.models.add(another_student(folder, "mixed", classes=tuple(reversed(CLASSES))))
    client.models.promote("street", 1)
    with pytest.raises(NotBetter, match=r"mAP50 0\.000 against 1\.000"):  # calls dogs persons
        client.models.promote("street", 3)
    told = client.models.promote("street", 2, on_snapshot="turned").comparison
    assert (told.snapshot, told.current_map50, told.candidate_map50) == ("turned", 1.0, 1.0)


def test_a_half_point_is_no_reason_to_refuse_and_more_is() -> None:
    from secondlook.registry.promotion import StudentComparison

    def good(candidate: float) -> bool:
        return StudentComparison("s", "val", 9, 1, 0.8, candidate).good_enough

    assert good(0.9) and good(0.8) and good(0.7951) and not good(0.7949) and not good(0.0)


def test_what_cannot_be_compared_says_what_to_do(client, folder, kept) -> None:
    client.models.add(folder)
    client.models.add(another_student(folder, "second"))
    client.models.promote("street", 1)
    freeze_quarters(kept, "trained", split="test")
    with pytest.raises(InvalidInput, match=r"no image in a split 'val'.*, only train, test"):
        client.models.promote("street", 2, on_snapshot="trained")
    freeze_quarters(kept, "foreign", classes=("person", "cat"))
    told = client.models.promote("street", 2, on_snapshot="foreign").comparison
    assert told is not None and told.snapshot == "foreign"
    client.models.rollback("street")
    with pytest.raises(NotFound, match="no snapshot 'nothing'"):
        client.models.promote("street", 2, on_snapshot="nothing")
    kept.snapshots.remove("s")
    with pytest.raises(NotFound, match="with --on-snapshot, or promote with --force"):
        client.models.promote("street", 2)
    assert client.models.current("street").version == 1


def test_only_the_first_images_are_compared_on(client, folder, monkeypatch) -> None:
    monkeypatch.setattr("secondlook.registry.promotion.MAX_IMAGES", 3)
    client.models.add(folder)
    client.models.add(another_student(folder, "second"))
    client.models.promote("street", 1)
    assert client.models.promote("street", 2).comparison.images == 3


def test_a_student_that_does_not_run_is_not_promoted(client, folder) -> None:
    swap_classes(folder, read_manifest(folder))
    client.models.add(folder)
    with pytest.raises(Damaged):
        client.models.promote("street", 1)
    assert client.models.current("street") is None
    other = another_student(folder, "nonsense")
    replace_model(other, read_manifest(other), b"no model at all")
    client.models.add(other)
    with pytest.raises(Damaged):
        client.models.promote("street", 2)


def test_the_server_answers_while_models_are_compared(client, folder, monkeypatch) -> None:
    reached, gate = threading.Event(), threading.Event()
    real = OnnxDetector.detect

    def slow(self, images, *rest, **more):
        reached.set()
        assert gate.wait(30)
        return real(self, images, *rest, **more)

    for path in (
        folder,
        another_student(folder, "second"),
        another_student(folder, "third", seed=2),
    ):
        client.models.add(path)
    client.models.promote("street", 1)
    monkeypatch.setattr("secondlook.server.models.MAX_COMPARISONS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(OnnxDetector, "detect", slow)
        done: list[object] = []
        thread = threading.Thread(target=lambda: done.append(client.models.promote("street", 2)))
        thread.start()
        assert reached.wait(30)
        started = time.monotonic()
        assert client.models.current("street").version == 1
        assert client.info().proposer
        assert time.monotonic() - started < 5
        with pytest.raises(Busy, match="are being compared already"):
            client.models.promote("street", 3, timeout_s=1.0)
        gate.set()
        thread.join()
    assert done and client.models.current("street").version == 2


def test_a_promotion_that_was_given_up_changes_nothing(client, folder, monkeypatch) -> None:
    reached, gate = threading.Event(), threading.Event()
    real = OnnxDetector.detect
    seen: list[int] = []

    def slow(self, images, *rest, **more):
        seen.append(len(images))
        reached.set()
        assert gate.wait(30)
        return real(self, images, *rest, **more)

    for path in (folder, another_student(folder, "second")):
        client.models.add(path)
    client.models.promote("street", 1)
    with monkeypatch.context() as patch:
        patch.setattr(OnnxDetector, "detect", slow)
        patch.setattr(active_model, "open_tried", lambda *given, stopped: OnnxDetector.open(*given))
        with pytest.raises(DeadlineExceeded):
            client.models.promote("street", 2, timeout_s=0.3)
        time.sleep(1)  # the server hears of it a little later than the client gives up
        gate.set()
        time.sleep(0.5)
    assert client.models.current("street").version == 1
    assert reached.is_set() and len(seen) <= 2  # the self-tests, and no image


def test_a_server_without_onnxruntime_says_what_to_install(client, folder, monkeypatch) -> None:
    import sys

    client.models.add(folder)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(NotReady, match=r"secondlook\["):
        client.models.promote("street", 1)
    assert client.models.promote("street", 1, force=True).model.current


def test_a_student_that_takes_too_much_is_refused_in_words_and_holds_up_no_other(
    client: Client, folder: Path
) -> None:
    for name, products in (("memory", 0), ("time", 20_000)):
        write_bomb(folder.with_name(name), side=1500 if products else 25_000, products=products)
        client.models.add(folder.with_name(name), name)
    client.models.add(folder)
    before, children = psutil.Process().memory_info().rss, set(psutil.Process().children())
    with pytest.raises(Damaged, match="more than 1,024 MB of memory"):
        client.models.promote("memory", 1)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.models.promote, "time", 1, timeout_s=4.0)
        assert client.models.promote("street", 1).model.current
        assert isinstance(slow.exception(), DeadlineExceeded)
    assert psutil.Process().memory_info().rss < before + 2**28
    ends = time.monotonic() + 10
    while not children.issuperset(psutil.Process().children()):  # the caller has left, so
        assert time.monotonic() < ends
        time.sleep(0.02)
