"""A cascade on a camera that shows one street and then another.

The frames are those of ``secondlook.demo.stream``: 5,000 frames of one street, following those that
the student was trained on, then 300 of another street under different light. The teachers are the
embedded models. They label every frame, and the cascade gets the same answers where it asks for
them, so the two sides differ only in who labelled. Labels are evaluated against exact truth at IoU
0.5.

Each camera's student is distilled here from the teachers' labels of the training frames.
SECONDLOOK_SEEDS is the number of cameras, SECONDLOOK_FRAMES the number of frames before the change,
SECONDLOOK_TAUGHT the number of training frames, SECONDLOOK_AGREEMENT the agreement that the student
must reach (``--agreement``).
"""

import json
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from bench import fixtures
from bench.paired_timing import Figure
from bench.stream_student import stream_student
from bench.students import process_pool
from secondlook.cascade.router import Cascade
from secondlook.config.settings import CascadeSettings
from secondlook.core.types import Evidence, Image, Labelled, Proposals
from secondlook.demo.stream import frames
from secondlook.demo.world import Thing, classes_of, ontology_yaml
from secondlook.detector.runtime import OnnxDetector
from secondlook.evaluation.matching import Counts, ScoredBox, TrueBox, evaluate
from secondlook.labeling.pipeline import Pipeline, Proposed, Task
from secondlook_client.values import Decision, Judgement, LabelPath, Outcome

FIRST_SEED = 9_200
"""Seed of the first camera; used in training only for the student that is measured here."""
SEEDS = int(os.environ.get("SECONDLOOK_SEEDS", "3"))
TAUGHT = int(os.environ.get("SECONDLOOK_TAUGHT", "5000"))
FRAMES = int(os.environ.get("SECONDLOOK_FRAMES", "5000"))
AFTER = 300
"""Frames after the change of scene."""
AGREEMENT = float(os.environ.get("SECONDLOOK_AGREEMENT", CascadeSettings().agreement))
"""Agreement that the student must reach to label alone."""
AT_ONCE = 8
"""Frames that the teachers label together."""
IN_A_ROW = 10
"""Consecutive frames labelled by the teachers after which they count as back."""
CACHE = Path(__file__).parents[1] / ".cache" / "bench" / "cascade"


def run() -> list[Figure | str]:
    """Teacher calls per frame, F1 against the teachers', and frames until the teachers are back."""
    seeds = range(FIRST_SEED, FIRST_SEED + SEEDS)
    with process_pool() as pool:
        stories = list(pool.map(_story, seeds))
    calls = [story.needed(0, FRAMES) for story in stories]
    both = [(_f1(story.ours[:FRAMES]), _f1(story.teachers[:FRAMES])) for story in stories]
    back = [float(story.back()) for story in stories]
    return [
        _figure("teacher calls per frame, stable street", "≤ 0.3", calls, [1.0] * len(calls), 0.3),
        _difference(both),
        _figure("frames until the teachers are back", "≤ 50", back, [50.0] * len(back), 50),
        *(_table(story) for story in stories),
    ]


@dataclass
class _Story:
    """Who labelled each frame, and how well."""

    seed: int
    paths: list[LabelPath] = field(default_factory=list)
    ours: list[Counts] = field(default_factory=list)
    teachers: list[Counts] = field(default_factory=list)
    """Of the cascade and of the teachers on every frame, against the truth."""

    def needed(self, start: int, end: int) -> float:
        """Share of the frames that the teachers had to label."""
        some = self.paths[start:end]
        return sum(path is not LabelPath.STUDENT for path in some) / max(len(some), 1)

    def back(self) -> int:
        """Frames after the change until the first ``IN_A_ROW`` that the teachers labelled."""
        alone = [path is LabelPath.STUDENT for path in self.paths[FRAMES:]]
        starts = range(len(alone) - IN_A_ROW + 1)
        return next((at for at in starts if not any(alone[at : at + IN_A_ROW])), len(alone))


def student_of(seed: int) -> Path:
    """The folder of the student that was trained on the first frames of a camera."""
    place = CACHE / f"frames-{seed}-{TAUGHT}"
    return stream_student(
        place, lambda world: write_training_frames(world, seed), seed - FIRST_SEED
    )


def _story(seed: int) -> _Story:
    teachers = fixtures.pipeline()
    known, ontology = _KnownTeachers(teachers), fixtures.ontology()
    student = OnnxDetector.open(student_of(seed), "fp32", threads=1)
    cascade = Cascade(known, student, CascadeSettings(agreement=AGREEMENT))
    story = _Story(seed)
    names = ontology.names
    with _AnswerCache(seed, teachers) as cache:
        camera = _camera(seed)
        while some := list(islice(camera, AT_ONCE)):
            tasks = [Task(image, ontology, "camera") for image, _ in some]
            for task, labelled in zip(tasks, cache.labelled(tasks, teachers), strict=True):
                known.answers[task.image.sha256] = labelled
            # One after the other, as frames come: an audit counts before the next image.
            for task, (image, things) in zip(tasks, some, strict=True):
                ours = cascade.submit(task).result()
                story.paths.append(ours.path)
                story.ours.append(_counts(ours, things, names))
                story.teachers.append(_counts(known.answers.pop(image.sha256), things, names))
    cascade.close()
    student.close()
    return story


def _camera(seed: int) -> Iterator[tuple[Image, Sequence[Thing]]]:
    """The frames after those for training."""
    count = TAUGHT + FRAMES + AFTER
    every = frames(seed, count, changes=(TAUGHT + FRAMES,))
    for number, rendered in enumerate(islice(every, TAUGHT, None)):
        yield Image(rendered.image, f"{number:064x}", f"frame {number}"), rendered.things


