import hashlib
import os
import threading
import time
from pathlib import Path

import pytest
from settled import empty, settled_job, street
from sqlalchemy import func, select, update
from stored import image_of, labelled, review_box

from secondlook.store import Store
from secondlook.store import retention as module
from secondlook.store.images import NewImage, add_images
from secondlook.store.locks import deletion_blocked, deletion_lock
from secondlook.store.queue import NewItem, add_items, locked_job
from secondlook.store.retention import (
    DeletionCounts,
    Retention,
    count_deletions,
    forget,
    orphans,
    remove_orphans,
)
from secondlook.store.runs import create_run
from secondlook.store.schema import (
    decisions,
    evidence,
    images,
    items,
    jobs,
    metadata,
    runs,
    snapshot_images,
    snapshots,
)
from secondlook_client.errors import Busy, InvalidInput, NotFound


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes are removed however new, and a few items are several steps."""
    monkeypatch.setattr(module, "MIN_AGE_S", -1.0)
    monkeypatch.setattr(module, "BATCH", 2)


def sha256(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def names(store: Store) -> list[str]:
    with store.database.reading() as connection:
        return list(connection.execute(select(items.c.name).order_by(items.c.name)).scalars())


def rows(store: Store, table) -> int:
    with store.database.reading() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def hold(store: Store, *held: str) -> None:
    with store.database.writing() as connection:
        row = {"name": "frozen", "manifest": "00" * 32, "query": "{}", "statistics": "{}"}
        insert = snapshots.insert().values(**row, images=len(held), created_at=0)
        number = connection.execute(insert).inserted_primary_key[0]
        for name in held:
            row = {"snapshot_id": number, "image_id": image_of(store, name)}
            connection.execute(snapshot_images.insert().values(row))


def decide_again(store: Store, parent: str, name: str) -> None:
    """A run that decides the parent's evidence again, as ``redecide`` does."""
    run = store.results.run(parent)
    with store.database.writing() as connection:
        new = create_run(connection, name, "redecide", run.ontology, run.settings, run)
        for row in connection.execute(decisions.select().where(decisions.c.run_id == run.id)):
            plain = {**row._mapping, "run_id": new.id}
            del plain["id"]
            connection.execute(decisions.insert().values(plain))


def test_a_run_goes_with_its_images_and_their_bytes(store: Store) -> None:
    settled_job(store, "first", street("a", "b", "shared"), failed=["broken", "worse"])
    settled_job(store, "second", street("c", "shared"))
    query = Retention(runs=("first",))
    expected = DeletionCounts(results=3, items=5, images=2, size=2)
    assert count_deletions(store, query) == expected
    assert forget(store, query) == expected + DeletionCounts(runs=1)
    assert names(store) == ["c", "shared"]
    assert rows(store, images) == rows(store, evidence) == rows(store, decisions) == 2
    assert set(store.blobs.all()) == {sha256("c"), sha256("shared")}
    with pytest.raises(NotFound):
        store.results.run("first")
    assert len(store.results.page(store.results.run("second").id)) == 2


def test_nothing_else_is_left_of_what_was_deleted(store: Store) -> None:
    settled_job(store, "only", street("a", "b") + empty("c"), failed=["broken"])
    review_box(store, image_of(store, "a"), "dog", (0, 0, 5, 5), "right", "Eva")
    forget(store, Retention(runs=("only",), reviewed=True))
    left = {table.name for table in metadata.sorted_tables if rows(store, table)}
    assert left == {"ontologies", "texts"}
    assert list(store.blobs.all()) == []


def test_what_a_snapshot_holds_stays_with_all_that_explains_it(store: Store) -> None:
    settled_job(store, "first", street("a", "b", "c"))
    decide_again(store, "first", "again")
    hold(store, "b")
    before = store.results.page(store.results.run("first").id)
    gone = forget(store, Retention(runs=("first", "again")))
    assert (gone.items, gone.images, gone.in_snapshots, gone.runs) == (2, 2, 1, 0)
    (left,) = store.results.page(store.results.run("first").id)
    assert left.labelled.name == "b" and left.cursor in {result.cursor for result in before}
    assert len(store.results.page(store.results.run("again").id)) == 1
    assert store.blobs.get(sha256("b")) == b"b"


def test_what_a_person_spoke_of_stays_unless_asked_for(store: Store) -> None:
    settled_job(store, "first", street("a", "b"))
    review_box(store, image_of(store, "a"), "dog", (0, 0, 5, 5), "right", "Eva")
    gone = forget(store, Retention(runs=("first",)))
    assert (gone.items, gone.reviewed) == (1, 1) and names(store) == ["a"]
    assert forget(store, Retention(runs=("first",), reviewed=True)).items == 1


def test_images_that_wait_are_never_deleted(store: Store) -> None:
    job = settled_job(store, "first", street("a", "b"), failed=["x"], waiting=["w1", "w2"])
    assert (job.total, job.done, job.failed) == (5, 2, 1)
    forget(store, Retention(runs=("first",)))
    job = store.queue.get("first")
    assert names(store) == ["w1", "w2"]
    assert (job.total, job.done, job.failed) == (2, 0, 0)
    store.queue.cancel("first")
    assert forget(store, Retention(runs=("first",))).items == 2
    assert rows(store, jobs) == 0


