from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import Row, ScriptedProposer, ScriptedSegmenter, ScriptedVerifier, ellipse, make_image
from numpy.typing import NDArray
from stored import LIMITS, labelled

from secondlook.core.types import Image, Labelled, VQAQuery
from secondlook.labeling import box_masks
from secondlook.labeling.decisions import judge
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook.labeling.segmenter import MaskCandidate, SegmentationPrompt
from secondlook_client.errors import BadOntology, InvalidInput
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Answer, Outcome, View

ROWS: tuple[Row, ...] = (
    ((1, 1, 12, 20), {"dog": 0.8}),
    ((20, 5, 39, 25), {"cat": 0.7}),
    ((22, 2, 30, 9), {"dog": 0.1}),
)
ANSWERS = {"Dog?": 0.9, "Cat?": 0.1}
PETS = Ontology((ClassSpec("dog", question="Dog?"), ClassSpec("cat", question="Cat?")))
Script = Sequence[MaskCandidate] | NDArray[np.bool_]


def pets(segmenter: ScriptedSegmenter, ontology: Ontology = PETS, **settings: Any) -> Labelled:
    found = labelled("pets", ROWS, ANSWERS, ontology, segmenter, **settings)
    assert judge(found.evidence, ontology, LIMITS.nms_iou) == found.judgements
    return found


def test_accepted_boxes_get_the_best_of_their_masks() -> None:
    def three(prompt: SegmentationPrompt, size: tuple[int, int]) -> Script:
        whole = ellipse(prompt, size)
        part = whole & (np.arange(size[0]) < 5)
        return [MaskCandidate(part, 0.5, 0.5), MaskCandidate(whole, 1.02, 0.9)]

    segmenter = ScriptedSegmenter(three)
    found = pets(segmenter)
    dog, cat = found.judgements
    assert (dog.outcome, cat.outcome) == (Outcome.ACCEPT, Outcome.REJECT)
    assert dog.segmentation and cat.segmentation is None
    expected = ellipse(SegmentationPrompt(box=(1, 1, 12, 20)), (40, 30))
    np.testing.assert_array_equal(dog.segmentation.mask.to_array(), expected)
    assert dog.segmentation.quality == 1  # a prediction may leave the range, a share may not
    assert dog.segmentation.model == found.evidence.segmenter == "scripted@s0"
    assert [prompt.box for prompt in segmenter.prompts] == [(1, 1, 12, 20)]
    assert dog.reason == "P(yes) 0.90 ≥ 0.60"
    assert found.timings_ms["segment"] > 0


def test_every_judged_box_may_get_a_mask() -> None:
    segmenter = ScriptedSegmenter()
    assert all(one.segmentation for one in pets(segmenter, segment="all").judgements)
    assert len(segmenter.prompts) == 2  # the third box was not judged
    without = Ontology((replace(PETS.classes[0], mask=False), PETS.classes[1]))
    dog, cat = pets(ScriptedSegmenter(), without, segment="all").judgements
    assert dog.segmentation is None and cat.segmentation


def test_images_are_encoded_together_and_once() -> None:
    segmenter = ScriptedSegmenter()
    shown = Ontology((replace(PETS.classes[0], view=View.MASK), PETS.classes[1]))
    pipeline = Pipeline(
        ScriptedProposer(lambda image, _: ROWS if image.name != "empty" else []),
        ScriptedVerifier({"Dog?": 0.9, "Cat?": 0.9}),
        segmenter=segmenter,
    )
    seen: list[tuple[int, bool]] = []
    pipeline.observe_masks = lambda images, seconds: seen.append((images, seconds > 0))
    found = pipeline.label([Task(make_image(name), shown) for name in ("a", "empty", "b")])
    assert segmenter.batches == [2] and segmenter.encoded == ["a", "b"]
    assert len(segmenter.prompts) == 4  # each box once: the dogs before, the cats after
    assert [len(one.evidence.segmentations) for one in found] == [2, 0, 2]
    assert seen == [(2, True), (2, True)]


class Watching(ScriptedVerifier):
    """Keeps the views that it is shown."""

    def __init__(self) -> None:
        super().__init__(ANSWERS)
        self.shown: list[NDArray[np.uint8]] = []

    def answer(self, queries: Sequence[VQAQuery]) -> list[tuple[Answer, ...]]:
        self.shown += [query.pixels for query in queries]
        return super().answer(queries)


def test_a_verifier_is_shown_the_object_with_the_rest_dimmed() -> None:
    verifier = Watching()
    shown = Ontology((ClassSpec("dog", question="Dog?", view=View.MASK),))
    pipeline = Pipeline(ScriptedProposer(lambda *_: ROWS), verifier, segmenter=ScriptedSegmenter())
    (found,) = pipeline.label([Task(make_image("pets", shade=200), shown)])
    (view,) = verifier.shown
    assert view.shape == (22, 14, 3) and set(np.unique(view).tolist()) == {60, 200}
    (dog,) = found.judgements
    assert dog.segmentation and dog.view == "mask"
    assert (view[..., 0] == 200).sum() == dog.segmentation.mask.area


