import hashlib
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import ScriptedSegmenter
from settled import empty, settled_job, street
from sqlalchemy import delete, select, update
from stored import image_of, labelled, stored_run

from secondlook.datasets.manifest import Entry, ManifestWriter
from secondlook.store import Store, open_store
from secondlook.store.codec import pack_evidence
from secondlook.store.integrity import CheckCounts, check
from secondlook.store.runs import create_run
from secondlook.store.schema import (
    decisions,
    evidence,
    images,
    items,
    jobs,
    ontologies,
    snapshot_images,
    snapshots,
    texts,
)
from secondlook_client.masks import Mask


def freeze(store: Store, *names: str) -> None:
    writer = ManifestWriter(store.blobs)
    for name in sorted(names, key=sha256):
        writer.add(Entry(sha256(name), name, "png", 1, 40, 30, "train", "0" * 16, ()))
    manifest = writer.finish(["dog"], ["train"], ["m@1"])
    ids = [image_of(store, name) for name in names]
    store.snapshots.add("frozen", manifest.sha256, "{}", {}, ids)


def sha256(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


@pytest.fixture
def full(store: Store) -> Store:
    """A store with something in it, all well."""
    settled_job(store, "first", street("a", "b") + empty("c"), failed=["x"])
    settled_job(store, "second", street("b"), waiting=["w"])
    run = store.results.run("first")
    with store.database.writing() as connection:
        again = create_run(connection, "again", "redecide", run.ontology, run.settings, run)
        for row in connection.execute(decisions.select().where(decisions.c.run_id == run.id)):
            plain = {**row._mapping, "run_id": again.id}
            del plain["id"]
            connection.execute(decisions.insert().values(plain))
    freeze(store, "a", "b")
    return store


def problems(store: Store, **options: bool) -> list[str]:
    return [str(finding) for finding in check(store, **options)]


def test_a_store_that_is_well_has_no_findings(full: Store) -> None:
    checked = CheckCounts()
    assert list(check(full, checked)) == []
    assert (checked.blobs, checked.orphans) == (4 + 2, 0)
    assert checked.rows > 30
    full.blobs.put(b"nobody's")
    assert list(check(full, checked)) == [] and checked.orphans == 1


def test_an_empty_store_is_well(store: Store) -> None:
    assert problems(store) == []


WRONG = {
    "items": [
        (update(items).where(items.c.name == "a").values(state=0), "has a result and is not done"),
        (update(items).where(items.c.name == "w").values(state=1), "is done and has no result"),
        (update(items).where(items.c.name == "c").values(image_id=None), "has no image"),
        (update(items).where(items.c.name == "w").values(state=7), "in an unknown state"),
    ],
    "jobs": [
        (update(jobs).values(done=jobs.c.done + 1), r"job first: counts .*\(4, 4, 1\) where there"),
        (update(jobs).values(state="done"), "job second: is done, and 1 of its items are queued"),
    ],
    "content": [
        (update(decisions).values(accepted=9), r"decision 1 of first: counts \(accepted"),
        (update(decisions).values(content=b"\x01nonsense"), "decision 4 of second: packed bytes"),
        (update(evidence).values(content=b"\x01nonsense"), "evidence 1: packed bytes are damaged"),
        (update(evidence).values(content=b""), "evidence 1: a row has the format none"),
        (update(texts).values(text="other"), "text 1: has changed since it was stored"),
        (update(ontologies).values(classes="[]"), "ontology 1: "),
    ],
    "links": [
        (
            update(evidence).values(image_id=select(images.c.id).limit(1).scalar_subquery()),
            "its evidence is of another image",
        ),
        (
            update(decisions)
            .where(decisions.c.run_id == 2)
            .values(item_id=select(items.c.id).where(items.c.name == "a").scalar_subquery()),
            "its item is of another run",
        ),
        (
            update(decisions)
            .where(decisions.c.id == 1)
            .values(
                image_id=select(images.c.id)
                .where(images.c.sha256 == bytes.fromhex(sha256("w")))
                .scalar_subquery()
            ),
            "has a result of another image",
        ),
        (update(images).values(size=77), "its row says 77 bytes and there are 1"),
    ],
    "snapshots": [
        (update(snapshots).values(images=5), "snapshot frozen: says 5 images and has 2"),
        (delete(snapshot_images), "manifest lists 2, 2 of them missing"),
        (update(snapshots).values(manifest="ab" * 32), "snapshot frozen: blob abababababab is not"),
    ],
}


@pytest.mark.parametrize(
    ("damage", "finding"), [case for cases in WRONG.values() for case in cases]
)
def test_what_is_wrong_is_reported(full: Store, damage, finding: str) -> None:
    with full.database.writing() as connection:
        connection.execute(damage)
    found = problems(full)
    assert any(re.search(finding, one) for one in found), found


def remove(store: Store, path: Path, name: str) -> None:
    store.blobs.remove(name)


def spoil(store: Store, path: Path, name: str) -> None:
    path.chmod(0o644)
    path.write_bytes(b"?")


def test_a_mask_that_does_not_fill_its_image_is_reported(store: Store) -> None:
    found = labelled("masked", segmenter=ScriptedSegmenter())
    run = stored_run(store, "masked", [found])
    assert not [finding for finding in problems(store) if "evidence" in finding]
    whole = found.evidence.segmentations[0]
    broken = {0: replace(whole, mask=Mask(40, 30, "1"))}
    content = pack_evidence(replace(found.evidence, segmentations=broken), run.ontology)
    with store.database.writing() as connection:
        connection.execute(update(evidence).values(content=content))
    (finding,) = (one for one in problems(store) if "evidence" in one)
    assert finding.startswith("evidence 1: the run-length code of a mask does not fill its image")


@pytest.mark.parametrize(
    ("harm", "finding"), [(remove, "its bytes are missing"), (spoil, "no longer match their hash")]
)
def test_bytes_that_are_gone_or_rotten_are_reported(
    full: Store, tmp_path: Path, harm: Callable[[Store, Path, str], None], finding: str
) -> None:
    name = sha256("b")
    harm(full, tmp_path / "data" / "blobs" / name[:2] / name, name)
    (one,) = problems(full)
    assert finding in one and name[:12] in one and "secondlook restore" in one
    # Without reading them only those that are gone can be told.
    assert len(problems(full, content=False)) == (harm is remove)


def test_a_part_of_a_manifest_that_rotted_is_reported(full: Store, tmp_path: Path) -> None:
    (part,) = [
        path
        for path in (tmp_path / "data" / "blobs").glob("??/*")
        if b'"boxes"' in path.read_bytes()
    ]
    spoil(full, part, part.name)
    (one,) = problems(full)
    assert one.startswith("snapshot frozen: blob " + part.name[:12])


def test_a_row_that_names_nothing_is_reported(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        settled_job(store, "first", street("a"))
        with closing(sqlite3.connect(tmp_path / "store.db")) as connection:
            connection.execute("DELETE FROM images")
            connection.commit()
        found = problems(store)
    assert any("refers to a missing row of images" in one for one in found)


def test_a_damaged_database_file_is_reported(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        settled_job(store, "first", street(*(f"p{number}" for number in range(60))))
    path = tmp_path / "store.db"
    whole = path.read_bytes()
    path.write_bytes(whole[:-4096] + b"\xff" * 4096)
    with open_store(tmp_path) as store:
        found = problems(store)
    assert "the database file" in found[0] and "secondlook restore" in found[0]
