"""Uploaded images share commits, and a failure reaches those whom it concerns."""

import asyncio

import pytest

from secondlook.server import uploads as upload_module
from secondlook.server.converters import key_of
from secondlook.server.jobs import Throughput
from secondlook.store.ingest import UploadIngest
from secondlook_client.errors import BadRequest, Busy, StoreUnavailable
from secondlook_client.ontology import ClassSpec, Ontology

DOG = Ontology((ClassSpec("dog"),))


@pytest.fixture
def uploads(store):
    """The uploads of a store, whose commits are counted."""
    return Counted(store.database, store.blobs)


class Counted(UploadIngest):
    """Notes how many images each commit had; may be told to fail."""

    def __init__(self, *parts):
        super().__init__(*parts)
        self.commits = []
        self.fails = None

    def add(self, job, arrived):
        self.commits.append(len(arrived))
        if self.fails:
            raise self.fails
        return super().add(job, arrived)


async def keep_all(uploads, images):
    """What becomes of (job, key, content), all sent at one time."""
    batcher = upload_module.UploadBatcher(uploads)
    sending = (batcher.keep(job, key, str(key), content) for job, key, content in images)
    try:
        return await asyncio.gather(*sending, return_exceptions=True)
    finally:
        batcher.close()


def test_images_that_come_together_are_committed_together(store, uploads):
    store.queue.create("a", "upload", DOG)
    images = [("a", key, b"%d" % key) for key in range(100)]
    assert asyncio.run(keep_all(uploads, images)) == [False] * 100
    assert sum(uploads.commits) == 100 and len(uploads.commits) < 50
    assert store.queue.get("a").total == 100
    assert asyncio.run(keep_all(uploads, images[:3])) == [True] * 3
    assert store.queue.get("a").total == 100


def test_jobs_do_not_share_a_failure(store, uploads):
    store.queue.create("good", "upload", DOG)
    store.queue.create("ended", "upload", DOG)
    store.queue.cancel("ended")
    images = [("good" if key % 2 else "ended", key, b"%d" % key) for key in range(20)]
    outcomes = asyncio.run(keep_all(uploads, images))
    assert {type(one) for one in outcomes[::2]} == {BadRequest}
    assert outcomes[1::2] == [False] * 10


def test_after_a_failure_the_next_image_is_kept(store, uploads):
    store.queue.create("a", "upload", DOG)
    uploads.fails = StoreUnavailable("the database is away")
    (outcome,) = asyncio.run(keep_all(uploads, [("a", 1, b"1")]))
    assert outcome is uploads.fails
    uploads.fails = None
    assert asyncio.run(keep_all(uploads, [("a", 1, b"1")])) == [False]


def test_bytes_that_are_not_durable_are_bounded(store, uploads, monkeypatch):
    store.queue.create("a", "upload", DOG)
    monkeypatch.setattr(upload_module, "MAX_BYTES", 10)
    outcomes = asyncio.run(keep_all(uploads, [("a", key, b"%06d" % key) for key in range(3)]))
    assert outcomes[0] is False and all(isinstance(one, Busy) for one in outcomes[1:])
    large = asyncio.run(keep_all(uploads, [("a", 9, b"alone it may be as large as it is")]))
    assert large == [False]


def test_throughput_is_that_of_the_last_half_minute():
    now = [0.0]
    throughput = Throughput(lambda: now[0])
    assert throughput.per_second(1000) == 0  # what was done before says nothing
    for second in range(1, 101):
        now[0] = second
        rate = throughput.per_second(1000 + 2 * second)
    assert rate == pytest.approx(2)
    for second in range(101, 141):
        now[0] = second
        rate = throughput.per_second(1200)
    assert rate == 0


def test_the_number_of_a_image_is_of_its_name_and_content():
    keys = {key_of(name, content) for name in ("a", "b") for content in (b"", b"x")}
    assert len(keys) == 4 and all(-(2**63) <= key < 2**63 for key in keys)