def broken(said: Any) -> ScriptedSegmenter:
    def script(prompt: SegmentationPrompt, size: tuple[int, int]) -> Script:
        if isinstance(said, Exception):
            raise said
        return said(ellipse(prompt, size)) if callable(said) else said

    return ScriptedSegmenter(script)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (RuntimeError("CUDA out of memory"), "the segmenter failed (RuntimeError); see the log"),
        (InvalidInput("it takes no boxes"), "it takes no boxes"),
        ([], "the segmenter found no pixel of an object"),
        (np.zeros((30, 40), dtype=bool), "the segmenter found no pixel of an object"),
        (np.ones((4, 4), dtype=bool), "a mask of shape (4, 4) for an image of (30, 40)"),
        (lambda whole: [MaskCandidate(whole, float("nan"), 1.0)], "a quality of nan"),
        (lambda whole: [MaskCandidate("none", 1.0, 1.0)], "a mask of shape ()"),  # type: ignore[arg-type]
        (["mask"], "the segmenter failed (AttributeError)"),
    ],
)
def test_a_failing_segmenter_costs_no_label(said: Any, reason: str) -> None:
    found = pets(broken(said))
    dog, _ = found.judgements
    assert dog.outcome is Outcome.ACCEPT and dog.segmentation is None
    assert reason in dog.reason and dog.reason.startswith("P(yes) 0.90 ≥ 0.60; no mask: ")


def test_a_view_without_a_mask_is_no_verdict() -> None:
    shown = Ontology((replace(PETS.classes[0], view=View.MASK), PETS.classes[1]))
    dog, _ = pets(broken(RuntimeError()), shown).judgements
    assert dog.outcome is Outcome.UNSURE
    assert dog.reason.startswith("no verdict: no mask to show: the segmenter failed")


def test_a_refused_box_costs_the_others_no_mask() -> None:
    def picky(prompt: SegmentationPrompt, size: tuple[int, int]) -> Script:
        if prompt.box == (1, 1, 12, 20):
            raise InvalidInput("too small a box")
        return ellipse(prompt, size)

    dog, cat = pets(ScriptedSegmenter(picky), segment="all").judgements
    assert cat.segmentation and not dog.segmentation
    assert "no mask: too small a box" in dog.reason


class Unable(ScriptedSegmenter):
    """Cannot encode."""

    def encode(self, images: Sequence[Image]) -> list[Any]:
        raise ConnectionError


def test_an_image_that_cannot_be_encoded_keeps_its_labels() -> None:
    dog, _ = pets(Unable()).judgements
    assert dog.reason == (
        "P(yes) 0.90 ≥ 0.60; no mask: the segmenter failed (ConnectionError); see the log"
    )


def test_noise_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_masks, "MAX_KEPT_COUNTS", 20)
    dog, _ = pets(ScriptedSegmenter()).judgements
    assert dog.segmentation is None and "20 fit" in dog.reason
    monkeypatch.setattr(box_masks, "MAX_KEPT_COUNTS", 2**16)
    monkeypatch.setattr(box_masks, "MAX_IMAGE_COUNTS", 50)
    dog, cat = pets(ScriptedSegmenter(), segment="all").judgements
    assert dog.segmentation and cat.segmentation is None


def test_classes_that_need_masks_need_a_segmenter() -> None:
    pipeline = Pipeline(ScriptedProposer(), ScriptedVerifier())
    masked = Pipeline(ScriptedProposer(), ScriptedVerifier(), segmenter=ScriptedSegmenter())
    for needs in ({"mask": True}, {"box": "mask"}, {"view": "mask"}):
        ontology = Ontology((ClassSpec("cat"), ClassSpec("dog", **needs)))  # type: ignore[arg-type]
        with pytest.raises(BadOntology, match=r"'dog' needs masks.*--segmenter"):
            pipeline.check_ontology(ontology)
        masked.check_ontology(ontology)
    pipeline.check_ontology(PETS)


def test_decided_again_a_new_label_is_told_that_it_was_not_segmented() -> None:
    found = pets(ScriptedSegmenter())
    lenient = Ontology(
        (PETS.classes[0], replace(PETS.classes[1], accept=0.05, reject=0.0, box="mask"))
    )
    dog, cat = judge(found.evidence, lenient, LIMITS.nms_iou)
    assert dog == found.judgements[0]
    assert cat.outcome is Outcome.ACCEPT
    assert cat.reason.endswith("; no mask: the box was not segmented when its image was labelled")
