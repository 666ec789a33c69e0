"""Judged boxes of finished runs, for the benchmarks of probabilities and guarantees."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from secondlook.core.types import Labelled
from secondlook.evaluation.coco_files import truth_of
from secondlook.evaluation.judged_boxes import JudgedRun, of_labelled
from secondlook.evaluation.matching import MIN_IOU
from secondlook.store import Store, open_store

__all__ = ["JudgedRun", "judged_run", "of_labelled"]
PAGE = 500


def judged_run(labels: Path, truth: Path, min_iou: float = MIN_IOU) -> JudgedRun:
    """The only run of a ``secondlook label`` output folder, with a COCO file of the truth.

    The folder is left as it is: its store is copied, since opening one may migrate it.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "store"
        shutil.copytree(labels / ".store", copy, ignore=shutil.ignore_patterns("images", "blobs"))
        with open_store(copy) as store:
            name = next(iter(_runs(store)))
            known = truth_of(truth)
            labelled = list(_results(store, name))
            ontology = store.results.run(name).ontology
    run = of_labelled(labelled, ontology, [known[one.name] for one in labelled])
    return replace(run, min_iou=min_iou)


def _results(store: Store, run: str) -> Iterator[Labelled]:
    run_id, after = store.results.run(run).id, 0
    while page := store.results.page(run_id, after, PAGE):
        yield from (result.labelled for result in page)
        after = page[-1].cursor


def _runs(store: Store) -> list[str]:
    from sqlalchemy import select

    from secondlook.store.schema import runs

    with store.database.reading() as connection:
        return list(connection.scalars(select(runs.c.name).order_by(runs.c.id)))