def test_only_what_is_older_goes(store: Store) -> None:
    settled_job(store, "old", street("a", "b", "late"))
    settled_job(store, "new", street("c", "b"))
    with store.database.writing() as connection:
        connection.execute(update(images).values(added_at=100.0))
        connection.execute(update(runs).where(runs.c.name == "old").values(created_at=100.0))
        run = select(runs.c.id).where(runs.c.name == "old").scalar_subquery()
        connection.execute(
            update(decisions).where(decisions.c.run_id == run).values(created_at=100.0)
        )
        late = select(items.c.id).where(items.c.name == "late").scalar_subquery()
        connection.execute(
            update(decisions).where(decisions.c.item_id == late).values(created_at=300.0)
        )
    gone = forget(store, Retention(before=200.0))
    assert (gone.items, gone.images, gone.runs) == (2, 1, 0)
    assert names(store) == ["b", "c", "late"]
    assert forget(store, Retention(before=301.0)).runs == 1


def test_a_image_that_came_today_is_not_old_because_its_run_is(store: Store) -> None:
    settled_job(store, "old", street("a"), failed=["x"])
    with store.database.writing() as connection:
        connection.execute(update(runs).values(created_at=100.0))
        connection.execute(update(decisions).values(created_at=100.0))
    assert forget(store, Retention(before=time.time() - 60)).items == 1
    assert names(store) == ["a"]


def test_images_without_labels_in_any_run(store: Store) -> None:
    settled_job(store, "first", street("a") + empty("b", "both"), failed=["x"])
    settled_job(store, "second", street("both"))
    unsure = labelled("doubtful", answers={"On?": 0.5, "Off?": 0.5, "Dog?": 0.5})
    settled_job(store, "third", [unsure])
    gone = forget(store, Retention(without_labels=True))
    assert (gone.items, gone.images, gone.runs) == (2, 1, 0)
    assert names(store) == ["a", "both", "doubtful", "x"]


def test_of_a_run_that_decided_again_only_its_decisions_go(store: Store) -> None:
    settled_job(store, "first", street("a", "b"))
    decide_again(store, "first", "again")
    gone = forget(store, Retention(runs=("again",)))
    assert gone == DeletionCounts(results=2, runs=1)
    assert len(store.results.page(store.results.run("first").id)) == 2
    decide_again(store, "first", "again")
    gone = forget(store, Retention(runs=("first", "again")))
    assert (gone.results, gone.items, gone.runs) == (4, 2, 2)


def test_a_query_must_say_something_and_name_what_is_there(store: Store) -> None:
    with pytest.raises(InvalidInput, match="say what to forget"):
        Retention()
    with pytest.raises(NotFound, match="nowhere"):
        forget(store, Retention(runs=("nowhere",)))


def test_bytes_that_somebody_just_put_again_stay(store: Store, monkeypatch) -> None:
    monkeypatch.setattr(module, "MIN_AGE_S", 60.0)
    settled_job(store, "first", street("a", "b"))
    for path in Path(store.blobs._root).glob("??/*"):
        os.utime(path, (1, 1))
    store.blobs.put(b"a")  # by a client whose row is not written yet
    forget(store, Retention(runs=("first",)))
    assert list(store.blobs.all()) == [sha256("a")] == list(orphans(store))
    assert remove_orphans(store, 60.0) == 0
    assert remove_orphans(store, -1.0) == 1
    assert list(store.blobs.all()) == []


def test_bytes_that_nothing_names_are_removed_and_no_others(store: Store) -> None:
    settled_job(store, "first", street("a", "b", "c"))
    lost = {store.blobs.put(f"lost {number}".encode()) for number in range(5)}
    assert set(orphans(store)) == lost
    assert remove_orphans(store) == 0  # an hour is left to whoever is about to name them
    assert remove_orphans(store, -1.0) == 5
    assert len(list(store.blobs.all())) == 3


def test_nothing_is_removed_while_somebody_relies_on_it(store: Store) -> None:
    base = store.database
    with (
        deletion_blocked(base),
        deletion_blocked(base),
        pytest.raises(Busy, match="try again"),
        deletion_lock(base, 0.2),
    ):
        pass
    with deletion_lock(base), pytest.raises(Busy, match="deleted"), deletion_blocked(base, 0.2):
        pass
    with deletion_blocked(base):
        pass


def test_images_that_come_while_others_go(store: Store) -> None:
    """Uploads of the very images that are being deleted lose nothing."""
    wrong: list[BaseException] = []
    names_ = [f"p{number}" for number in range(12)]
    settled_job(store, "old", street(*names_))
    run_id = store.queue.create("new", "upload", store.results.run("old").ontology).run_id
    ready = threading.Barrier(2)

    def upload() -> None:
        try:
            ready.wait()
            for key, name in enumerate(names_):
                new = NewImage(store.blobs.put(name.encode()), len(name), "png")
                with store.database.writing() as connection:
                    image = add_images(connection, [new])[new.sha256]
                    item = NewItem(key, name, image_id=image)
                    add_items(connection, locked_job(connection, run_id), [item])
        except BaseException as failure:
            wrong.append(failure)

    thread = threading.Thread(target=upload)
    thread.start()
    ready.wait()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MIN_AGE_S", 60.0)
        gone = forget(store, Retention(runs=("old",)))
    thread.join()
    assert wrong == [] and gone.items == 12
    assert names(store) == sorted(names_)
    assert all(store.blobs.get(sha256(name)) == name.encode() for name in names_)
    assert rows(store, images) == 12
