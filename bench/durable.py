"""Labelling with a store, compared with the same pipeline without one.

With a store: what ``secondlook label`` does. Images are sent to an upload job, stored, labelled,
their evidence and decisions committed, and the results read back. Without: the same images are sent
to the same engine through a server that stores nothing. Embedded models, SQLite, no verdict cache;
every round has images that the store has not seen. A round is a whole job from creation to the last
result.
"""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import fixtures
from bench.paired_timing import Figure, paired
from secondlook.cli.label import SelectionUpload
from secondlook.core.image_folder import ImageFile, ImageSelection, read_image_file, select_images
from secondlook.labeling.engine import Engine
from secondlook.server.app import running_server
from secondlook.store import open_store
from secondlook_client import Client, SecondlookError

IMAGES, IN_FLIGHT = 240, 16
BAR = 0.9


def run() -> list[Figure | str]:
    """One ratio."""
    engine, ontology = Engine(fixtures.pipeline()), fixtures.ontology()
    with (
        tempfile.TemporaryDirectory() as scratch,
        open_store(Path(scratch) / "data", serving=True) as store,
        running_server(engine, ontology, store=store) as with_store,
        running_server(engine, ontology) as without_store,
        Client(with_store.address) as ours,
        Client(without_store.address) as baseline,
    ):
        rounds = _folders(Path(scratch))
        figure = paired(
            "durable labelling ÷ the same pipeline without a store",
            lambda: _durable(ours, next(rounds)),
            lambda: _baseline(baseline, next(rounds)),
            at_least=BAR,
            unit="images/s",
            rounds=5,
        )
    engine.close()
    return [figure]


def _folders(scratch: Path) -> Iterator[ImageSelection]:
    """Folders with the same scenes in other bytes: what follows the end of a JPEG is ignored."""
    for number in itertools.count():
        folder = scratch / f"round-{number}"
        folder.mkdir()
        for index, jpeg in enumerate(fixtures.jpegs(IMAGES)):
            (folder / f"{index:04}.jpg").write_bytes(jpeg + number.to_bytes(4, "big"))
        yield select_images([folder])


def _durable(client: Client, selection: ImageSelection) -> float:
    job = client.jobs.create(selection.root.name).name
    sending = SelectionUpload(client.jobs, job, selection, 2**30)
    sending.count()
    for _ in sending.send(lambda: False):
        pass
    client.jobs.finish(job)
    return float(sum(1 for _ in client.jobs.results(job, follow=True)))


def _baseline(client: Client, selection: ImageSelection) -> float:
    images = ((source, read_image_file(source, 2**30)) for source in selection.walk())
    answers = client.label_many(images, concurrency=IN_FLIGHT, name=_name)
    return float(sum(not isinstance(answer, SecondlookError) for _, answer in answers))


def _name(source: ImageFile) -> str:
    return source.name
