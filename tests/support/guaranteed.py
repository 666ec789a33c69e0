"""A run whose labels are surer, and more often right, the earlier their image; and its truth."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select, update
from stored import labelled, stored_run

from secondlook.evaluation.matching import TrueBox
from secondlook.review.oracle import Oracle
from secondlook_client.ontology import ClassSpec, Ontology

if TYPE_CHECKING:
    from secondlook.store import Store

PETS = Ontology((ClassSpec("dog", question="Dog?"), ClassSpec("cat", question="Cat?")))
DOG, CAT = (1.0, 1.0, 12.0, 20.0), (20.0, 5.0, 39.0, 25.0)
COUNT = 50
RIGHT = 40
"""Images, the first, whose boxes are right."""


def store_pets(store: "Store") -> None:
    """The run ``pets``: ``COUNT`` images, no two alike, with a dog and a cat each."""
    from secondlook.store.schema import images

    rows = ((DOG, {"dog": 0.8}), (CAT, {"cat": 0.7}))
    results = []
    for n in range(COUNT):
        p_yes = 0.995 - 0.645 * n / COUNT
        results.append(labelled(f"p{n:03}", rows, {"Dog?": p_yes, "Cat?": p_yes}, PETS))
    stored_run(store, "pets", results, PETS)
    with store.database.writing() as connection:
        for number in connection.scalars(select(images.c.id)).all():
            digest = hashlib.sha256(str(number).encode()).digest()
            hashed = int.from_bytes(digest[:8], signed=True)
            one = update(images).where(images.c.id == number)
            connection.execute(one.values(perceptual_hash=hashed))


def pets_truth(right: int = RIGHT, images: int = COUNT) -> Oracle:
    """A truth in which the boxes of the first ``right`` images are right."""
    boxes = [TrueBox("dog", DOG), TrueBox("cat", CAT)]
    truth = {f"p{n:03}": boxes if n < right else [] for n in range(images)}
    return Oracle(truth, frozenset({"dog", "cat"}), source="truth.json")


def write_pets_truth(path: Path) -> Path:
    """The same as a COCO file."""
    annotations = [
        {"id": 2 * n + k, "image_id": n, "category_id": k, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for n in range(1, RIGHT + 1)
        for k, (x1, y1, x2, y2) in enumerate((DOG, CAT), 1)
    ]
    coco = {
        "images": [
            {"id": n + 1, "file_name": f"p{n:03}", "width": 40, "height": 30} for n in range(COUNT)
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": annotations,
    }
    path.write_text(json.dumps(coco), encoding="utf-8")
    return path
