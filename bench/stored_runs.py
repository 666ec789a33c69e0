"""A finished run of any size in a store, made from a few images that were really labelled."""

import hashlib
from functools import cache

from bench import fixtures
from secondlook.core.images import decode
from secondlook.core.types import Labelled
from secondlook.labeling.pipeline import Task
from secondlook.store import Store
from secondlook.store.codec import pack_evidence
from secondlook.store.database import insert_new, now
from secondlook.store.ontologies import text_id
from secondlook.store.results import decision_row
from secondlook.store.runs import Run, create_run, name_models
from secondlook.store.schema import decisions, evidence, images, items

LABELLED = 48
"""Images that the embedded models label; a large run repeats their results."""
AT_ONCE = 2000


@cache
def labelled() -> list[Labelled]:
    """Results of the embedded models on scenes of the demo world."""
    ontology, pipeline = fixtures.ontology(), fixtures.pipeline()
    tasks = [Task(decode(data), ontology) for data in fixtures.jpegs(LABELLED)]
    return [
        found
        for start in range(0, LABELLED, 8)
        for found in pipeline.label(tasks[start : start + 8])
    ]


def write_run(store: Store, name: str, count: int) -> Run:
    """Write a run of ``count`` images in bulk; the images have no bytes."""
    found, settings = labelled(), fixtures.pipeline().settings.recorded()
    with store.database.writing() as connection:
        run = create_run(connection, name, "folder", fixtures.ontology(), settings)
        first = found[0].evidence
        name_models(connection, run, first.proposer, first.verifier)
        models = {
            "proposer_id": text_id(connection, first.proposer),
            "verifier_id": text_id(connection, first.verifier),
        }
    packed = [pack_evidence(one.evidence, run.ontology) for one in found]
    shared = {"ontology_id": run.ontology_id, "created_at": now(), **models}
    for start in range(1, count + 1, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, count + 1))
        with store.database.writing() as connection:
            insert_new(connection, images, [_image(number) for number in numbers])
            insert_new(connection, items, [_item(run, number) for number in numbers])
            rows = [
                {"id": n, "image_id": n, "content": packed[n % len(packed)], **shared}
                for n in numbers
            ]
            insert_new(connection, evidence, rows)
            decided = [
                decision_row(run, n, n, n, found[n % len(found)].judgements) for n in numbers
            ]
            insert_new(connection, decisions, decided)
    return store.results.run(name)


def _image(number: int) -> dict[str, object]:
    return {
        "id": number,
        "sha256": hashlib.sha256(str(number).encode()).digest(),
        "size": 200_000,
        "width": 320,
        "height": 320,
        "format": "jpg",
        "perceptual_hash": number,
        "added_at": 0.0,
    }


def _item(run: Run, number: int) -> dict[str, object]:
    return {
        "id": number,
        "run_id": run.id,
        "key": number,
        "name": f"folder {number // 1000}/{number}.jpg",
        "size": 200_000,
        "mtime_ns": 1,
        "image_id": number,
        "state": 1,
        "attempts": 1,
        "not_before": 0.0,
        "reason": "",
        "message": "",
    }
