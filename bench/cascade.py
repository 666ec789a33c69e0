"""A student before the teachers, on a camera that looks at one street and then at another.

The camera is ``secondlook.demo.stream``: 5,000 frames of one street behind those that the student
was trained on, then 300 of another street under another light. The teachers are the embedded
models; they label every frame, and the cascade gets the same answers where it asks for them, so
both sides differ in nothing but who was asked. Labels are measured against exact truth at IoU 0.5.

Each camera's student is distilled here from the teachers' labels of the frames before.
SECONDLOOK_SEEDS is the number of cameras, SECONDLOOK_FRAMES that of the frames before the change,
SECONDLOOK_TAUGHT that of the frames for training, SECONDLOOK_AGREEMENT what the student must reach
alone (``--agreement``).
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

from bench import material
from bench.paired import Figure
from bench.stream_student import stream_student
from bench.students import two_at_once
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
"""Of the first camera; never used in training but of the student that is measured here."""
SEEDS = int(os.environ.get("SECONDLOOK_SEEDS", "3"))
TAUGHT = int(os.environ.get("SECONDLOOK_TAUGHT", "5000"))
FRAMES = int(os.environ.get("SECONDLOOK_FRAMES", "5000"))
AFTER = 300
"""Frames behind the change."""
AGREEMENT = float(os.environ.get("SECONDLOOK_AGREEMENT", CascadeSettings().agreement))
"""That the student must reach alone."""
AT_ONCE = 8
"""Frames that the teachers label together."""
IN_A_ROW = 10
"""Frames that the student leaves to the teachers before these count as back."""
CACHE = Path(__file__).parents[1] / ".cache" / "bench" / "cascade"


def run() -> list[Figure | str]:
    """Teacher calls a frame, F1 beside the teachers', and frames until the teachers are back."""
    seeds = range(FIRST_SEED, FIRST_SEED + SEEDS)
    with two_at_once() as pool:
        stories = list(pool.map(_story, seeds))
    calls = [story.needed(0, FRAMES) for story in stories]
    both = [(_f1(story.ours[:FRAMES]), _f1(story.plain[:FRAMES])) for story in stories]
    back = [float(story.back()) for story in stories]
    return [
        _figure("teacher calls a frame, stable street", "≤ 0.3", calls, [1.0] * len(calls), 0.3),
        _difference(both),
        _figure("frames until the teachers are back", "≤ 50", back, [50.0] * len(back), 50),
        *(_table(story) for story in stories),
    ]


@dataclass
class _Story:
    """What became of every frame."""

    seed: int
    paths: list[LabelPath] = field(default_factory=list)
    ours: list[Counts] = field(default_factory=list)
    plain: list[Counts] = field(default_factory=list)
    """Of the cascade and of the teachers on every frame, against the truth."""

    def needed(self, start: int, end: int) -> float:
        """Share of the frames that the teachers had to label."""
        some = self.paths[start:end]
        return sum(path is not LabelPath.STUDENT for path in some) / max(len(some), 1)

    def back(self) -> int:
        """Frames behind the change until the first ``IN_A_ROW`` that are all the teachers'."""
        alone = [path is LabelPath.STUDENT for path in self.paths[FRAMES:]]
        starts = range(len(alone) - IN_A_ROW + 1)
        return next((at for at in starts if not any(alone[at : at + IN_A_ROW])), len(alone))


def student_of(seed: int) -> Path:
    """The folder of the student that learnt from the first frames of a camera."""
    place = CACHE / f"lessons-{seed}-{TAUGHT}"
    return stream_student(place, lambda world: write_lessons(world, seed), seed - FIRST_SEED)


def _story(seed: int) -> _Story:
    teachers = material.pipeline()
    told, ontology = _Told(teachers), material.ontology()
    student = OnnxDetector.open(student_of(seed), "fp32", threads=1)
    cascade = Cascade(told, student, CascadeSettings(agreement=AGREEMENT))
    story = _Story(seed)
    names = ontology.names
    with _Memory(seed, teachers) as memory:
        camera = _camera(seed)
        while some := list(islice(camera, AT_ONCE)):
            tasks = [Task(image, ontology, "camera") for image, _ in some]
            for task, labelled in zip(tasks, memory.labelled(tasks, teachers), strict=True):
                told.said[task.image.sha256] = labelled
            # One after the other, as frames come: an audit is heard before the next image.
            for task, (image, things) in zip(tasks, some, strict=True):
                ours = cascade.submit(task).result()
                story.paths.append(ours.path)
                story.ours.append(_counts(ours, things, names))
                story.plain.append(_counts(told.said.pop(image.sha256), things, names))
    cascade.close()
    student.close()
    return story


