"""A second look at annotations with known errors: what `secondlook verify` finds, what it costs.

Of the exact truth 30 % of the classes are swapped for another class of the set and other 20 % of
the boxes are shifted by 30 to 60 % of their sides; the rest stays right. Drawn world: 200 scenes
that the embedded models have not seen, with the embedded verifier. Photos: COCO128 with YOLOX-Nano,
which was trained on these photos (they are of COCO's training part) and whose P(yes) was fitted on
every second of them; the figures are of the others. The photos are not part of the project;
SECONDLOOK_TEST_DATA names their folder.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corrupted_labels import RIGHT, WRONG_CLASS, WRONG_PLACE, corrupted

from bench.paired_timing import Figure

SEED = 4711
SCENES, WORLD_SEED = 200, 52_001
"""Never used in training."""
LIMITS = (0.1, 0.2, 0.4, 0.5)
"""P(yes) up to which a box is rejected."""
SAME_BOX = 0.5
"""IoU from which a suggested box is right."""


@dataclass(frozen=True)
class Checked:
    """One annotation: what was done to it, and what was found out."""

    error: str
    truth: Mapping[str, Any]
    """As it was before."""
    outcome: str
    p_yes: float
    finding: str
    suggested_class: str
    suggested_box: Sequence[float] | None


def run() -> list[Figure | str]:
    """A table for each world."""
    with tempfile.TemporaryDirectory() as folder:
        drawn = _drawn(Path(folder, "drawn"))
        photos = _photos(Path(folder, "photos"))
    seeds = f"Seeds: {SEED} of the errors, {WORLD_SEED} of the scenes."
    return [seeds, drawn, photos]


def _drawn(folder: Path) -> str:
    world = folder / "world"
    _secondlook("world", "--out", world, "--count", SCENES, "--seed", WORLD_SEED)
    found = _verified(world / "truth.json", world / "images", folder, "demo", "demo")
    title = f"Drawn world: {SCENES} scenes, embedded verifier and proposer"
    return _table(title, found)


def _photos(folder: Path) -> str:
    data = Path(os.environ.get("SECONDLOOK_TEST_DATA", "../shared/data"))
    photos, weights = data / "coco_val128", data / "weights" / "yolox_nano.onnx"
    if not photos.is_dir() or not weights.is_file():
        return f"Photos: not measured, {data} holds no coco_val128 with weights/yolox_nano.onnx."
    model = f"onnx:{weights.resolve()}"
    found = _verified(photos / "annotations.json", photos / "images", folder, model, model)
    images = sorted({checked.truth["image_id"] for checked in found})
    others = set(images[1::2])
    shown = [checked for checked in found if checked.truth["image_id"] in others]
    return _table(f"Photos: {len(others)} of COCO128, YOLOX-Nano as verifier and proposer", shown)


def _verified(
    truth: Path, images: Path, folder: Path, verifier: str, proposer: str
) -> list[Checked]:
    """Corrupt a COCO file and have it verified by the command."""
    folder.mkdir(exist_ok=True)
    before = json.loads(truth.read_text())
    after, errors = corrupted(before, random.Random(SEED))
    (folder / "annotations.json").write_text(json.dumps(after))
    ontology = truth.with_name("ontology.yaml")
    words = ["--ontology", ontology] if ontology.exists() else []
    models = ["--verifier", verifier, "--proposer", proposer]
    flags = [*models, "--suggest", "--find-missing", "--gallery", 0, *words]
    out = folder / "verified"
    _secondlook("verify", folder / "annotations.json", "--images", images, "--out", out, *flags)
    return [*_outcomes(before, errors, out)]


def _outcomes(truth: Mapping[str, Any], errors: Mapping[int, str], out: Path) -> Iterator[Checked]:
    true = {entry["id"]: entry for entry in truth["annotations"]}
    rows = map(json.loads, (out / "findings.jsonl").read_text().splitlines())
    findings = {row["annotation_id"]: row for row in rows if row["annotation_id"] is not None}
    kept = json.loads((out / "verified.json").read_text())["annotations"]
    answers = {entry["id"]: entry.get("secondlook") for entry in kept}
    for number, error in errors.items():
        row = findings.get(number, {})
        answer = answers.get(number) or row
        yield Checked(
            error,
            {**true[number], "class": _class_name(truth, true[number])},
            answer["outcome"],
            0.5 if answer["p_yes"] is None else answer["p_yes"],
            row.get("finding", ""),
            row.get("suggested_class", ""),
            row.get("suggested_box"),
        )


def _class_name(truth: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    names = {category["id"]: category["name"] for category in truth["categories"]}
    return str(names[entry["category_id"]])


def _table(title: str, found: Sequence[Checked]) -> str:
    of = {kind: [c for c in found if c.error == kind] for kind in (RIGHT, WRONG_CLASS, WRONG_PLACE)}
    head = (
        f"{title}; by default P(yes) ≤ 0.4 rejects and ≥ 0.6 keeps.\n\n"
        "| annotations | number | rejected | unsure | kept | kept, told as loose box |\n"
        "|---|---|---|---|---|---|"
    )
    lines = [head, *(_row(kind, some) for kind, some in of.items())]
    lines += ["", *_sentences(found, of), "", *_limits(of)]
    return "\n".join(lines)


def _row(kind: str, some: Sequence[Checked]) -> str:
    shares = [
        _share(c.outcome == outcome for c in some) for outcome in ("reject", "unsure", "accept")
    ]
    loose = _share(c.outcome == "accept" and c.finding == "loose box" for c in some)
    return f"| {kind} | {len(some)} | {' | '.join(shares)} | {loose} |"


def _sentences(found: Sequence[Checked], of: Mapping[str, Sequence[Checked]]) -> Iterator[str]:
    kept = [c for c in found if c.outcome == "accept"]
    clean = [c for c in kept if c.finding != "loose box"]
    yield (
        f"Precision of the set: {_share(c.error == RIGHT for c in found)} before, "
        f"{_share(c.error == RIGHT for c in kept)} of what was kept, "
        f"{_share(c.error == RIGHT for c in clean)} without loose boxes."
    )
    wrong = [c for c in of[WRONG_CLASS] if c.outcome != "accept"]
    told = [c for c in wrong if c.suggested_class]
    yield (
        f"Swapped and not kept: {len(wrong)}; for {len(told)} another class was suggested, for "
        f"{_share(c.suggested_class == c.truth['class'] for c in told)} of these the true one."
    )
    better = [c for c in of[WRONG_PLACE] if c.suggested_box]
    right = _share(_iou(c.suggested_box or (), c.truth["bbox"]) >= SAME_BOX for c in better)
    yield f"Shifted: {len(better)} got a better box, of which {right} overlap the truth by IoU 0.5."


def _limits(of: Mapping[str, Sequence[Checked]]) -> Iterator[str]:
    yield "| rejected where P(yes) ≤ | " + " | ".join(map(str, LIMITS)) + " |"
    yield "|---" * (len(LIMITS) + 1) + "|"
    for kind, some in of.items():
        shares = (_share(c.p_yes <= limit for c in some) for limit in LIMITS)
        yield f"| {kind} | {' | '.join(shares)} |"


def _share(true: Iterator[bool]) -> str:
    values = [*true]
    return f"{sum(values) / len(values):.3f}" if values else "–"


def _iou(box: Sequence[float], bbox: Sequence[float]) -> float:
    """Of corners and of a corner with sides."""
    x, y, width, height = bbox
    across = min(box[2], x + width) - max(box[0], x)
    down = min(box[3], y + height) - max(box[1], y)
    shared = max(across, 0) * max(down, 0)
    return shared / ((box[2] - box[0]) * (box[3] - box[1]) + width * height - shared)


def _secondlook(*words: object) -> None:
    command = [sys.executable, "-m", "secondlook", *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
