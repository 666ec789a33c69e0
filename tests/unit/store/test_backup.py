import hashlib
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from registered import add_version
from settled import OWNER, empty, settled_job, street
from sqlalchemy import select, text
from stored import image_of, labelled, review_box
from students import write_student

from secondlook.core.access import Role, TokenAccess
from secondlook.datasets.manifest import ManifestWriter
from secondlook.labeling.calibrator import Calibrator, ClassFit
from secondlook.store import Store, open_store
from secondlook.store import backup as module
from secondlook.store.backup import back_up, restore
from secondlook.store.embeddings import EmbeddedPlace
from secondlook.store.retention import Retention, forget
from secondlook.store.reviews import QueueItem
from secondlook.store.schema import images, jobs, metadata, training_jobs
from secondlook.store.training_jobs import TrainingSpec
from secondlook_client.errors import AlreadyExists, InvalidInput, NotFound
from secondlook_client.uncertainties import LabelUncertainty, UncertaintyMethod
from secondlook_client.values import ReviewAnswer

DIALECTS = ["sqlite", "postgresql"]


def everything(store: Store) -> dict[str, list[tuple]]:
    with store.database.reading() as connection:
        return {
            table.name: [
                tuple(row)
                for row in connection.execute(select(table).order_by(*table.primary_key.columns))
            ]
            for table in metadata.sorted_tables
        }


def fill(store: Store) -> None:
    """Something in every table."""
    settled_job(store, "first", street("a", "b") + empty("c"), failed=["x"])
    settled_job(store, "second", street("b", "d"), waiting=["w"])
    settled_job(store, "audited", [labelled(name, decoys=0.5) for name in "efgh"])
    review_box(store, image_of(store, "a"), "dog", (0, 0, 5, 5), "wrong", "Eva", "ünï")
    (result, *_) = store.results.page(1)
    dog = result.labelled.judgements[0]
    doubt = {0: LabelUncertainty(UncertaintyMethod.COMMITTEE, 0.25, 0.75, "three agree")}
    store.uncertainties.put(UncertaintyMethod.COMMITTEE, "a student", {result.cursor: doubt})
    where = EmbeddedPlace(result.image_id, dog.box)
    store.embeddings.put("model@1", {where: np.full(4, 0.5)})
    store.tokens.create("gate-3", TokenAccess(frozenset({Role.DEVICE}), frozenset({"gate-3"})))
    about = QueueItem(result.cursor, 0, dog.class_name, dog.box, dog.probability, dog.outcome)
    store.reviews.create_queue("asked", "first", [about], "random")
    (item,) = store.reviews.next("asked", "Eva")
    store.reviews.answer(item.id, "Eva", ReviewAnswer.RIGHT)
    fitted = Calibrator(("dog",), ("score",), (0.5,), (ClassFit(0.25, (4.0,)),))
    store.guarantees.create("street-95", "first", {"target": 0.95}, fitted)
    writer = ManifestWriter(store.blobs)
    manifest = writer.finish(["dog"], ["train"], ["m@1"])
    held = [image_of(store, "a"), image_of(store, "d")]
    store.snapshots.add("frozen", manifest.sha256, "{}", {}, held)
    with tempfile.TemporaryDirectory() as scratch:
        write_student(Path(scratch))
        add_version(store, Path(scratch), report="{}")
    store.model_versions.promote("street", 1, "the first one", None)
    store.training_jobs.create(TrainingSpec("street", "frozen"))


@pytest.mark.parametrize("into", DIALECTS)
def test_every_row_and_blob_comes_back(store: Store, tmp_path: Path, store_places, into: str):
    fill(store)
    before = everything(store)
    assert all(before.values()), "a table without rows shows nothing"
    made = back_up(store, tmp_path / "backup")
    assert made.rows == sum(map(len, before.values())) and made.broken == []
    with open_store(*store_places(into)) as other:
        restored = restore(tmp_path / "backup", other)
        assert everything(other) == before
        assert (restored.rows, restored.blobs, restored.broken) == (made.rows, made.blobs, [])
        assert set(other.blobs.all()) == set(store.blobs.all())
        assert other.snapshots.get("frozen").images == 2
        for one, two in zip(
            store.results.page(1), other.results.page(1), strict=True
        ):  # exact to the bit
            assert one.labelled.judgements == two.labelled.judgements


def test_a_restored_store_goes_on(store: Store, tmp_path: Path, store_places) -> None:
    settled_job(store, "second", street("d"), waiting=["w"])
    settled_job(store, "first", street("a", "b", "c"))
    forget(store, Retention(runs=("first",)))  # its numbers were shown to people
    assert store.queue.claim("a server that will die", 1e6) is not None
    back_up(store, tmp_path / "backup")
    with open_store(*store_places(store.database.dialect)) as other:
        restore(tmp_path / "backup", other)
        job = other.queue.claim(OWNER, 60)
        assert job is not None and job.name == "second"
        assert [item.name for item in other.queue.next(job.run_id, 10)] == ["w"]
        other.queue.release(job.run_id, OWNER)
        settled_job(other, "third", street("a", "e"))
        third = other.results.page(other.results.run("third").id)
        settled_job(store, "third", street("a", "e"))
        wanted = store.results.page(store.results.run("third").id)
        assert [r.cursor for r in third] == [r.cursor for r in wanted] == [5, 6]