class _KnownTeachers(Pipeline):
    """Teachers whose answers are known already."""

    def __init__(self, teachers: Pipeline) -> None:
        super().__init__(teachers.proposer, teachers.verifier)
        self.answers: dict[str, Labelled] = {}

    def propose(self, tasks: Sequence[Task]) -> list[Proposed]:
        return [Proposed(task, _NOTHING, (), 0.0) for task in tasks]

    def judge(self, proposed: Sequence[Proposed]) -> list[Labelled]:
        return [self.answers[item.task.image.sha256] for item in proposed]


_NOTHING = Proposals(np.zeros((0, 4), np.float32), np.zeros((0, 0), np.float32))


class _AnswerCache:
    """The teachers' answers, cached on disk for other students; a context manager."""

    def __init__(self, seed: int, teachers: Pipeline) -> None:
        assert teachers.verifier
        digests = f"{teachers.proposer.digest[:12]}-{teachers.verifier.digest[:12]}"
        name = f"{seed}-{TAUGHT}-{FRAMES}-{digests}.jsonl"
        CACHE.mkdir(parents=True, exist_ok=True)
        self._file = (CACHE / name).open("a+", encoding="utf-8")
        self._file.seek(0)
        # A line that a killed run left half written is computed again, with all that follow it.
        lines = self._file.read().split("\n")[:-1]
        self._file.truncate(sum(len(line.encode()) + 1 for line in lines))
        self._known = dict(enumerate(lines))
        self._asked = 0

    def labelled(self, tasks: Sequence[Task], teachers: Pipeline) -> list[Labelled]:
        """The teachers' answers for the next frames."""
        first, self._asked = self._asked, self._asked + len(tasks)
        known = [self._known.get(first + at) for at in range(len(tasks))]
        if None not in known:
            return [_read(line or "", task.image) for line, task in zip(known, tasks, strict=True)]
        found = teachers.label(tasks)
        for line, labelled in zip(known, found, strict=True):
            if line is None:
                self._file.write(json.dumps(_to_json(labelled)) + "\n")
        self._file.flush()
        return [_read(json.dumps(_to_json(labelled)), labelled) for labelled in found]

    def __enter__(self) -> "_AnswerCache":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _to_json(labelled: Labelled) -> list[list[object]]:
    return [
        [j.class_name, j.box, j.score, j.decision.outcome, j.decision.probability, j.row]
        for j in labelled.judgements
    ]


def _read(line: str, image: Image | Labelled) -> Labelled:
    judgements = tuple(
        Judgement(name, tuple(box), score, None, Decision(Outcome(outcome), probability, ""), row)
        for name, box, score, outcome, probability, row in json.loads(line)
    )
    size = image.name, image.sha256, image.width, image.height
    return Labelled(*size, judgements, Evidence(_NOTHING, {}, "teachers@1", "teachers@1"))


def _counts(labelled: Labelled, things: Sequence[Thing], names: Sequence[str]) -> Counts:
    labels = [
        ScoredBox(j.class_name, j.box, j.decision.probability) for j in labelled.of(Outcome.ACCEPT)
    ]
    truth = [TrueBox(name, thing.box) for thing in things for name in classes_of(thing)]
    return evaluate([(labels, truth)], names).total()


def _f1(counts: Sequence[Counts]) -> float:
    return sum(counts, Counts()).f1 or 0.0


def _figure(
    name: str, bar: str, ours: Sequence[float], baseline: Sequence[float], most: float
) -> Figure:
    value = statistics.median(ours)
    return Figure(
        name=name,
        bar=bar,
        ours=value,
        baseline=statistics.median(baseline),
        unit="",
        ratio=value,
        low=min(ours),
        high=max(ours),
        rounds=len(ours),
        met=value <= most,
    )


def _difference(both: Sequence[tuple[float, float]]) -> Figure:
    losses = [teachers - ours for ours, teachers in both]
    figure = _figure("F1 that the cascade loses to the teachers", "≤ 0.01", losses, [0.0], 0.01)
    ours, teachers = (statistics.median(side) for side in zip(*both, strict=True))
    return replace(figure, ours=ours, baseline=teachers, unit="F1")


def _table(story: _Story) -> str:
    """The share of frames that needed the teachers, over time."""
    step = max(FRAMES // 10, 1)
    starts = [*range(0, FRAMES, step)]
    shares = " · ".join(f"{story.needed(s, min(s + step, FRAMES)):.2f}" for s in starts)
    audits = story.paths[:FRAMES].count(LabelPath.AUDIT) / FRAMES
    after = story.paths[FRAMES:]
    return (
        f"Seed {story.seed}: share of frames that needed the teachers, per {step} frames: "
        f"{shares}; audited: {audits:.3f} of all. After the change "
        f"{story.needed(FRAMES, len(story.paths)):.2f} of {len(after)} frames needed them, F1 "
        f"{_f1(story.ours[FRAMES:]):.3f} (teachers {_f1(story.teachers[FRAMES:]):.3f})."
    )


def write_training_frames(out: Path, seed: int, count: int = TAUGHT) -> None:
    """Write the frames to train a student on: ``out/images`` and ``out/ontology.yaml``."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    for number, rendered in enumerate(frames(seed, count)):
        PILImage.fromarray(rendered.image).save(out / "images" / f"{number:06d}.png")
    (out / "ontology.yaml").write_text(ontology_yaml(), encoding="utf-8")
