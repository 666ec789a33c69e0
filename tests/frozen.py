"""Runs over real pictures in a store, for snapshots: real pipeline and decoder, scripted models."""

import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from fakes import Row, ScriptedProposer, ScriptedVerifier
from PIL import Image as PILImage
from sqlalchemy import insert

from secondlook.images import decode
from secondlook.labels import Image
from secondlook.likeness import likeness
from secondlook.ontology import ClassSpec, Ontology
from secondlook.pipeline import Limits, Pipeline, Task
from secondlook.store import Store
from secondlook.store.pictures import NewPicture, add_pictures, measure_picture
from secondlook.store.runs import Run, create_run
from secondlook.store.tables import items

PETS = Ontology((ClassSpec("dog", question="Dog?"), ClassSpec("cat", question="Cat?")))
SURE = {"Dog?": 0.95, "Cat?": 0.02}
DOG_BOX = (8.0, 4.0, 40.0, 36.5)
LIMITS = Limits(floor=0.1)
SETTINGS = {"floor": LIMITS.floor, "max_boxes": LIMITS.max_boxes, "max_iou": LIMITS.max_iou}

Script = Callable[[Image, Sequence[str]], Sequence[Row]]


def drawn(seed: int, width: int = 72, height: int = 64) -> PILImage.Image:
    """Blocks of random colours: no two seeds are alike."""
    blocks = np.random.default_rng(seed).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    return PILImage.fromarray(blocks).resize((width, height), PILImage.Resampling.NEAREST)


def encoded(picture: PILImage.Image, kind: str = "JPEG", **options: object) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def photos(count: int, first: int = 0) -> dict[str, bytes]:
    """Different pictures by name, in folders of five."""
    return {f"f{n // 5}/{n:03}.jpg": encoded(drawn(first + n)) for n in range(count)}


def one_dog(image: Image, phrases: Sequence[str]) -> Sequence[Row]:
    """A box that may be a dog, and less likely a cat, on every picture."""
    return [(DOG_BOX, {"dog": 0.8, "cat": 0.3})]


def stored(
    store: Store,
    name: str,
    pictures: Mapping[str, bytes],
    *,
    kind: str = "folder",
    ontology: Ontology = PETS,
    script: Script = one_dog,
    answers: Mapping[str, float] = SURE,
) -> Run:
    """A run that labelled ``pictures`` (bytes by name)."""
    pipeline = Pipeline(ScriptedProposer(script), ScriptedVerifier(answers), LIMITS)
    with store.database.writing() as connection:
        run = create_run(connection, name, kind, ontology, SETTINGS)
        for key, (picture_name, content) in enumerate(pictures.items()):
            image = decode(content, picture_name)
            sha256 = store.blobs.put(content)
            new = NewPicture.of(sha256, content)
            number = add_pictures(connection, [new])[sha256]
            hashed = likeness(image.pixels)
            measure_picture(connection, number, image.width, image.height, hashed)
            row = {
                "run_id": run.id,
                "key": key,
                "name": picture_name,
                "size": len(content),
                "changed_ns": 0,
                "picture_id": number,
                "state": 1,
                "tries": 1,
                "not_before": 0.0,
                "reason": "",
                "message": "",
            }
            item = connection.execute(insert(items).values(row).returning(items.c.id)).scalar_one()
            (labelled,) = pipeline.label([Task(image, ontology)])
            assert store.records.keep(connection, run, item, number, labelled)
    return store.records.run(name)
