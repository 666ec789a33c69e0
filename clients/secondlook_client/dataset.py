"""A snapshot as a dataset for training, with a cache on this machine. Needs no torch.

    data = SnapshotDataset("labels.lan:50051", "street-1", split="train")
    image, target = data[0]  # see image_and_target
    loader = torch.utils.data.DataLoader(
        data, batch_size=16, shuffle=True, collate_fn=list, num_workers=2
    )

``transform`` turns an ``Example`` into what the training wants, in the worker. What was fetched
once is read from the cache from then on, so a second epoch needs no server.
"""

import gc
import hashlib
import os
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack

from secondlook_client import wire
from secondlook_client.channel import AccessOptions, ServerAccess
from secondlook_client.dataset_cache import ImageCache, Index, default_cache
from secondlook_client.datasets import Datasets
from secondlook_client.errors import BadImage, Damaged, InvalidInput
from secondlook_client.images import pixels_of
from secondlook_client.private_files import checked_sha256, is_plain_name
from secondlook_client.retry import RetryPolicy
from secondlook_client.v1 import datasets_pb2 as pb
from secondlook_client.values import Box, BoxKind, Example, Snapshot, SnapshotQuery

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Box",
    "BoxKind",
    "Example",
    "Snapshot",
    "SnapshotDataset",
    "SnapshotQuery",
    "image_and_target",
]

Item = TypeVar("Item")

AHEAD = 64
"""Images fetched in one go when the dataset is read from front to back."""
QUIET_S = 0.02
"""For threads of gRPC to end."""
PATIENT = RetryPolicy(unavailable_s=60)
"""A server that restarts is waited for: a training runs for days."""


def image_and_target(example: Example) -> "tuple[NDArray[np.uint8], dict[str, Any]]":
    """The pixels, (H, W, 3) uint8 RGB, and what is to be learned of them; the default transform.

    ``target`` has ``boxes`` (N, 4) float32 pixel xyxy, ``labels`` (N,) int64, the places of their
    classes from 0, ``masks``, a ``Mask`` or None for each of them (``to_array`` gives its pixels),
    ``tracks`` (N,) int64, their numbers in a video (0: not tracked),
    ``ignore`` (M, 4) float32, regions in which nothing is to be learned, ``name`` and ``sha256``.
    Images differ in size, so a loader wants ``collate_fn=list``. Raises
    ``Damaged``.
    """
    import numpy as np

    def boxes(kind: BoxKind) -> "NDArray[np.float32]":
        return np.array([box.xyxy for box in example.of(kind)], np.float32).reshape(-1, 4)

    try:
        pixels = pixels_of(example.content)
    except BadImage as cause:
        raise Damaged(f"the server's image {example.sha256[:16]}… is damaged: {cause}") from cause
    labels = np.array([box.class_index for box in example.labels], np.int64)
    return pixels, {
        "boxes": boxes(BoxKind.LABEL),
        "labels": labels,
        "masks": tuple(box.mask for box in example.labels),
        "tracks": np.array([box.track for box in example.labels], np.int64),
        "ignore": boxes(BoxKind.IGNORE),
        "name": example.name,
        "sha256": example.sha256,
    }


