"""Micro-models from five labels: what they find, what corrections add, and what stitching costs.

Rendered clips of ``demo.lookalikes``: people in tall hats, or cars with a livery, of which one look
is the target; crowds, partly hidden, in changing light. Five frames with one target each are
labelled by the exact truth; all other frames judge, at IoU 0.5 and the default threshold. In each
of two loops some errors are corrected by the truth, 15 in all: a wrong box becomes a negative, a
missed one a label; frames with a correction are not judged any more. Beside it, on the same boxes
of the same finder: the nearest labelled box by embedding, with the threshold that is best in
hindsight, and propagation of the labels along tracks. Seconds are those of the CPU, halved for two
cores, as the machine may be busy. SECONDLOOK_CLIPS and SECONDLOOK_FRAMES make it smaller.
"""

import os
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.paired_timing import Figure, against
from secondlook.config.settings import ImageSettings, ModelSettings
from secondlook.core.boxes import iou, nms
from secondlook.core.clips import clips_in
from secondlook.core.frame_names import FrameAddress
from secondlook.core.image_folder import ImageSelection, select_images
from secondlook.core.images import decode
from secondlook.core.types import Boxes, Image, Proposals
from secondlook.demo.clips import FPS, write_frames
from secondlook.demo.lookalikes import lookalike_frames, target_noun
from secondlook.labeling.appearance import appearances
from secondlook.labeling.embedder import Embedder, Vectors, box_crops
from secondlook.labeling.proposer import Proposer
from secondlook.labeling.tracks import SequenceTracker
from secondlook.models.embedded import load_proposer
from secondlook.models.embeddings import load_demo
from secondlook.models.micro import FINDER_FLOOR, MicroProposer, load
from secondlook.training.micro import MicroParts, MicroTraining, train_micro
from secondlook.training.micro_labels import FrameLabels, merged

CLIPS = int(os.environ.get("SECONDLOOK_CLIPS", "8"))
FRAMES = int(os.environ.get("SECONDLOOK_FRAMES", "150"))
FIRST_SEED, UNKNOWN_SEED, UNKNOWN_CLIPS = 100, 500, 4
LABELS, CORRECTIONS = 5, (7, 8)
STEPS, MINUTES = 480, 30.0
"""Those of the command; the minutes are no bound, since the machine may be busy."""
THRESHOLD, SAME = 0.25, 0.5
FOUND, PRECISION, AFTER, STITCHED, STRAY, SECONDS = 0.9, 0.9, 0.97, 0.95, 0.01, 180.0
TARGET = "target"
TRACKED = 0.1
"""Score of the finder from which boxes are tracked."""
Found = tuple[Boxes, NDArray[np.float32]]


@dataclass
class Clip:
    """A clip with its truth, and what a person has said of it."""

    seed: int
    phrase: str
    """What the finder is asked for."""
    selection: ImageSelection
    images: list[Image]
    truth: list[Boxes]
    labels: list[FrameLabels] = field(default_factory=list)
    touched: set[int] = field(default_factory=set)
    """Frames that are not judged."""

    def label(self, frame: int, boxes: Boxes, negatives: Boxes, complete: bool) -> None:
        """A person marks these in a frame."""
        self.touched.add(frame)
        new = FrameLabels(self.images[frame].name, boxes, negatives, complete)
        self.labels = merged([self.labels, [new]])


class CachedFinder:
    """A proposer that computes each frame once: all versions judge the same boxes."""

    def __init__(self, finder: Proposer) -> None:
        self.name, self.digest, self._finder = finder.name, finder.digest, finder
        self._known: dict[tuple[str, str], Proposals] = {}

    def propose(
        self, images: Sequence[Image], phrases: Sequence[str], floor: float
    ) -> list[Proposals]:
        """See ``labeling.proposer.Proposer``; one phrase."""
        for image in images:
            key = image.sha256, phrases[0]
            if key not in self._known:
                self._known[key] = self._finder.propose([image], phrases, floor)[0]
        return [self._known[image.sha256, phrases[0]] for image in images]


@dataclass(frozen=True)
class Counts:
    """Of boxes that were right and wrong, and of targets."""

    right: int
    wrong: int
    targets: int

    @property
    def recall(self) -> float:
        """Share of the targets that were found."""
        return self.right / max(1, self.targets)

    @property
    def precision(self) -> float:
        """Share of the boxes that were right."""
        return self.right / max(1, self.right + self.wrong)

    @property
    def f1(self) -> float:
        """Of both."""
        return 2 * self.right / max(1, self.right + self.wrong + self.targets)