def test_a_second_backup_copies_only_what_is_new(store: Store, tmp_path: Path) -> None:
    settled_job(store, "first", street("a", "b"))
    assert back_up(store, tmp_path / "backup").blobs == 2
    settled_job(store, "second", street("b", "c"))
    progress: list[tuple[int, int]] = []
    again = back_up(store, tmp_path / "backup", lambda *counts: progress.append(counts))
    assert (again.blobs, again.size, again.broken) == (1, 1, [])
    assert progress[-1] == (3, 3)
    with open_store(tmp_path / "other") as other:
        assert restore(tmp_path / "backup", other).blobs == 3
        assert len(other.queue.list_jobs()) == 2


def test_a_backup_is_a_store_that_can_be_looked_into(store: Store, tmp_path: Path) -> None:
    fill(store)
    back_up(store, tmp_path / "backup")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "backup").rglob("*")}
    with open_store(tmp_path / "other") as other:
        restore(tmp_path / "backup", other)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "backup").rglob("*")} == before
    with open_store(tmp_path / "backup") as kept:
        assert kept.queue.get("first").done == 3


def test_a_backup_while_others_write_is_of_one_moment(store: Store, tmp_path: Path) -> None:
    settled_job(store, "first", street("a"))
    done, wrong = threading.Event(), []

    def write() -> None:
        try:
            number = 0
            while not done.is_set():
                settled_job(store, f"job {number}", street(f"p{number}", f"q{number}"))
                number += 1
        except BaseException as failure:
            wrong.append(failure)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            made = back_up(store, tmp_path / f"backup{number}")
            assert made.broken == []
    finally:
        done.set()
        writer.join()
    assert wrong == []
    for number in range(3):
        with open_store(tmp_path / f"backup{number}") as kept:
            for job in kept.queue.list_jobs():
                assert len(kept.results.page(job.run_id)) == job.done
            with kept.database.reading() as connection:
                names = connection.execute(select(images.c.sha256)).scalars()
                assert all(kept.blobs.has(name.hex()) for name in names)


def test_bytes_that_are_lost_or_damaged_are_reported_and_the_rest_is_kept(tmp_path: Path) -> None:
    with open_store(tmp_path / "data") as store:
        settled_job(store, "first", street("a", "b", "c"))
        names = [hashlib.sha256(name).hexdigest() for name in (b"a", b"b", b"c")]
        store.blobs.remove(names[0])
        rotten = tmp_path / "data" / "blobs" / names[1][:2] / names[1]
        rotten.chmod(0o644)
        rotten.write_bytes(b"?")
        made = back_up(store, tmp_path / "backup")
    assert made.blobs == 1
    lost, damaged = sorted(made.broken, key=lambda problem: names[1][:12] in problem)
    assert names[0][:12] in lost and "not in the blob store" in lost
    assert names[1][:12] in damaged and "no longer matches" in damaged


def test_a_backup_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch) -> None:
    with open_store(tmp_path / "data") as store:
        settled_job(store, "first", street("a"))
        back_up(store, tmp_path / "backup")
        settled_job(store, "second", street("b"))
        with monkeypatch.context() as patch:
            patch.setattr(module, "_copy_blobs", lambda *rest: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                back_up(store, tmp_path / "backup")
    with open_store(tmp_path / "other") as other:
        restore(tmp_path / "backup", other)
        assert [job.name for job in other.queue.list_jobs()] == ["first"]


def test_only_an_empty_store_is_filled(store: Store, tmp_path: Path) -> None:
    settled_job(store, "first", street("a"))
    back_up(store, tmp_path / "backup")
    with pytest.raises(AlreadyExists, match="is not empty"):
        restore(tmp_path / "backup", store)


def test_what_is_no_backup_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"x")
    with pytest.raises(AlreadyExists, match="holds no backup"):
        back_up(store, tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]
    for folder in ("photos", "nowhere"):
        with pytest.raises(NotFound, match="holds no backup"):
            restore(tmp_path / folder, store)


def test_a_backup_of_a_newer_version_is_refused(store: Store, tmp_path: Path) -> None:
    back_up(store, tmp_path / "backup")
    with open_store(tmp_path / "backup") as kept, kept.database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0815'"))
    with pytest.raises(InvalidInput, match="newer secondlook"):
        restore(tmp_path / "backup", store)


def test_leases_of_the_day_of_the_backup_are_over(store: Store, tmp_path: Path) -> None:
    settled_job(store, "first", street("a"), waiting=["w"])
    store.queue.claim("then", 1e6)
    store.training_jobs.create(TrainingSpec("street", "frozen"))
    store.training_jobs.claim("then", 1e6)
    back_up(store, tmp_path / "backup")
    with open_store(tmp_path / "other") as other:
        restore(tmp_path / "backup", other)
        with other.database.reading() as connection:
            for table in (jobs, training_jobs):
                row = connection.execute(select(table)).one()
                assert (row.owner, row.lease_until) == ("", 0.0)