class SnapshotDataset(Generic[Item]):
    """The images of a snapshot by number; for ``torch.utils.data.DataLoader`` and plain loops.

    Its length and order never change. It can be sent to other processes, forked or started anew;
    each opens a line of its own, and only for images that the cache lacks.
    """

    def __init__(
        self,
        address: str,
        snapshot: str,
        *,
        split: str = "",
        shard: int = 0,
        shards: int = 1,
        manifest: str = "",
        cache: str | os.PathLike[str] | None = None,
        transform: Callable[[Example], Item] | None = image_and_target,  # type: ignore[assignment]
        retry: RetryPolicy = PATIENT,
        **access: Unpack[AccessOptions],
    ) -> None:
        """``split`` empty takes all; ``shard`` of ``shards`` is for several hosts.

        ``manifest`` is the hash that the snapshot must have, if given. ``cache`` is a folder
        (default: ``secondlook`` in the user's cache folder). ``transform`` None gives each
        ``Example`` as it is, with the encoded image and the boxes of every kind. ``access`` is
        as of ``Client``; a pickle of the dataset holds the token. Asks the server for the labels
        when the cache has them not; raises a ``SecondlookError``.
        """
        if not 0 <= shard < shards:
            raise InvalidInput(f"shard {shard} is out of range: of {shards} the first is 0")
        self._line = _Line(address, retry, ServerAccess.given(access))
        self._transform = transform
        self._cache = ImageCache(Path(cache) if cache is not None else default_cache())
        self.snapshot = self._line.datasets().get(snapshot)
        """What is pulled."""
        if manifest and manifest != self.snapshot.manifest:
            raise InvalidInput(
                f"snapshot '{snapshot}' has the manifest {self.snapshot.manifest[:16]}…, not "
                f"{manifest[:16]}…; it was removed and made anew, or this is another server"
            )
        request = pb.PullRequest(snapshot=snapshot, split=split, shard=shard, shards=shards)
        self._index = self._indexed(request)
        self._line.close()

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of their numbers."""
        return self.snapshot.classes

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, number: int) -> Item:
        if not -len(self) <= number < len(self):
            raise IndexError(f"the dataset has {len(self)} images, there is no {number}")
        return self.__getitems__([number % len(self)])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Item]:
        """Several at a time, as torch's loader asks for a batch: what lacks comes in one call."""
        entries = [self._index[number] for number in numbers]
        contents = self._contents([entry.sha256 for entry in entries])
        return [self._item(entry, contents[entry.sha256]) for entry in entries]

    def __iter__(self) -> Iterator[Item]:
        for start in range(0, len(self), AHEAD):
            yield from self.__getitems__(range(start, min(start + AHEAD, len(self))))

    def download(self) -> None:
        """Fetch everything that the cache lacks, so that no server is needed any more."""
        for start in range(0, len(self), AHEAD):
            entries = [self._index[n] for n in range(start, min(start + AHEAD, len(self)))]
            missing = [entry.sha256 for entry in entries if not self._cache.has(entry.sha256)]
            self._fetched(missing)

    def _indexed(self, request: pb.PullRequest) -> Index:
        split = request.split or "all"
        if not is_plain_name(split):  # whoever made the snapshot names its splits
            split = hashlib.sha256(split.encode()).hexdigest()
        part = f"{split}-{request.shard}-of-{request.shards}"
        folder = self._cache.root / "snapshots"
        path = folder / checked_sha256(self.snapshot.manifest, "the snapshot") / part
        count = len(range(request.shard, self.snapshot.count(request.split), request.shards))
        return Index.open(path, count, lambda: self._line.datasets().messages(request))

    def _contents(self, hashes: Sequence[str]) -> dict[str, bytes]:
        found = {sha256: self._cache.get(sha256) for sha256 in hashes}
        present = {sha256: content for sha256, content in found.items() if content is not None}
        return present | self._fetched([sha256 for sha256 in found if sha256 not in present])

    def _fetched(self, hashes: Sequence[str]) -> dict[str, bytes]:
        if not hashes:
            return {}
        fetched = {}
        for sha256, content in self._line.datasets().fetch(self.snapshot.name, hashes):
            self._cache.put(sha256, content)
            fetched[sha256] = content
        return fetched

    def _item(self, entry: pb.SnapshotImage, content: bytes) -> Item:
        example: Any = wire.example(entry, self.classes, content)
        return self._transform(example) if self._transform else example


class _Line:
    """A channel that each process opens for itself, and that none takes through a fork."""

    def __init__(self, address: str, retry: RetryPolicy, access: ServerAccess) -> None:
        self._address = address
        self._retry = retry
        self._access = access
        self._channel: Any = None
        self._datasets: Datasets | None = None
        _LINES.add(self)

    def datasets(self) -> Datasets:
        if self._datasets is None:
            self._channel = self._access.channel(self._address)
            self._datasets = Datasets(self._channel, self._retry, self._address)
        return self._datasets

    def close(self) -> bool:
        """Whether it was open."""
        was_open = self._channel is not None
        if was_open:
            self._channel.close()
        self._channel = self._datasets = None
        return was_open

    def __getstate__(self) -> tuple[str, RetryPolicy, ServerAccess]:
        return self._address, self._retry, self._access

    def __setstate__(self, state: tuple[str, RetryPolicy, ServerAccess]) -> None:
        self.__init__(*state)  # type: ignore[misc]


_LINES: weakref.WeakSet[_Line] = weakref.WeakSet()


def _close_lines() -> None:
    # gRPC's threads do not come along through a fork, so a line that is open then is dead in the
    # child; one opened there works. A lock that they hold just then stays locked in the child for
    # ever, which hung one child in thirty: they end when the last object of gRPC is freed.
    if sum(line.close() for line in list(_LINES)):
        gc.collect()
        time.sleep(QUIET_S)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_close_lines)
