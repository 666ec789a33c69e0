"""Downloading a snapshot over gRPC, compared with reading the same files from a folder.

Both sides run the same loop, as a training would: each image is decoded to RGB. The server is a
separate process on the same machine, with SQLite and images in a folder; every image is checked by
its hash on the server and in the client, and comes with its labels. The baseline reads files by
name, without checks or labels.
"""

import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image as PILImage

from bench import fixtures, stored_runs
from bench.paired_timing import Figure, paired
from secondlook.datasets.export import export
from secondlook.datasets.query import Query
from secondlook.datasets.snapshot import create_snapshot
from secondlook.labeling.engine import Engine
from secondlook.server.app import running_server
from secondlook.store import Store, open_store
from secondlook.store.images import ImageMeasurement, NewImage, add_images, measure_images
from secondlook.store.queue import NewItem
from secondlook_client import Client
from secondlook_client.dataset import SnapshotDataset
from secondlook_client.values import Example

IMAGES, SIDE = 400, 640
BAR = 0.7


def run() -> list[Figure | str]:
    """One ratio; the same without decoding as a note."""
    with tempfile.TemporaryDirectory() as scratch:
        data, folder = Path(scratch) / "data", Path(scratch) / "export"
        with open_store(data) as store:
            size = _fill(store)
            create_snapshot(store, "s", Query(("r",)))
            export(store, "s", folder, ("coco",))
        paths = sorted((folder / "images").rglob("*.jpg"))
        with _server(data) as address, Client(address) as client:

            def pulled() -> Iterator[bytes]:
                return (example.content for example in client.datasets.pull("s"))

            def read() -> Iterator[bytes]:
                return (path.read_bytes() for path in paths)

            figure = paired(
                "download with images ÷ files of a folder",
                lambda: _decoded(pulled()),
                lambda: _decoded(read()),
                at_least=BAR,
                unit="images/s",
            )
            bare = [_per_second(pulled), _per_second(read)]
            cached: SnapshotDataset[Example] = SnapshotDataset(
                address, "s", cache=Path(scratch) / "cache", transform=None
            )
            cached.download()
            again = _per_second(lambda: (example.content for example in cached))
    return [
        figure,
        f"{IMAGES} JPEGs of {SIDE} px, {size / IMAGES / 1000:.0f} kB each. Without decoding: "
        f"downloaded {bare[0]:,.0f} images/s, read from a folder {bare[1]:,.0f}, read from the "
        f"client's cache with hashes and labels checked {again:,.0f}.",
    ]


def _decoded(contents: Iterable[bytes]) -> int:
    count = 0
    for content in contents:
        PILImage.open(io.BytesIO(content)).convert("RGB")
        count += 1
    return count


def _per_second(contents: Callable[[], Iterable[bytes]]) -> float:
    started = time.perf_counter()
    return sum(1 for _ in contents()) / (time.perf_counter() - started)


def _fill(store: Store) -> int:
    """Write a run ``r`` of real images; returns their size in bytes."""
    found, ontology = stored_runs.labelled(), fixtures.ontology()
    settings = fixtures.pipeline().settings.recorded()
    store.queue.create("r", "upload", ontology, settings=settings)
    run, encoded = store.results.run("r"), fixtures.jpegs(IMAGES, SIDE)
    new = [NewImage(store.blobs.put(content), len(content), "jpg") for content in encoded]
    with store.database.writing() as connection:
        ids = add_images(connection, new)
    named = ((f"{n}.jpg", ids[image.sha256]) for n, image in enumerate(new))
    store.queue.add(run.id, [NewItem(n, name, image_id=i) for n, (name, i) in enumerate(named)])
    waiting = store.queue.next(run.id, IMAGES)
    with store.database.writing() as connection:
        for place, item in enumerate(waiting):
            assert item.image_id
            labelled = found[place % len(found)]
            measure_images(connection, [ImageMeasurement(item.image_id, SIDE, SIDE, place)])
            store.results.add(connection, run, [(item.id, item.image_id, labelled)])
    return sum(image.size for image in new)


@contextmanager
def _server(data: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "bench.pulling", str(data)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin and process.stdout
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait()


def _serve(data: Path) -> None:
    """Serve the store until standard input ends."""
    engine = Engine(fixtures.pipeline())
    with open_store(data) as store, running_server(engine, store=store) as server:
        print(server.address, flush=True)
        sys.stdin.read()
    engine.close()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
