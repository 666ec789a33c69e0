"""The embedded models through the whole product, on scenes that no training saw.

The floors are below what 500 scenes measure (bench/RESULTS.md), by the spread of small samples.
"""

import json

import numpy as np
import pytest

from secondlook.config.settings import ModelSettings
from secondlook.core.types import Image, VQAQuery
from secondlook.demo.world import scene
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook.labeling.tiling import tiled
from secondlook.models.embedded import EMBEDDED, load_proposer, load_verifier
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Outcome


def test_weights_stay_small_and_safe() -> None:
    files = [path for path in EMBEDDED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40 * 2**20
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".png", ".jinja", ".txt"}
    for folder in ("proposer", "verifier"):
        assert json.loads((EMBEDDED / folder / "training.json").read_text())["command"]


def test_proposer_sees_nouns_and_no_attributes() -> None:
    """Asked for people with glasses it finds people without, as the real one does."""
    proposer = load_proposer("", ModelSettings())
    drawn = [scene(4243, index) for index in range(12)]
    images = [Image(item.image, str(index)) for index, item in enumerate(drawn)]
    bare = [
        (number, thing.box)
        for number, item in enumerate(drawn)
        for thing in item.things
        if thing.noun == "person" and "glasses" not in thing.traits
    ]
    found = proposer.propose(images, ["person wearing glasses"], 0.25)
    hits = sum(_covered(found[number].boxes, box) for number, box in bare)
    assert len(bare) > 5
    assert hits / len(bare) > 0.7


def test_verifier_tells_glasses_on_the_eyes_from_none() -> None:
    verifier = load_verifier("", ModelSettings())
    queries, truth = [], []
    for index in range(30):
        drawn = scene(4244, index)
        for thing in drawn.things:
            if thing.noun == "person":
                x1, y1, x2, y2 = (int(edge) for edge in thing.box)
                queries.append(
                    VQAQuery(drawn.image[y1:y2, x1:x2], ("Is this person wearing glasses?",))
                )
                truth.append("glasses" in thing.traits)
    said = [answers[0].p_yes for answers in verifier.answer(queries)]
    assert None not in said
    right = np.mean([(p > 0.5) == wears for p, wears in zip(said, truth, strict=True) if p])
    assert len(queries) > 50
    assert right > 0.9


@pytest.mark.parametrize("side", [1, 3, 17, 900])
def test_any_image_size_goes_through_both_models(side: int) -> None:
    pixels = np.random.default_rng(side).integers(0, 255, (side, 2 * side, 3), dtype=np.uint8)
    boxes = load_proposer("", ModelSettings()).propose([Image(pixels, "")], ["dog"], 0.0)
    assert len(boxes) == 1
    [(answer,)] = load_verifier("", ModelSettings()).answer([VQAQuery(pixels, ("Is this a dog?",))])
    assert answer.p_yes is None or 0 <= answer.p_yes <= 1


def test_tiles_find_the_small_objects_of_a_large_image() -> None:
    """Six scenes side by side, which the proposer shrinks to the size of one."""
    nouns = ("person", "car", "dog")
    pixels, truth = np.full((640, 960, 3), 128, np.uint8), []
    for place in range(6):
        left, top = place % 3 * 320, place // 3 * 320
        drawn = scene(4245, place)
        height, width = drawn.image.shape[:2]
        pixels[top : top + height, left : left + width] = drawn.image
        truth += [
            (thing.noun, tuple(np.add(thing.box, (left, top, left, top))))
            for thing in drawn.things
            if thing.noun in nouns
        ]
    task = Task(Image(pixels, "0" * 64), Ontology(tuple(map(ClassSpec, nouns))))
    proposer, verifier = load_proposer("", ModelSettings()), load_verifier("", ModelSettings())
    found = {}
    for side, where in ((0, "all"), (320, "all"), (320, "small")):
        models = ModelSettings(tile=side, tile_where=where)
        (labelled,) = Pipeline(tiled(proposer, models), verifier).label([task])
        labels = [(j.class_name, j.box) for j in labelled.of(Outcome.ACCEPT)]
        found[side, where] = np.mean(
            [_covered(np.array([b for n, b in labels if n == noun]), box) for noun, box in truth]
        )
        assert len(labels) <= 1.2 * len(truth)  # an object that several tiles show is one label
    assert len(truth) > 15
    assert found[0, "all"] < 0.5  # 0.27, 0.95 and 0.82
    assert found[320, "all"] > 0.8
    assert found[320, "small"] > 0.65


def _covered(boxes: np.ndarray, box: tuple[float, float, float, float]) -> bool:
    from secondlook.core.boxes import iou

    return bool(len(boxes)) and iou(boxes, np.array([box], np.float32)).max() > 0.5
