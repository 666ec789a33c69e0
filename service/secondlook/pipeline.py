"""The stages composed over batches: pictures in, judged boxes out.

``Pipeline`` is plain and synchronous. ``engine.Engine`` runs its two halves behind queues, so
that pictures of many clients share batches.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from secondlook import decide, propose, verify
from secondlook.labels import Image, Judgement, Labelled, Proposals, Verdict, View
from secondlook.ontology import ClassSpec, Ontology


@dataclass(frozen=True)
class Limits:
    """How much one picture may cost, and how low its scores are kept."""

    floor: float = 0.1
    """Proposer scores below this are not kept, [0, 1]."""
    max_boxes: int = 100
    """Boxes kept a picture, best first."""
    max_iou: float = 0.6
    """Two boxes of one contrast group that overlap more are one object."""


@dataclass(frozen=True, eq=False)
class Task:
    """One picture and what is wanted of it."""

    image: Image
    ontology: Ontology


@dataclass(frozen=True, eq=False)
class Proposed:
    """A task after stage one."""

    task: Task
    proposals: Proposals
    candidates: tuple[propose.Candidate, ...]
    ms: float
    """This picture's share of the proposer's time."""


class Pipeline:
    """Two models and the rules between them. Thread-safe if the models are."""

    def __init__(
        self,
        proposer: propose.Proposer,
        verifier: verify.Verifier | None,
        limits: Limits | None = None,
        cache: verify.VerdictCache | None = None,
    ) -> None:
        self.proposer = proposer
        self.verifier = verifier
        self.limits = limits or Limits()
        self.cache = cache or verify.VerdictCache()

    def label(self, tasks: Sequence[Task]) -> list[Labelled]:
        """Both stages on a batch, in order."""
        return self.judge(self.propose(tasks))

    def propose(self, tasks: Sequence[Task]) -> list[Proposed]:
        """Stage one on a batch; pictures with the same phrases go to the model together."""
        together: dict[tuple[str, ...], list[int]] = {}
        for index, task in enumerate(tasks):
            together.setdefault(task.ontology.phrases, []).append(index)
        done: dict[int, Proposed] = {}
        for members in together.values():
            found = self._propose_together([tasks[i] for i in members])
            done.update(zip(members, found, strict=True))
        return [done[index] for index in range(len(tasks))]

    def _propose_together(self, tasks: list[Task]) -> list[Proposed]:
        limits = self.limits
        started = time.perf_counter()
        raw = self.proposer.propose(
            [task.image for task in tasks], tasks[0].ontology.phrases, limits.floor
        )
        ms = (time.perf_counter() - started) * 1000 / len(tasks)
        proposed = []
        for task, phrases in zip(tasks, raw, strict=True):
            proposals = propose.by_class(phrases, task.image, task.ontology, limits.max_boxes)
            kept = propose.candidates(proposals, task.ontology, limits.max_iou)
            proposed.append(Proposed(task, proposals, tuple(kept), ms))
        return proposed

    def judge(self, proposed: Sequence[Proposed]) -> list[Labelled]:
        """Stage two and the decisions on a batch; all its views go to the verifier together."""
        started = time.perf_counter()
        if self.verifier is None:
            return [self._labelled(item, {}, 0.0) for item in proposed]
        wanted = [_looks(item) for item in proposed]
        looks = [look for of_picture in wanted for look in of_picture.values()]
        answered = iter(verify.verify(self.verifier, looks, self.cache))
        heard = [
            {(*key, verdict.question): verdict for key in of_picture for verdict in next(answered)}
            for of_picture in wanted
        ]
        ms = (time.perf_counter() - started) * 1000 / max(len(proposed), 1)
        return [
            self._labelled(item, verdicts, ms)
            for item, verdicts in zip(proposed, heard, strict=True)
        ]

    def _labelled(
        self, item: Proposed, verdicts: dict[tuple[int, View, str], Verdict], ms: float
    ) -> Labelled:
        image, verifier = item.task.image, self.verifier
        return Labelled(
            name=image.name,
            sha256=image.sha256,
            width=image.width,
            height=image.height,
            judgements=_judgements(item, verdicts),
            proposals=len(item.proposals),
            proposer=f"{self.proposer.name}@{self.proposer.digest}",
            verifier=f"{verifier.name}@{verifier.digest}" if verifier else "",
            timings_ms={"propose": item.ms, "verify": ms},
        )


def _looks(item: Proposed) -> dict[tuple[int, View], verify.Look]:
    """What must be seen of one picture: one look a box and view, with all its questions."""
    questions: dict[tuple[int, View], dict[str, None]] = {}
    for candidate in item.candidates:
        for spec in _specs(item, candidate):
            questions.setdefault((candidate.row, spec.view), {})[spec.question] = None
    image = item.task.image
    return {
        (row, view): verify.Look(image, _box(item.proposals, row), view, tuple(asked))
        for (row, view), asked in questions.items()
    }


def _judgements(
    item: Proposed, verdicts: dict[tuple[int, View, str], Verdict]
) -> tuple[Judgement, ...]:
    found = []
    for candidate in item.candidates:
        specs = _specs(item, candidate)
        scores = [float(item.proposals.scores[candidate.row, c]) for c in candidate.classes]
        heard = [verdicts.get((candidate.row, s.view, s.question)) for s in specs]
        box = _box(item.proposals, candidate.row)
        for spec, score, verdict, decision in zip(
            specs, scores, heard, decide.decide(specs, scores, heard), strict=True
        ):
            found.append(Judgement(spec.name, box, score, verdict, decision))
    return tuple(found)


def _specs(item: Proposed, candidate: propose.Candidate) -> list[ClassSpec]:
    return [item.task.ontology.classes[index] for index in candidate.classes]


def _box(proposals: Proposals, row: int) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = proposals.boxes[row].tolist()
    return x1, y1, x2, y2
