"""What the verifier makes of a mask: the view ``mask`` against ``crop``, ``context`` and ``image``.

Every question of the demo world on the true boxes of unseen scenes, and masks and glasses on faces
in photos. The mask is what the segmenter makes of the box. The embedded verifier was trained on
crops; the one of the faces aligns its input by landmarks and expects a crop's margin, so context
and whole images are not what it was made for.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from real_photos import EXAMPLES, GLASSES, MASK, PhotoSet, faces

from bench import fixtures
from bench.mask_sessions import chosen_segmenter
from bench.paired_timing import Figure
from secondlook.config.settings import ModelSettings
from secondlook.core.boxes import Xyxy
from secondlook.core.files import replacing
from secondlook.core.images import decode
from secondlook.core.types import Image, VQAQuery
from secondlook.demo.world import ATTRIBUTES, Thing, classes_of, scene
from secondlook.evaluation.calibration import auroc
from secondlook.labeling.segmenter import SegmentationPrompt, Segmenter
from secondlook.labeling.verifier import Verifier, render_view
from secondlook.models.embedded import load_verifier
from secondlook.models.registry import load_verifier as load_any_verifier
from secondlook_client.masks import Mask
from secondlook_client.values import View

SCENES = int(os.environ.get("SECONDLOOK_SCENES", "60"))
WORLD = 15_401
PHOTOS = int(os.environ.get("SECONDLOOK_FACE_PHOTOS", "60"))
"""With faces; each takes seconds to encode."""
CACHE = Path(__file__).parents[1] / ".cache" / "bench" / "masks"
VIEWS = (View.CROP, View.MASK, View.CONTEXT, View.IMAGE)
HEAD = (
    "AUROC, right at 0.5:\n\n| question | asked | yes | "
    + " | ".join(VIEWS)
    + " |\n|---|---|---|"
    + "---|" * len(VIEWS)
)
FACE_QUESTIONS = {
    MASK: "Is this person wearing a mask?",
    GLASSES: "Is this person wearing glasses?",
}
LEAST_FACE = 32
"""Pixels of a face's height."""


@dataclass(frozen=True, eq=False)
class AskedBox:
    """A box with questions of known answers."""

    image: Image
    box: Xyxy
    mask: Mask
    answers: dict[str, bool]
    """By question."""


def run() -> list[Figure | str]:
    """A table each."""
    found: list[Figure | str] = [
        _table("Demo world", _things(), load_verifier("", ModelSettings()))
    ]
    data = Path(os.environ.get("SECONDLOOK_TEST_DATA", "../shared/data"))
    try:
        photos = faces(data)
        segmenter = chosen_segmenter(f"sam-onnx:{(data / 'weights').resolve(strict=True)}")
    except FileNotFoundError as cause:
        return [*found, f"Faces: not measured, {cause.filename} is absent."]
    sys.path.append(str(EXAMPLES))
    verifier = load_any_verifier(photos.verifier, ModelSettings())
    assert verifier is not None
    return [*found, _table("Faces in photos", list(_faces(photos, segmenter)), verifier)]


def _table(title: str, asked: Sequence[AskedBox], verifier: Verifier) -> str:
    said = {view: _answers(verifier, asked, view) for view in VIEWS}
    truth = [answer for one in asked for answer in one.answers.items()]
    questions = np.array([question for question, _ in truth])
    right = np.array([answer for _, answer in truth])
    rows = []
    for question in dict.fromkeys(questions.tolist()):
        of = questions == question
        cells = [_cell(said[view][of], right[of]) for view in VIEWS]
        rows.append(f"| {question} | {of.sum():,} | {right[of].sum():,} | {' | '.join(cells)} |")
    cells = [_cell(said[view], right) for view in VIEWS]
    rows.append(f"| all | {len(right):,} | {right.sum():,} | {' | '.join(cells)} |")
    return "\n".join([f"**{title}**. {HEAD}", *rows])


def _cell(said: NDArray[np.float64], right: NDArray[np.bool_]) -> str:
    return f"{auroc(said, right):.3f}, {((said >= 0.5) == right).mean():.3f}"


def _answers(verifier: Verifier, asked: Sequence[AskedBox], view: View) -> NDArray[np.float64]:
    """P(yes) of every question of every box, in order."""
    said: list[float] = []
    for start in range(0, len(asked), 32):
        part = asked[start : start + 32]
        queries = [
            VQAQuery(
                render_view(one.image, one.box, view, verifier.min_side, one.mask),
                tuple(one.answers),
            )
            for one in part
        ]
        said += [answer.p_yes or 0.0 for some in verifier.answer(queries) for answer in some]
    return np.array(said, np.float64)


def _things() -> list[AskedBox]:
    """Every thing of the scenes, with the questions that are asked of boxes of its noun."""
    segmenter = chosen_segmenter("demo")
    found = []
    for index in range(SCENES):
        rendered = scene(WORLD, index)
        image = decode(fixtures.jpeg(rendered.image))
        boxes = [thing.box for thing in rendered.things]
        for thing, mask in zip(rendered.things, _masks(segmenter, image, boxes), strict=True):
            found.append(AskedBox(image, thing.box, mask, _questions(thing)))
    return found


def _questions(thing: Thing) -> dict[str, bool]:
    """The nouns are asked of everything, attributes only of what has them."""
    true = classes_of(thing)
    return {
        spec.question: spec.name in true
        for spec in fixtures.ontology().classes
        if spec.name not in ATTRIBUTES or ATTRIBUTES[spec.name].noun == thing.noun
    }


def _masks(segmenter: Segmenter, image: Image, boxes: Sequence[Xyxy]) -> list[Mask]:
    if not boxes:
        return []
    (encoding,) = segmenter.encode([image])
    found = segmenter.segment(encoding, [SegmentationPrompt(box=box) for box in boxes])
    return [Mask.from_array(candidates[0].pixels) for candidates in found]


def _faces(photos: PhotoSet, segmenter: Segmenter) -> Iterator[AskedBox]:
    """Faces with known answers; their masks come from the cache where they are there."""
    names = {entry["id"]: entry["name"] for entry in photos.truth["categories"]}
    for entry in photos.truth["images"][:PHOTOS]:
        image = decode((photos.images / entry["file_name"]).read_bytes())
        known: dict[Xyxy, dict[str, bool | None]] = {}
        for one in photos.truth["annotations"]:
            if one["image_id"] == entry["id"] and one["bbox"][3] >= LEAST_FACE:
                x, y, width, height = one["bbox"]
                of_box = known.setdefault((x, y, x + width, y + height), {})
                of_box[names[one["category_id"]]] = None if one["iscrowd"] else True
        masks = _cached(segmenter, image, list(known))
        for (box, classes), mask in zip(known.items(), masks, strict=True):
            answers = {q: classes.get(name, False) for name, q in FACE_QUESTIONS.items()}
            yield AskedBox(image, box, mask, {q: a for q, a in answers.items() if a is not None})


def _cached(segmenter: Segmenter, image: Image, boxes: Sequence[Xyxy]) -> list[Mask]:
    cached = CACHE / f"faces-{segmenter.digest}-{image.sha256[:16]}-{len(boxes)}.json"
    if not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        with replacing(cached) as part:
            part.write_text(json.dumps([m.counts for m in _masks(segmenter, image, boxes)]))
    counts = json.loads(cached.read_text())
    return [Mask(image.width, image.height, one) for one in counts]
