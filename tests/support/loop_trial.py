"""A learning loop with scripted students, whose process is killed again and again."""

import multiprocessing
import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from guaranteed import pets_truth, store_pets

from secondlook.datasets.samples import Sample, TrainingSet
from secondlook.detector.detections import Detections
from secondlook.review.image_pool import RunPool, read_pool
from secondlook.review.learning_loop import LearningLoop
from secondlook.review.loop_record import LoopPlan, LoopRecord, StopRules, read_record
from secondlook.selection.choices import Strategy
from secondlook.store import Store, open_store
from secondlook_client.errors import NotFound

PLAN = LoopPlan("pets", "pets", Strategy.UNCERTAINTY, batch=5, held_out=10, seed=3)
RULES = StopRules(rounds=6)
LONGEST_S = 0.35
"""A process is killed at a random moment up to here."""


@dataclass
class ScriptedModels:
    """Students that find a box the more surely, the more images they learnt."""

    store: Store
    trained: list[TrainingSet] = field(default_factory=list)
    asked_of: list[tuple[Strategy, Sequence[str]]] = field(default_factory=list)

    def pool(
        self, strategy: Strategy, students: Sequence[str], left_out: Collection[str]
    ) -> RunPool:
        self.asked_of.append((strategy, students))
        return read_pool(self.store, self.store.results.run("pets"), left_out=left_out)

    def train(self, number: int, data: TrainingSet) -> str:
        self.trained.append(data)
        return f"rounds/{number}"

    def detect(self, student: str, samples: Sequence[Sample]) -> list[Detections]:
        rng = np.random.default_rng(int(student.rpartition("/")[2]))
        return [
            Detections(one.boxes, rng.random(len(one.boxes)).astype(np.float32), one.classes)
            for one in samples
        ]


def everything_said(store: Store) -> Counter[tuple[object, ...]]:
    said = store.reviews.history(limit=10_000)
    return Counter((one.image, one.class_name, one.box, one.answer) for one in said)


@dataclass(frozen=True)
class KilledLoop:
    """What came of a loop that was killed."""

    kills: int
    lost: int
    """Answers that were there after one kill and not after a later one."""
    twice: int
    """Answers, queues or snapshots that are there more than once."""
    same: bool
    """Whether its record is that of a loop that nobody disturbed."""


def killed_loop(folder: Path, kills: int, seed: int = 0) -> KilledLoop:
    """Run one loop undisturbed, and one that is killed ``kills`` times while it lasts.

    A loop that ends before is begun anew.
    """
    _run(folder / "whole")
    whole = read_record(folder / "whole" / "loop.json")
    moments = random.Random(seed)
    lost = twice = done = number = 0
    same = True
    while done < kills:
        place = folder / f"killed {number}"
        number += 1
        known: Counter[tuple[object, ...]] = Counter()
        ended = False
        while not ended:
            # Once enough were killed, this one is let to its end.
            ended = _killed(place, moments.uniform(0.03, LONGEST_S) if done < kills else None)
            done += not ended
            with open_store(place / "data") as store:
                said = everything_said(store)
                queues = Counter(one.name for one in store.reviews.queues())
                snapshots = Counter(one.name for one in store.snapshots.page())
            lost += len(known.keys() - said.keys())
            twice += sum(n > 1 for n in (*said.values(), *queues.values(), *snapshots.values()))
            known = said
        same = same and read_record(place / "loop.json") == whole
    return KilledLoop(done, lost, twice, same)


def _killed(folder: Path, after_s: float | None) -> bool:
    """Whether the loop ended before it was killed."""
    if not (folder / "data").exists():
        with open_store(folder / "data") as store:
            store_pets(store)
    process = multiprocessing.get_context("fork").Process(target=_run, args=(folder,))
    process.start()
    if after_s is not None:
        process.join(after_s)
        process.kill()
    process.join()
    return process.exitcode == 0


def _run(folder: Path) -> None:
    """A loop from wherever it is to its end."""
    file = folder / "loop.json"
    with open_store(folder / "data") as store:
        try:
            store.results.run("pets")
        except NotFound:
            store_pets(store)
        record = read_record(file) if file.exists() else LoopRecord(PLAN)
        loop = LearningLoop(store, folder / "data", file, ScriptedModels(store), pets_truth())
        loop.advance(record, RULES)