@dataclass(frozen=True)
class Taught:
    """What a micro-model found of a clip after each round, and what else would have."""

    ceiling: float
    """Share of the targets on which the finder has a box."""
    nearest: Counts
    tracks: Counts
    rounds: list[Counts]
    seconds: list[float]
    """Of the CPU, for each training."""

    def row(self, name: str, phrase: str) -> str:
        """A line of the table under ``HEAD``."""
        cells = " | ".join(_shown(one) for one in (self.nearest, self.tracks, *self.rounds))
        seconds = np.mean(self.seconds)
        return f"| {name} | {phrase} | {self.ceiling:.3f} | {cells} | {seconds:.0f} |"


HEAD = (
    "| clip | target | finder's boxes | nearest embedding | tracks | 5 labels | after 7 "
    "| after 15 | CPU s |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def teach(clip: Clip, folder: Path, parts: MicroParts, specs: tuple[str, str]) -> Taught:
    """Train and correct a micro-model of ``clip`` in ``folder``; ``specs``: finder, embedder."""
    _label_five(clip)
    ceiling, nearest, tracks = (
        _ceiling(clip, parts),
        _nearest(clip, parts),
        _propagated(clip, parts),
    )
    rounds, seconds = [], []
    for number in range(1 + len(CORRECTIONS)):
        seconds.append(_train(clip, folder, parts, specs))
        found = _found(_proposer([folder], parts), clip)
        rounds.append(_count(clip, found))
        if number < len(CORRECTIONS):
            _correct(clip, found, CORRECTIONS[number])
    return Taught(ceiling, nearest, tracks, rounds, seconds)


def run() -> list[Figure | str]:
    """Figures over all clips, and a line for each."""
    parts = MicroParts(CachedFinder(load_proposer("", ModelSettings())), load_demo("", _OPTIONS))
    lines, taught = [HEAD], []
    with tempfile.TemporaryDirectory() as root:
        clips = [_clip(Path(root), FIRST_SEED + place) for place in range(CLIPS)]
        folders = [Path(root) / f"micro-{clip.seed}" for clip in clips]
        for clip, folder in zip(clips, folders, strict=True):
            taught.append(teach(clip, folder, parts, ("demo", "demo")))
            lines.append(taught[-1].row(str(clip.seed), clip.phrase))
            print(lines[-1], file=sys.stderr, flush=True)
        stitched = _stitched(clips[:4], folders[:4], parts)
        stray = _stray(Path(root), folders[:4], parts)
    first, middle, last = (
        _pooled(each) for each in zip(*(one.rounds for one in taught), strict=True)
    )
    nearest = _pooled([one.nearest for one in taught])
    tracks = _pooled([one.tracks for one in taught])
    rival = max(nearest, tracks, key=lambda one: one.f1)
    slowest = max(max(one.seconds) for one in taught)
    return [
        _at_least("targets found from 5 labels", first.recall, FOUND),
        _at_least("precision from 5 labels", first.precision, PRECISION),
        _at_least("targets found after 15 corrections", last.recall, AFTER),
        _at_least("precision after 15 corrections", last.precision, PRECISION),
        against("seconds of a training on two cores", slowest / 2, SECONDS, "s"),
        _better("F1 from 5 labels against the better rival's", first.f1, rival.f1),
        _at_least("F1 of four stitched scenes, worst against its own", stitched, STITCHED),
        against("frames of unknown scenes with a label", stray, STRAY, "of all"),
        f"{CLIPS} clips of {FRAMES} frames. Recall / precision; of the finder's boxes recall.",
        "\n".join(lines),
        f"Over all clips, from 5 labels: nearest embedding {_shown(nearest)} (best "
        f"threshold in hindsight), tracks {_shown(tracks)}, micro-model {_shown(first)}; "
        f"after 7 corrections {_shown(middle)}, after 15 {_shown(last)}.",
    ]


_OPTIONS = ModelSettings()


def _at_least(name: str, value: float, bar: float) -> Figure:
    ratio = value / bar
    return Figure(name, f"≥ {bar:g}", value, bar, "", ratio, ratio, ratio, 1, ratio >= 1)


def _better(name: str, ours: float, theirs: float) -> Figure:
    ratio = ours / max(theirs, 1e-9)
    return Figure(name, "> 1", ours, theirs, "", ratio, ratio, ratio, 1, ratio > 1)


def _shown(counts: Counts) -> str:
    return f"{counts.recall:.3f} / {counts.precision:.3f}"


def _pooled(some: Sequence[Counts]) -> Counts:
    return Counts(*(sum(getattr(c, key) for c in some) for key in ("right", "wrong", "targets")))


def _clip(root: Path, seed: int, count: int = FRAMES) -> Clip:
    """A rendered clip as a video, read again as ``label`` reads it."""
    frames = [*lookalike_frames(seed, count)]
    path = root / f"clip{seed}.mp4"
    write_frames(path, (frame.scene.image for frame in frames))
    limits = ImageSettings()
    selection = select_images([path], None, clips_in([path], limits, 0))
    images = [
        decode(selection.read(file, limits.max_image_bytes), file.name) for file in selection.walk()
    ]
    assert images[-1].name == FrameAddress(path.name, 1000 * (count - 1) // FPS).name
    truth = [np.array(frame.targets, np.float32).reshape(-1, 4) for frame in frames]
    return Clip(seed, target_noun(seed), selection, images, truth)


def _label_five(clip: Clip) -> None:
    """In frames with one target, spread at random."""
    rng = np.random.default_rng(clip.seed)
    single = [frame for frame, boxes in enumerate(clip.truth) if len(boxes) == 1]
    nothing = np.zeros((0, 4), np.float32)
    for frame in rng.choice(single, LABELS, replace=False).tolist():
        clip.label(frame, clip.truth[frame], nothing, complete=True)


def _train(clip: Clip, folder: Path, parts: MicroParts, specs: tuple[str, str]) -> float:
    """Train the next version; CPU seconds."""
    finder, embedder = specs
    how = MicroTraining(TARGET, finder, clip.phrase, embedder, "demo", STEPS, MINUTES, 0)
    began = time.process_time()
    train_micro(clip.selection, clip.labels, how, parts, folder, ImageSettings())
    return time.process_time() - began


def _proposer(folders: Sequence[Path], parts: MicroParts) -> MicroProposer:
    """Micro-models that share the cached finder."""
    opened = [model for folder in folders for model in load(str(folder), _OPTIONS).models]
    shared = [replace(one, finder=parts.finder, embedder=parts.embedder) for one in opened]
    return MicroProposer(shared, "bench")


def _found(proposer: MicroProposer, clip: Clip) -> list[Found]:
    found = proposer.propose(clip.images, [TARGET], THRESHOLD)
    return [(one.boxes, one.scores[:, 0]) for one in found]


def _matched(found: Found, truth: Boxes) -> tuple[list[int], list[int], list[int]]:
    """Rows that are right and wrong, and rows of the truth that are missed; best score first."""
    free = set(range(len(truth)))
    right, wrong = [], []
    overlap = iou(found[0], truth)
    for row in np.argsort(-found[1], kind="stable").tolist():
        best = max(free, key=lambda place: overlap[row, place], default=None)
        if best is not None and overlap[row, best] >= SAME:
            free.discard(best)
            right.append(row)
        else:
            wrong.append(row)
    return right, wrong, sorted(free)


def _count(clip: Clip, found: Sequence[Found]) -> Counts:
    right = wrong = targets = 0
    for frame, (one, truth) in enumerate(zip(found, clip.truth, strict=True)):
        if frame not in clip.touched:
            of_frame = _matched(one, truth)
            right, wrong = right + len(of_frame[0]), wrong + len(of_frame[1])
            targets += len(truth)
    return Counts(right, wrong, targets)


def _correct(clip: Clip, found: Sequence[Found], count: int) -> None:
    """Some of the errors, chosen at random, with what is true there."""
    errors = []
    nothing = np.zeros((0, 4), np.float32)
    for frame, (one, truth) in enumerate(zip(found, clip.truth, strict=True)):
        if frame not in clip.touched:
            _, wrong, missed = _matched(one, truth)
            errors += [(frame, nothing, one[0][row : row + 1]) for row in wrong]
            errors += [(frame, truth[row : row + 1], nothing) for row in missed]
    rng = np.random.default_rng([clip.seed, count])
    for place in rng.permutation(len(errors))[:count].tolist():
        frame, boxes, negatives = errors[place]
        if not len(boxes) and (iou(negatives, clip.truth[frame]) >= SAME).any():
            continue  # a second box of one target: the person removes it, which teaches nothing
        clip.label(frame, boxes, negatives, complete=False)


def _boxes(clip: Clip, parts: MicroParts) -> list[Proposals]:
    return parts.finder.propose(clip.images, [clip.phrase], FINDER_FLOOR)


def _ceiling(clip: Clip, parts: MicroParts) -> float:
    """Share of the targets on which the finder has a box."""
    pairs = zip(clip.truth, _boxes(clip, parts), strict=True)
    best = [iou(truth, found.boxes).max(axis=1, initial=0) for truth, found in pairs]
    return float((np.concatenate(best) >= SAME).mean())


def _labelled(clip: Clip) -> dict[int, Boxes]:
    names = {image.name: place for place, image in enumerate(clip.images)}
    return {names[one.name]: one.boxes for one in clip.labels}


def _nearest(clip: Clip, parts: MicroParts) -> Counts:
    """Each box by its nearest labelled target and its nearest other box in a labelled frame."""
    proposals, known = _boxes(clip, parts), _labelled(clip)

    def vectors(frame: int, boxes: Boxes) -> Vectors:
        return _embedded(parts.embedder, clip.images[frame], boxes)

    own = np.concatenate([vectors(frame, boxes) for frame, boxes in known.items()])
    other = np.concatenate(
        [
            vectors(frame, proposals[frame].boxes[overlap < 0.3])
            for frame, boxes in known.items()
            for overlap in [iou(proposals[frame].boxes, boxes).max(axis=1, initial=0)]
        ]
    )
    scored: list[Found] = []
    for frame, found in enumerate(proposals):
        those = vectors(frame, found.boxes)
        scores = (those @ own.T).max(axis=1) - (those @ other.T).max(axis=1, initial=-1)
        kept = nms(found.boxes, scores.astype(np.float32), 0.45)
        scored.append((found.boxes[kept], scores[kept].astype(np.float32)))
    limits = np.quantile(np.concatenate([scores for _, scores in scored]), np.linspace(0, 1, 60))
    return max(
        (_count(clip, [_above(one, limit) for one in scored]) for limit in limits.tolist()),
        key=lambda counts: counts.f1,
    )


def _above(found: Found, limit: float) -> Found:
    kept = found[1] >= limit
    return found[0][kept], found[1][kept]


def _embedded(embedder: Embedder, image: Image, boxes: Boxes) -> Vectors:
    crops = [*box_crops(image, [(a, b, c, d) for a, b, c, d in boxes.tolist()])]
    return embedder.embed(crops) if crops else np.zeros((0, embedder.dimensions), np.float32)


def _propagated(clip: Clip, parts: MicroParts) -> Counts:
    """Every box of a track that has a label."""
    proposals, known = _boxes(clip, parts), _labelled(clip)
    tracker, tracks, kept = SequenceTracker(FPS), [], []
    for frame, found in enumerate(proposals):
        scores = found.scores[:, 0]
        rows = [r for r in nms(found.boxes, scores, 0.6) if scores[r] >= TRACKED]
        boxes = found.boxes[rows]
        looks = appearances(clip.images[frame].pixels, boxes)
        tracks.append(tracker.update(frame / FPS, boxes, np.zeros(len(boxes), np.intp), looks))
        kept.append((boxes, scores[rows]))
    wanted = {
        int(tracks[frame][row])
        for frame, boxes in known.items()
        for row in np.flatnonzero(iou(kept[frame][0], boxes).max(axis=1, initial=0) >= SAME)
    }
    masks = [np.isin(numbers, [*wanted]) for numbers in tracks]
    return _count(clip, [(b[m], s[m]) for (b, s), m in zip(kept, masks, strict=True)])


def _stitched(clips: Sequence[Clip], folders: Sequence[Path], parts: MicroParts) -> float:
    """The lowest F1 of a scene with all micro-models at once, against that with its own alone."""
    together = _proposer(folders, parts)
    shares = []
    for clip, folder in zip(clips, folders, strict=True):
        own = _count(clip, _found(_proposer([folder], parts), clip)).f1
        shares.append(_count(clip, _found(together, clip)).f1 / max(own, 1e-9))
    return min(shares)


def _stray(root: Path, folders: Collection[Path], parts: MicroParts) -> float:
    """Share of the frames of other scenes on which the set finds anything."""
    together = _proposer([*folders], parts)
    labelled = total = 0
    for place in range(UNKNOWN_CLIPS):
        clip = _clip(root, UNKNOWN_SEED + place, min(FRAMES, 50))
        found = _found(together, clip)
        labelled += sum(len(boxes) > 0 for boxes, _ in found)
        total += len(found)
    return labelled / total
