"""Decoys with the embedded models on 200 unseen scenes of the synthetic demo world (seed 90210).

A bias is planted by turning each no of the verifier into a yes with a probability of 0.1, and also
by shifting the logit of P(yes) until 10 points more of the real questions whose answer is no, by
the exact truth, are answered with yes. Each of 1,000 runs draws half of the scenes for the baseline
and the others for the run that is compared with it, and from each at most 400 decoys.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.labelled_scenes import CACHE, rendered_world
from bench.paired_timing import Figure, of_pairs, paired
from secondlook.config.settings import ImageSettings, ModelSettings, PipelineSettings
from secondlook.core.boxes import iou
from secondlook.core.images import decode
from secondlook.core.ontology_yaml import load_ontology
from secondlook.core.types import YES, DecoyKind, Labelled, VQAQuery
from secondlook.evaluation.coco_files import truth_of
from secondlook.evaluation.matching import TrueBox
from secondlook.evaluation.yes_bias import LEVEL, Strata, compare
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook.labeling.verifier import Verifier
from secondlook.models.embedded import load_proposer, load_verifier
from secondlook_client.ontology import Ontology
from secondlook_client.values import Answer

SEED, SCENES, BATCH = 90_210, 200, 8
SHARE, BIAS, RUNS = 0.5, 0.1, 1000
ASKED = (50, 100, 200, 400)
"""Decoys on either side."""
TIMED, ROUNDS = 64, 7
RIGHT, PART = 0.5, 0.1
"""IoU with a true box from which a box is right, and from which it is a part of one."""

Key = tuple[DecoyKind, str]


@dataclass(frozen=True)
class Asked:
    """A question whose answer is no, as far as is known."""

    scene: int
    key: Key
    """Kind and class."""
    p_yes: float
    true: bool = False
    """Whether the exact truth says yes all the same."""


class BiasedVerifier:
    """A verifier that turns a no into a yes with a probability of ``BIAS``."""

    name, digest = "biased", "1"

    def __init__(self, model: Verifier) -> None:
        self._model = model
        self.min_side = model.min_side
        self._drawn = np.random.default_rng(1)

    def answer(self, queries: Sequence[VQAQuery]) -> list[tuple[Answer, ...]]:
        """See ``labeling.verifier.Verifier``."""
        return [tuple(map(self._biased, answers)) for answers in self._model.answer(queries)]

    def _biased(self, answer: Answer) -> Answer:
        flipped = answer.p_yes is not None and answer.p_yes <= YES and self._drawn.random() < BIAS
        return replace(answer, p_yes=0.9) if flipped else answer


def run() -> list[Figure | str]:
    """Alarms with and without a planted bias, decoys against the truth, and what they cost."""
    world = rendered_world(CACHE / f"decoys-{SEED}-{SCENES}", SEED, SCENES)
    ontology = load_ontology(world / "ontology.yaml")
    files = sorted((world / "images").iterdir())
    limits = ImageSettings()
    tasks = [Task(decode(file.read_bytes(), file.name, limits), ontology) for file in files]
    truth = truth_of(world / "truth.json")
    true_boxes = [truth.get(Path(task.image.name).name, ()) for task in tasks]
    proposer, verifier = load_proposer("", ModelSettings()), load_verifier("", ModelSettings())

    def labelled(model: Verifier, share: float, some: Sequence[Task] = tasks) -> list[Labelled]:
        settings = PipelineSettings(decoys=share, verdict_cache_size=0)
        pipeline = Pipeline(proposer, model, settings)
        starts = range(0, len(some), BATCH)
        return [one for start in starts for one in pipeline.label(some[start : start + BATCH])]

    found = labelled(verifier, SHARE)
    decoys = list(_decoys(found, true_boxes))
    real = list(_real(found, true_boxes, ontology))
    planted = list(_decoys(labelled(BiasedVerifier(verifier), SHARE), true_boxes))
    shift = _shift(np.array([one.p_yes for one in real]))
    timed = tasks[:TIMED]
    speed = paired(
        "images a second with --decoys 0.02 ÷ without",
        lambda: len(labelled(verifier, 0.02, timed)),
        lambda: len(labelled(verifier, 0.0, timed)),
        at_least=0.95,
        unit="images/s",
        rounds=ROUNDS,
    )
    found_at, table = _detection(decoys, shift)
    return [*found_at, speed, table, _kinds(decoys, real, planted, shift)]


def _decoys(found: Sequence[Labelled], truth: Sequence[Sequence[TrueBox]]) -> Iterator[Asked]:
    for scene, (one, true_boxes) in enumerate(zip(found, truth, strict=True)):
        for decoy in one.decoys:
            if decoy.answer.p_yes is not None:
                overlaps = _overlaps(decoy.box, true_boxes, {decoy.class_name})
                key = (decoy.kind, decoy.class_name)
                yield Asked(scene, key, decoy.answer.p_yes, overlaps >= RIGHT)


def _real(
    found: Sequence[Labelled], truth: Sequence[Sequence[TrueBox]], ontology: Ontology
) -> Iterator[Asked]:
    """The real questions that the truth answers with no, by the kind of decoy they are like."""
    for scene, (one, true_boxes) in enumerate(zip(found, truth, strict=True)):
        for judgement in one.judgements:
            kind = _kind(judgement.box, judgement.class_name, true_boxes, ontology)
            if kind and judgement.p_yes is not None:
                yield Asked(scene, (kind, judgement.class_name), judgement.p_yes)


def _kind(
    box: tuple[float, float, float, float],
    name: str,
    truth: Sequence[TrueBox],
    ontology: Ontology,
) -> DecoyKind | None:
    """Why a label would be wrong; None where it is right or nobody can tell."""
    own = next(spec for spec in ontology.classes if spec.name == name)
    same_object = {spec.name for spec in ontology.classes if set(spec.phrases) & set(own.phrases)}
    ignored = [one for one in truth if one.ignore]
    if _overlaps(box, ignored, {one.class_name for one in ignored}) >= RIGHT:
        return None
    overlap = _overlaps(box, truth, {name})
    if overlap >= RIGHT:
        return None
    if _overlaps(box, truth, same_object) >= RIGHT:
        return DecoyKind.SWAPPED_ATTRIBUTE
    if _overlaps(box, truth, set(ontology.names)) >= RIGHT:
        return DecoyKind.OTHER_CLASS
    return DecoyKind.OFF_CENTRE if overlap >= PART else DecoyKind.BACKGROUND


def _overlaps(
    box: tuple[float, float, float, float], truth: Sequence[TrueBox], names: set[str]
) -> float:
    """The largest IoU with a true box of these classes."""
    boxes = [one.box for one in truth if one.class_name in names]
    there = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return float(iou(np.array([box], dtype=np.float32), there).max(initial=0))


def _shift(p_yes: NDArray[np.float64]) -> float:
    """By how much the logits must rise for ``BIAS`` more of these to be answered with yes."""
    logits = np.sort(_logit(p_yes))[::-1]
    now = int((logits > 0).sum())
    return float(-logits[min(now + round(BIAS * len(logits)), len(logits) - 1)])


def _logit(p_yes: NDArray[np.float64]) -> NDArray[np.float64]:
    safe = np.clip(p_yes, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(safe / (1 - safe)))


def _detection(decoys: Sequence[Asked], shift: float) -> tuple[list[Figure], str]:
    """Shares of the runs with an alarm, by number of decoys and by what was planted."""
    drawn = np.random.default_rng(SEED)
    p_yes = np.array([one.p_yes for one in decoys])
    changes: dict[str, Callable[[], NDArray[np.bool_]]] = {
        "nothing": lambda: p_yes > YES,
        "a no becomes a yes": lambda: (p_yes > YES) | (drawn.random(len(p_yes)) < BIAS),
        "logits shifted": lambda: _logit(p_yes) + shift > 0,
    }
    alarms = {
        (name, asked): _alarms(decoys, p_yes > YES, change, asked, drawn)
        for name, change in changes.items()
        for asked in ASKED
    }
    most = ASKED[-1]
    figures = [
        of_pairs(
            f"runs with a planted bias of 10 points found from {most} decoys ÷ 0.95",
            [(alarms["a no becomes a yes", most], 0.95)],
            at_least=1.0,
            unit="(bar on the right)",
        ),
        of_pairs(
            f"{LEVEL} ÷ runs with a false alarm from {most} decoys",
            [(LEVEL, max(alarms["nothing", most], 1e-4))],
            at_least=1.0,
            unit="(bar on the left)",
        ),
    ]
    head = "| planted, runs with an alarm from | " + " | ".join(f"{n} decoys" for n in ASKED) + " |"
    rows = [
        f"| {name} | " + " | ".join(f"{alarms[name, n]:.3f}" for n in ASKED) + " |"
        for name in changes
    ]
    return figures, "\n".join([head, "|---" * (len(ASKED) + 1) + "|", *rows])


def _alarms(
    decoys: Sequence[Asked],
    before: NDArray[np.bool_],
    change: Callable[[], NDArray[np.bool_]],
    asked: int,
    drawn: np.random.Generator,
) -> float:
    scenes = np.array([one.scene for one in decoys])
    alarms = 0
    for _ in range(RUNS):
        first = np.isin(scenes, drawn.permutation(SCENES)[: SCENES // 2])
        sides = [
            _strata(decoys, yes, drawn.permutation(np.flatnonzero(rows))[:asked])
            for yes, rows in ((before, first), (change(), ~first))
        ]
        alarms += compare(*sides).risen
    return alarms / RUNS


def _strata(decoys: Sequence[Asked], yes: NDArray[np.bool_], rows: NDArray[np.intp]) -> Strata:
    asked = Counter(decoys[row].key for row in rows)
    said = Counter(decoys[row].key for row in rows if yes[row])
    return {key: (count, said[key]) for key, count in asked.items()}


def _kinds(
    decoys: Sequence[Asked], real: Sequence[Asked], planted: Sequence[Asked], shift: float
) -> str:
    """Shares of yes among decoys and among real questions that the truth answers with no."""
    head = (
        "| kind | decoys | true all the same | yes | yes, bias planted | yes, logits shifted "
        "| real no | yes | yes, logits shifted |"
    )
    rows = []
    for kind in (*DecoyKind, None):
        of_kind, biased, others = (
            [one for one in side if kind is None or one.key[0] is kind]
            for side in (decoys, planted, real)
        )
        true = sum(one.true for one in of_kind)
        cells = [kind.value if kind else "all", str(len(of_kind)), str(true)]
        cells += [
            f"{_share(of_kind):.3f}",
            f"{_share(biased):.3f}",
            f"{_share(of_kind, shift):.3f}",
        ]
        cells += [str(len(others)), f"{_share(others):.3f}", f"{_share(others, shift):.3f}"]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join([head, "|---" * 9 + "|", *rows])


def _share(asked: Sequence[Asked], shift: float = 0.0) -> float:
    p_yes = np.array([one.p_yes for one in asked])
    return float((_logit(p_yes) + shift > 0).mean()) if len(p_yes) else 0.0
