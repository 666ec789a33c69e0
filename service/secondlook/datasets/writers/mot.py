"""MOTChallenge: ``SPLIT/SEQUENCE/gt/gt.txt`` with ``img1/``, ``seqinfo.ini`` and ``gt/labels.txt``.

A line is a box: frame (from 1), track, left, top, width, height (pixels of the upright image, from
0), 1, class (its line in ``labels.txt``) and visibility, which is not known and so 1. A box of an
unsure object has a 0 in the seventh column, with which evaluations leave it out. An object that is
of several classes has the first of them: a track is in a frame once.
"""

from collections.abc import Mapping
from pathlib import Path

from secondlook.datasets.writers.label_set import LabelledImage, Labels
from secondlook.datasets.writers.sequences import (
    Sequence,
    SequenceFolders,
    tracked,
    untracked_note,
)
from secondlook_client.values import Judgement, Outcome


def write(splits: Mapping[str, Labels], folder: Path) -> list[str]:
    """Write everything into ``folder``, which exists and is empty. Returns sentences about what
    is left out."""
    notes: dict[str, None] = {}
    for split, labels in splits.items():
        sequences = SequenceFolders(folder / split, "img1", 6, 1)
        ids = {name: place for place, name in enumerate(labels.classes, start=1)}
        for sequence, number, image in sequences.frames(labels):
            gt = sequence.folder / "gt"
            gt.mkdir(exist_ok=True)
            with (gt / "gt.txt").open("a", encoding="ascii") as file:
                file.writelines(_line(number, one, ids) for one in _first_of_each(image, ids))
            notes |= dict.fromkeys(untracked_note(image))
        for sequence in sequences.all:
            (sequence.folder / "seqinfo.ini").write_text(_seqinfo(sequence), encoding="utf-8")
            lines = "".join(f"{' '.join(name.split())}\n" for name in labels.classes)
            (sequence.folder / "gt" / "labels.txt").write_text(lines, encoding="utf-8")
    return [*notes]


def _first_of_each(image: LabelledImage, ids: Mapping[str, int]) -> list[Judgement]:
    """One judgement a track: a label before an unsure one, then the first class."""
    found = tracked(image, Outcome.ACCEPT, Outcome.UNSURE)
    ranked = sorted(found, key=lambda one: (one.outcome is Outcome.UNSURE, ids[one.class_name]))
    return [*{one.track: one for one in reversed(ranked)}.values()][::-1]


def _line(number: int, judgement: Judgement, ids: Mapping[str, int]) -> str:
    x1, y1, x2, y2 = judgement.box
    box = ",".join(f"{value:.2f}" for value in (x1, y1, x2 - x1, y2 - y1))
    counts = int(judgement.outcome is Outcome.ACCEPT)
    return f"{number},{judgement.track},{box},{counts},{ids[judgement.class_name]},1\n"


def _seqinfo(sequence: Sequence) -> str:
    facts = {
        "name": sequence.name,
        "imDir": "img1",
        "frameRate": f"{sequence.fps:g}",
        "seqLength": sequence.frames,
        "imWidth": sequence.width,
        "imHeight": sequence.height,
        "imExt": sequence.suffix,
    }
    return "[Sequence]\n" + "".join(f"{key}={value}\n" for key, value in facts.items())
