"""Runs in a store, labelled by the real pipeline with scripted models."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fakes import Row, ScriptedProposer, ScriptedSegmenter, ScriptedVerifier, make_image
from PIL import Image as PILImage
from sqlalchemy import insert, select

from secondlook.config.settings import PipelineSettings
from secondlook.core.types import Image, Labelled
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import NewReview, Review, ReviewAnswer

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from secondlook.store import Store
    from secondlook.store.runs import Run

LIMITS = PipelineSettings(score_floor=0.1)
SETTINGS = LIMITS.recorded()


def street_ontology(threshold: float = 0.25, accept: float = 0.6) -> Ontology:
    """Two sides of a contrast over one phrase, and a class of its own."""
    cut = {"threshold": threshold, "accept": accept}
    return Ontology(
        (
            ClassSpec("glasses on", ("person",), "On?", group="eyes", **cut),
            ClassSpec("glasses off", ("person",), "Off?", group="eyes", **cut),
            ClassSpec("dog", question="Dog?", **cut),
        )
    )


STREET: tuple[Row, ...] = (
    ((1, 1, 12, 20), {"person": 0.8}),
    ((20, 5, 39, 25), {"dog": 0.7, "person": 0.12}),
    ((21, 5, 39, 26), {"dog": 0.3}),
    ((2, 20, 9, 29), {"dog": 0.2}),
)
ANSWERS = {"On?": 0.95, "Off?": 0.02, "Dog?": 0.5}


def labelled(
    name: str = "street",
    rows: Sequence[Row] = STREET,
    answers: dict[str, float] | None = ANSWERS,
    ontology: Ontology | None = None,
    segmenter: ScriptedSegmenter | None = None,
    **settings: Any,
) -> Labelled:
    """One image of 40×30 pixels through the pipeline; ``answers`` None means no verification."""

    def script(image: Image, phrases: Sequence[str]) -> Sequence[Row]:
        return rows

    verifier = ScriptedVerifier(answers) if answers is not None else None
    task = Task(make_image(name), ontology or street_ontology())
    limits = replace(LIMITS, **settings)
    (found,) = Pipeline(ScriptedProposer(script), verifier, limits, segmenter).label([task])
    return found


def stored_run(
    store: "Store",
    name: str,
    results: Sequence[Labelled],
    ontology: Ontology | None = None,
    settings: dict[str, Any] = SETTINGS,
) -> "Run":
    """A finished folder run with these results, and the images of these names."""
    from secondlook.store.images import ImageMeasurement, NewImage, add_images, measure_images
    from secondlook.store.runs import create_run

    with store.database.writing() as connection:
        run = create_run(connection, name, "folder", ontology or street_ontology(), settings)
        measured, kept = [], []
        for place, result in enumerate(results):
            content = encoded(result.name)
            sha256 = store.blobs.put(content)
            new = NewImage(sha256, len(content), "png")
            image = add_images(connection, [new])[sha256]
            measured.append(ImageMeasurement(image, result.width, result.height, 0))
            item = done_item(connection, run, place, result.name, len(content), image)
            kept.append((item, image, result))
        measure_images(connection, measured)
        assert store.results.add(connection, run, kept) == len(kept)
    return store.results.run(name)


def done_item(
    connection: "Connection", run: "Run", key: int, name: str, size: int, image: int
) -> int:
    """The number of a new item of the run, as if it had been labelled."""
    from secondlook.store.schema import items

    row = {
        "run_id": run.id,
        "key": key,
        "name": name,
        "size": size,
        "mtime_ns": 0,
        "image_id": image,
        "state": 1,
        "attempts": 1,
        "not_before": 0.0,
        "reason": "",
        "message": "",
    }
    return int(connection.execute(insert(items).values(row).returning(items.c.id)).scalar_one())


def encoded(name: str) -> bytes:
    """An image of 40×30 pixels, another one for every name."""
    colour = tuple(hashlib.sha256(name.encode()).digest()[:3])
    buffer = io.BytesIO()
    PILImage.new("RGB", (40, 30), colour).save(buffer, "PNG")
    return buffer.getvalue()


def image_of(store: "Store", name: str) -> int:
    """The number of the image of that name, or of the one whose bytes are the name."""
    from secondlook.store.schema import images

    digests = [hashlib.sha256(content).digest() for content in (encoded(name), name.encode())]
    with store.database.reading() as connection:
        query = select(images.c.id).where(images.c.sha256.in_(digests))
        return int(connection.execute(query).scalar_one())


def stored_frames(store: "Store", stream: str) -> list[tuple[int, str, bytes]]:
    """Number, name and bytes of every frame of a stream."""
    from secondlook.store.schema import images, items, runs

    query = select(items.c.key, items.c.name, images.c.sha256)
    query = query.join(runs, runs.c.id == items.c.run_id).join(images)
    with store.database.reading() as connection:
        rows = connection.execute(query.where(runs.c.name == stream)).all()
    return [(key, name, store.blobs.get(digest.hex())) for key, name, digest in rows]


def review_box(
    store: "Store",
    image: int,
    class_name: str,
    box: tuple[float, float, float, float] | None,
    answer: str,
    person: str = "Ann",
    note: str = "",
    **wrong: Any,
) -> Review:
    """What a person says of a box of the image with that number; ``wrong``: why, and what else."""
    from secondlook.store.schema import images

    with store.database.reading() as connection:
        by_id = select(images.c.sha256).where(images.c.id == image)
        sha256 = connection.execute(by_id).scalar_one().hex()
    new = NewReview(
        sha256, class_name, box, ReviewAnswer(answer), person=person, note=note, **wrong
    )
    (review,) = store.reviews.add([new])
    return review
