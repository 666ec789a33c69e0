"""``DatasetService``: each call is checked, handed to the store, and answered."""

import asyncio
import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from secondlook.datasets.manifest import Entry, SnapshotManifest, entries, load_manifest
from secondlook.datasets.snapshot import create_snapshot
from secondlook.server.converters import (
    Slice,
    image_message,
    query_value,
    slice_of,
    snapshot_message,
    snapshot_page,
)
from secondlook.server.ownership import creator
from secondlook.server.store_calls import StoreServicer, page_of
from secondlook.store import Store
from secondlook_client.errors import BadRequest, NotFound, ShuttingDown
from secondlook_client.v1 import datasets_pb2 as pb
from secondlook_client.v1 import datasets_pb2_grpc

THREADS = 8
"""Calls that wait for the store at the same time."""
READERS = 8
"""Images read from the blob store at the same time: one from a bucket takes a while."""
IMAGES_AT_ONCE = 256
BYTES_AT_ONCE = 2**20
"""Of one message: enough that its overhead does not count, and a slow line shows progress."""


class DatasetServicer(StoreServicer, datasets_pb2_grpc.DatasetServiceServicer):
    """``DatasetService`` over a store; without one, every call is refused."""

    def __init__(self, store: Store | None, stopping: asyncio.Event) -> None:
        """``stopping`` ends the calls that stream images; their clients go on elsewhere."""
        super().__init__(store, "snapshots", THREADS)
        self._stopping = stopping
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="dataset-images")

    def close(self) -> None:
        """Let the threads end; call it when no call is running."""
        super().close()
        self._readers.shutdown(wait=False)

    async def CreateSnapshot(  # noqa: N802 (gRPC's own spelling)
        self, request: pb.CreateSnapshotRequest, context: Any
    ) -> pb.CreateSnapshotResponse:
        """Freeze what a query finds."""
        store, query, made_by = self._store, query_value(request.query), creator()
        made = await self._in_thread(
            lambda: snapshot_message(create_snapshot(store, request.name, query, made_by))
        )
        return pb.CreateSnapshotResponse(snapshot=made)

    async def GetSnapshot(  # noqa: N802
        self, request: pb.GetSnapshotRequest, context: Any
    ) -> pb.GetSnapshotResponse:
        """One snapshot."""
        store = self._store
        found = await self._in_thread(lambda: snapshot_message(store.snapshots.get(request.name)))
        return pb.GetSnapshotResponse(snapshot=found)

    async def ListSnapshots(  # noqa: N802
        self, request: pb.ListSnapshotsRequest, context: Any
    ) -> pb.ListSnapshotsResponse:
        """A page of snapshots, the newest first."""
        store = self._store
        size, before = page_of(request.page_size, request.page_token, "ListSnapshots")
        return await self._in_thread(
            lambda: snapshot_page(store.snapshots.page(before, size + 1), size)
        )

    # The stubs know only handlers that yield; these write, so that a slow reader slows them.
    async def Pull(  # type: ignore[override]  # noqa: N802
        self, request: pb.PullRequest, context: Any
    ) -> None:
        """The images of a snapshot."""
        store = self._store
        manifest = await self._in_thread(lambda: _manifest(store, request.snapshot))
        wanted = slice_of(request, manifest)
        await self._write_all(self._pulled(store, manifest, wanted, request.images), context)

    async def FetchImages(  # type: ignore[override]  # noqa: N802
        self, request: pb.FetchImagesRequest, context: Any
    ) -> None:
        """The bytes of some images."""
        store, name, wanted = self._store, request.snapshot, list(request.sha256)
        _check_hashes(wanted)
        # Only what the snapshot holds: other images of the store are not the caller's to read.
        if not await self._in_thread(lambda: store.snapshots.holds(name, wanted)):
            raise NotFound(f"snapshot '{name:.200}' is not there or lacks one of these images")
        contents = zip(wanted, self._contents(store, wanted), strict=True)
        responses = (pb.FetchImagesResponse(sha256=s, content=c) for s, c in contents)
        await self._write_all(responses, context)

    def _pulled(
        self, store: Store, manifest: SnapshotManifest, wanted: Slice, images: bool
    ) -> Iterator[pb.PullResponse]:
        found = entries(
            store.blobs, manifest, wanted.split, wanted.after, wanted.shard, wanted.shards
        )
        for some in _messages_of(found, images):
            hashes = [entry.sha256 for _, entry in some]
            contents = self._contents(store, hashes) if images else itertools.repeat(b"")
            yield pb.PullResponse(
                images=[
                    image_message(entry, wanted.cursor(manifest, place), content)
                    for (place, entry), content in zip(some, contents, strict=False)
                ]
            )

    def _contents(self, store: Store, hashes: Iterable[str]) -> Iterator[bytes]:
        """A few at a time, so that many large images do not lie in memory together."""
        waiting = iter(hashes)
        while some := tuple(itertools.islice(waiting, READERS)):
            yield from self._readers.map(store.blobs.get, some)

    async def _write_all(self, responses: Iterator[Any], context: Any) -> None:
        """Write what a slow iterator gives; the next is made while one is on its way."""
        upcoming = asyncio.ensure_future(self._in_thread(lambda: next(responses, None)))
        try:
            while (response := await upcoming) is not None:
                if self._stopping.is_set():
                    raise ShuttingDown("the server is shutting down; go on with the last cursor")
                upcoming = asyncio.ensure_future(self._in_thread(lambda: next(responses, None)))
                await context.write(response)
        finally:
            upcoming.cancel()


def _manifest(store: Store, name: str) -> SnapshotManifest:
    return load_manifest(store.blobs, store.snapshots.get(name).manifest)


def _messages_of(
    found: Iterable[tuple[int, Entry]], images: bool
) -> Iterator[list[tuple[int, Entry]]]:
    """What goes into one message each."""
    some: list[tuple[int, Entry]] = []
    size = 0
    for place, entry in found:
        if some and images and size + entry.size > BYTES_AT_ONCE:
            yield some
            some, size = [], 0
        some.append((place, entry))
        size += entry.size
        if len(some) == IMAGES_AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some


def _check_hashes(hashes: list[str]) -> None:
    if not hashes:
        raise BadRequest("expected the hashes of images, got none")
    for sha256 in hashes:
        if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
            raise BadRequest(f"expected hashes of 64 hex digits, got '{sha256:.80}'")
