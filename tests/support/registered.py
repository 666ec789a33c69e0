"""Student versions in a store for tests: snapshots of coloured quarters, and students for them."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image as PILImage
from students import CLASSES, QUARTERS, image, write_student

from secondlook.datasets.manifest import Entry, ManifestBox, ManifestWriter
from secondlook.datasets.query import Query
from secondlook.detector.manifest import StudentManifest, read_manifest
from secondlook.store import Store
from secondlook.store.images import NewImage, add_images
from secondlook.store.model_versions import StudentVersion
from secondlook.store.snapshots import SnapshotRow
from secondlook_client.values import BoxKind

SIDE = 64


def freeze_quarters(
    store: Store, name: str, count: int = 8, classes: Sequence[str] = CLASSES, split: str = "val"
) -> SnapshotRow:
    """A snapshot of ``count`` held-out images, each with a person and a dog, and one to train."""
    images = {}
    for number in range(count + 1):
        content = _png(number)
        images[store.blobs.put(content)] = (number, content)
    writer = ManifestWriter(store.blobs)
    counts = dict.fromkeys(("train", split), 0)
    for sha256, (number, content) in sorted(images.items()):
        part = "train" if number == count else split
        counts[part] += 1
        boxes = tuple(
            _box((number + place) % 4, classes.index(name))
            for place, name in enumerate(CLASSES)
            if name in classes
        )
        entry = Entry(
            sha256, f"{number}.png", "png", len(content), SIDE, SIDE, part, "0" * 16, boxes
        )
        writer.add(entry)
    manifest = writer.finish(classes, ["train", split], ["m@1"])
    new = [NewImage(sha256, len(content), "png") for sha256, (_, content) in images.items()]
    with store.database.writing() as connection:
        ids = add_images(connection, new)
    splits = {part: {"images": count} for part, count in counts.items()}
    statistics = {"splits": splits, "classes": list(classes)}
    query = Query(runs=("r",)).to_json()
    return store.snapshots.add(name, manifest.sha256, query, statistics, sorted(ids.values()))


def student_of_snapshot(
    folder: Path, snapshot: SnapshotRow | None = None, seed: int = 0, **fields: object
) -> StudentManifest:
    """A student folder as if trained on the snapshot."""
    trained_on = {"snapshot": snapshot.manifest} if snapshot else {}
    return write_student(folder, seed=seed, **trained_on, **fields)


def add_version(
    store: Store, folder: Path, name: str = "street", report: str = "", **changed: Any
) -> StudentVersion:
    """Add a student folder as the next version of ``name``, with ``changed`` manifest fields."""
    manifest = replace(read_manifest(folder), **changed)
    for file in manifest.files:
        store.blobs.put((folder / file).read_bytes())
    return store.model_versions.add(name, manifest, report)[0]


def another_student(folder: Path, name: str, **changed: object) -> Path:
    """A sound student beside the one in ``folder``, trained on the same snapshot."""
    fields = {"snapshot": read_manifest(folder).snapshot, "seed": 1} | changed
    write_student(folder.with_name(name), **fields)
    return folder.with_name(name)


def _png(number: int) -> bytes:
    """A person in one quarter and a dog in the next; each image has a pixel of its own."""
    pixels = image((number % 4, 0), ((number + 1) % 4, 1), width=SIDE, height=SIDE)
    pixels[0, 0] = number
    file = io.BytesIO()
    PILImage.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _box(quarter: int, class_index: int) -> ManifestBox:
    x1, y1, x2, y2 = (float(edge) * SIDE for edge in QUARTERS[quarter])
    return ManifestBox(class_index, (x1, y1, x2, y2), BoxKind.LABEL, 0.9, 0.9, 0.9, "sure")
