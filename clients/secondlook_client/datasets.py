"""Snapshots of a server: making them, listing them, streaming their images."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from secondlook_client import wire
from secondlook_client.calls import BlockingConnection, iterate
from secondlook_client.retry import RetryPolicy
from secondlook_client.v1 import datasets_pb2 as pb
from secondlook_client.v1 import datasets_pb2_grpc
from secondlook_client.values import Example, Snapshot, SnapshotQuery

CALL_S = 30.0
"""For a call that moves no image, all its tries included."""
CREATE_S = 3600.0
"""Freezing hundreds of thousands of images takes minutes."""
SILENCE_S = 120.0
"""How long a stream may give nothing, all its tries included, before it is given up."""
AT_ONCE = 256
"""Images asked for in one call; the server takes no more."""


class Datasets(BlockingConnection):
    """The snapshots of a server with a store; use ``Client.datasets``.

        client.datasets.create("street-1", SnapshotQuery(runs=["street"]))
        for example in client.datasets.pull("street-1", split="train"):
            learn(example.content, example.labels)

    Every call raises a ``SecondlookError``: ``NotFound`` for a snapshot that is not there,
    ``AlreadyExists`` for a name in use, ``NotSupported`` from a server without a store.
    """

    def __init__(self, channel: Any, retry: RetryPolicy, address: str) -> None:
        """``channel`` is the client's."""
        super().__init__(channel, retry, address)
        self._stub = datasets_pb2_grpc.DatasetServiceStub(channel)

    def create(self, name: str, query: SnapshotQuery, *, timeout_s: float = CREATE_S) -> Snapshot:
        """Freeze what ``query`` finds under a new name."""
        request = pb.CreateSnapshotRequest(name=name, query=wire.query_message(query))
        return wire.snapshot(self._call(self._stub.CreateSnapshot, request, timeout_s).snapshot)

    def get(self, name: str, *, timeout_s: float = CALL_S) -> Snapshot:
        """The snapshot of that name."""
        request = pb.GetSnapshotRequest(name=name)
        return wire.snapshot(self._call(self._stub.GetSnapshot, request, timeout_s).snapshot)

    def list(self, *, timeout_s: float = CALL_S) -> Iterator[Snapshot]:
        """All snapshots, the newest first, fetched page by page."""
        plan = self._listed(
            self._stub.ListSnapshots,
            pb.ListSnapshotsRequest(),
            timeout_s,
            lambda page: map(wire.snapshot, page.snapshots),
        )
        yield from iterate(plan)

    def pull(
        self,
        name: str,
        *,
        split: str = "",
        shard: int = 0,
        shards: int = 1,
        cursor: str = "",
        images: bool = True,
    ) -> Iterator[Example]:
        """The images of a snapshot (of one split, unless empty), each checked by its hash.

        They come in random order, always the same. ``shard`` of ``shards`` takes every
        ``shards``-th of them. ``cursor``, of the last example that was used, continues behind it;
        a connection that breaks is resumed. Without ``images``, ``content`` is empty. Leaving the
        loop ends the call.
        """
        classes = self.get(name).classes
        request = pb.PullRequest(
            snapshot=name,
            split=split,
            shard=shard,
            shards=shards,
            cursor=cursor,
            images=images,
        )
        for message in self.messages(request):
            content = wire.checked_content(message.sha256, message.content) if images else b""
            yield wire.example(message, classes, content)

    def messages(self, request: pb.PullRequest) -> Iterator[pb.SnapshotImage]:
        """The images as they come, resumed after each failure that may pass."""
        with closing(self._responses(lambda: self._stub.Pull(request), SILENCE_S)) as responses:
            for response in responses:
                for image in response.images:
                    yield image
                    request.cursor = image.cursor

    def fetch(self, name: str, hashes: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """(sha256, bytes) of some images of a snapshot, each checked by its hash."""
        left = list(dict.fromkeys(hashes))

        def some() -> Any:
            return self._stub.FetchImages(
                pb.FetchImagesRequest(snapshot=name, sha256=left[:AT_ONCE])
            )

        while left:
            with closing(self._responses(some, SILENCE_S, lambda: not left)) as images:
                for image in images:
                    yield image.sha256, wire.checked_content(image.sha256, image.content)
                    left.remove(image.sha256)
