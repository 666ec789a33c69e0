"""Runs over real images in a store, and snapshots: real pipeline and decoder, scripted models."""

import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from fakes import Row, ScriptedProposer, ScriptedSegmenter, ScriptedVerifier
from PIL import Image as PILImage
from stored import done_item

from secondlook.config.settings import PipelineSettings
from secondlook.core.images import decode
from secondlook.core.perceptual_hash import perceptual_hash
from secondlook.core.types import Image
from secondlook.datasets.manifest import Entry, entries, load_manifest
from secondlook.datasets.query import Query, SplitShare
from secondlook.datasets.snapshot import create_snapshot
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook.store import Store
from secondlook.store.images import ImageMeasurement, NewImage, add_images, measure_images
from secondlook.store.runs import Run, create_run
from secondlook_client.ontology import ClassSpec, Ontology

PETS = Ontology((ClassSpec("dog", question="Dog?"), ClassSpec("cat", question="Cat?")))
SURE = {"Dog?": 0.95, "Cat?": 0.02}
DOG_BOX = (8.0, 4.0, 40.0, 36.5)
LIMITS = PipelineSettings(score_floor=0.1)
SETTINGS = LIMITS.recorded()
HALVES = (SplitShare("train", 1), SplitShare("val", 1))

Script = Callable[[Image, Sequence[str]], Sequence[Row]]


def drawn(seed: int, width: int = 72, height: int = 64) -> PILImage.Image:
    """Blocks of random colours: no two seeds are alike."""
    blocks = np.random.default_rng(seed).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    return PILImage.fromarray(blocks).resize((width, height), PILImage.Resampling.NEAREST)


def encoded(image: PILImage.Image, kind: str = "JPEG", **options: object) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photos(count: int, first: int = 0) -> dict[str, bytes]:
    """Different images by name, in folders of five."""
    return {f"f{n // 5}/{n:03}.jpg": encoded(drawn(first + n)) for n in range(count)}


def one_dog(image: Image, phrases: Sequence[str]) -> Sequence[Row]:
    """A box that may be a dog, and less likely a cat, on every image."""
    return [(DOG_BOX, {"dog": 0.8, "cat": 0.3})]


def stored(
    store: Store,
    name: str,
    images: Mapping[str, bytes],
    *,
    kind: str = "folder",
    ontology: Ontology = PETS,
    script: Script = one_dog,
    answers: Mapping[str, float] = SURE,
    settings: PipelineSettings = LIMITS,
    segmenter: ScriptedSegmenter | None = None,
) -> Run:
    """A run that labelled ``images`` (bytes by name)."""
    verifier = ScriptedVerifier(answers)
    pipeline = Pipeline(ScriptedProposer(script), verifier, settings, segmenter)
    decoded = [decode(content, image_name) for image_name, content in images.items()]
    found = pipeline.label([Task(image, ontology) for image in decoded])
    with store.database.writing() as connection:
        run = create_run(connection, name, kind, ontology, settings.recorded())
        measured, kept = [], []
        for key, (image, labelled) in enumerate(zip(decoded, found, strict=True)):
            content = images[image.name]
            sha256 = store.blobs.put(content)
            number = add_images(connection, [NewImage.of(sha256, content)])[sha256]
            measured.append(
                ImageMeasurement(number, image.width, image.height, perceptual_hash(image.pixels))
            )
            item = done_item(connection, run, key, image.name, len(content), number)
            kept.append((item, number, labelled))
        measure_images(connection, measured)
        assert store.results.add(connection, run, kept) == len(kept)
    return store.results.run(name)


def entries_of(store: Store, name: str = "s") -> list[Entry]:
    """The images of a snapshot."""
    manifest = load_manifest(store.blobs, store.snapshots.get(name).manifest)
    return [entry for _, entry in entries(store.blobs, manifest)]


def frozen(store: Store, **query: object) -> list[Entry]:
    """The images of a new snapshot; of the run ``r`` when the query names none."""
    name = f"s{len(store.snapshots.page())}"
    create_snapshot(store, name, Query(**{"runs": ("r",), **query}))
    return entries_of(store, name)