def _camera(seed: int) -> Iterator[tuple[Image, Sequence[Thing]]]:
    """The frames behind those for training."""
    count = TAUGHT + FRAMES + AFTER
    every = frames(seed, count, changes=(TAUGHT + FRAMES,))
    for number, drawn in enumerate(islice(every, TAUGHT, None)):
        yield Image(drawn.image, f"{number:064x}", f"frame {number}"), drawn.things


class _Told(Pipeline):
    """Teachers whose answers are known already."""

    def __init__(self, teachers: Pipeline) -> None:
        super().__init__(teachers.proposer, teachers.verifier)
        self.said: dict[str, Labelled] = {}

    def propose(self, tasks: Sequence[Task]) -> list[Proposed]:
        return [Proposed(task, _NOTHING, (), 0.0) for task in tasks]

    def judge(self, proposed: Sequence[Proposed]) -> list[Labelled]:
        return [self.said[item.task.image.sha256] for item in proposed]


_NOTHING = Proposals(np.zeros((0, 4), np.float32), np.zeros((0, 0), np.float32))


class _Memory:
    """The teachers' answers on disk, so that another student needs no teachers; a context."""

    def __init__(self, seed: int, teachers: Pipeline) -> None:
        assert teachers.verifier
        digests = f"{teachers.proposer.digest[:12]}-{teachers.verifier.digest[:12]}"
        name = f"{seed}-{TAUGHT}-{FRAMES}-{digests}.jsonl"
        CACHE.mkdir(parents=True, exist_ok=True)
        self._file = (CACHE / name).open("a+", encoding="utf-8")
        self._file.seek(0)
        # A line that a killed run left half written is asked again, and with it all behind it.
        lines = self._file.read().split("\n")[:-1]
        self._file.truncate(sum(len(line.encode()) + 1 for line in lines))
        self._known = dict(enumerate(lines))
        self._asked = 0

    def labelled(self, tasks: Sequence[Task], teachers: Pipeline) -> list[Labelled]:
        """What the teachers say of the next frames."""
        first, self._asked = self._asked, self._asked + len(tasks)
        known = [self._known.get(first + at) for at in range(len(tasks))]
        if None not in known:
            return [_read(line or "", task.image) for line, task in zip(known, tasks, strict=True)]
        found = teachers.label(tasks)
        for line, labelled in zip(known, found, strict=True):
            if line is None:
                self._file.write(json.dumps(_plain(labelled)) + "\n")
        self._file.flush()
        return [_read(json.dumps(_plain(labelled)), labelled) for labelled in found]

    def __enter__(self) -> "_Memory":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _plain(labelled: Labelled) -> list[list[object]]:
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
    name: str, bar: str, ours: Sequence[float], plain: Sequence[float], most: float
) -> Figure:
    value = statistics.median(ours)
    return Figure(
        name=name,
        bar=bar,
        ours=value,
        plain=statistics.median(plain),
        unit="",
        ratio=value,
        low=min(ours),
        high=max(ours),
        rounds=len(ours),
        met=value <= most,
    )


def _difference(both: Sequence[tuple[float, float]]) -> Figure:
    losses = [plain - ours for ours, plain in both]
    figure = _figure("F1 that the cascade loses to the teachers", "≤ 0.01", losses, [0.0], 0.01)
    ours, plain = (statistics.median(side) for side in zip(*both, strict=True))
    return replace(figure, ours=ours, plain=plain, unit="F1")


def _table(story: _Story) -> str:
    """The share of frames that needed the teachers, over time."""
    step = max(FRAMES // 10, 1)
    starts = [*range(0, FRAMES, step)]
    shares = " · ".join(f"{story.needed(s, min(s + step, FRAMES)):.2f}" for s in starts)
    audits = story.paths[:FRAMES].count(LabelPath.AUDIT) / FRAMES
    after = story.paths[FRAMES:]
    return (
        f"Seed {story.seed}: share of frames that needed the teachers, each {step} frames: "
        f"{shares}; of all, {audits:.3f} as audits. Behind the change "
        f"{story.needed(FRAMES, len(story.paths)):.2f} of {len(after)}, F1 "
        f"{_f1(story.ours[FRAMES:]):.3f} (teachers {_f1(story.plain[FRAMES:]):.3f})."
    )


def write_lessons(out: Path, seed: int, count: int = TAUGHT) -> None:
    """The frames to train a student on, as ``out/images`` with ``out/ontology.yaml``."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    for number, drawn in enumerate(frames(seed, count)):
        PILImage.fromarray(drawn.image).save(out / "images" / f"{number:06d}.png")
    (out / "ontology.yaml").write_text(ontology_yaml(), encoding="utf-8")
