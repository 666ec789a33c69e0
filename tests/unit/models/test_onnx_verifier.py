from collections.abc import Sequence

import numpy as np
import pytest

from secondlook.core.types import Pixels, Proposals, VQAQuery
from secondlook.models.onnx_detector import DetectorProposer
from secondlook.models.onnx_verifier import FRAME, DetectorVerifier, framed
from secondlook_client.values import Answer

CLASSES = ("dog", "cat", "hot dog")


class Seen:
    """A detector that sees the same on each image, in shares of its sides, and counts images."""

    def __init__(self, *rows: tuple[tuple[float, float, float, float], dict[str, float]]) -> None:
        self._rows = rows
        self.sizes: list[tuple[int, int]] = []

    def detect(self, images: Sequence[Pixels], floor: float) -> list[Proposals]:
        self.sizes += [(image.shape[1], image.shape[0]) for image in images]
        return [self._on(image) for image in images]

    def _on(self, image: Pixels) -> Proposals:
        height, width = image.shape[:2]
        whole = np.array([width, height] * 2, np.float32)
        inside = 1.0 if width < 50 else 1 / FRAME  # the second look is at the crop in its frame
        boxes = [(np.array(box) - 0.5) * inside + 0.5 for box, _ in self._rows]
        scores = [[seen.get(name, 0.0) for name in CLASSES] for _, seen in self._rows]
        return Proposals(
            np.array(boxes, np.float32).reshape(-1, 4) * whole,
            np.array(scores, np.float32).reshape(-1, len(CLASSES)),
        )


def answers(seen: Seen, *questions: str) -> tuple[Answer, ...]:
    verifier = DetectorVerifier(DetectorProposer(seen.detect, CLASSES, "small", "d1"))
    (found,) = verifier.answer([VQAQuery(np.zeros((40, 40, 3), np.uint8), questions)])
    return found


MIDDLE = (0.1, 0.1, 0.9, 0.9)


def test_it_says_yes_to_what_it_sees_and_no_to_other_classes() -> None:
    dog, cat = answers(Seen((MIDDLE, {"dog": 0.8})), "Is this a dog?", "Is this a cat?")
    assert dog.p_yes is not None and dog.p_yes > 0.95
    assert cat.p_yes is not None and cat.p_yes < 0.1
    assert (dog.raw, cat.raw) == ("yes (0.80)", "dog (0.80, not 0.00)")


def test_all_questions_about_a_crop_share_two_looks_at_it() -> None:
    seen = Seen((MIDDLE, {"dog": 0.8}))
    answers(seen, "Is this a dog?", "Is this a cat?", "Is this a hot dog?")
    assert seen.sizes == [(40, 40), (round(40 * FRAME), round(40 * FRAME))]


def test_what_is_beside_the_object_does_not_count() -> None:
    corner = ((0.0, 0.0, 0.2, 0.2), {"cat": 0.9})
    (dog,) = answers(Seen((MIDDLE, {"dog": 0.3}), corner), "Is this a dog?")
    assert dog.p_yes is not None and dog.p_yes > 0.9


def test_where_it_sees_nothing_it_does_not_know() -> None:
    (dog,) = answers(Seen(), "Is this a dog?")
    assert dog.p_yes == 0.5


@pytest.mark.parametrize(
    "question", ["Is this a horse?", "Is this dog wet?", "Is there a dog?", "dog", "Is this a ?"]
)
def test_it_abstains_from_what_it_has_no_class_for(question: str) -> None:
    (answer,) = answers(Seen((MIDDLE, {"dog": 0.8})), question)
    assert answer.p_yes is None and not answer.error and "no class" in answer.raw


@pytest.mark.parametrize("question", ["is this a DOG ?", "Is this a dog?", "Is this an dog?"])
def test_a_question_may_be_spelled_otherwise(question: str) -> None:
    (answer,) = answers(Seen((MIDDLE, {"dog": 0.8})), question)
    assert answer.p_yes is not None and answer.p_yes > 0.9


@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (2, 3000), (300, 200)])
def test_a_frame_keeps_the_shape_of_the_crop_and_is_bounded(size: tuple[int, int]) -> None:
    canvas = framed(np.full((size[1], size[0], 3), 255, np.uint8))
    height, width = canvas.shape[:2]
    assert max(height, width) <= round(256 * FRAME) and min(height, width) >= 2
    inside = canvas[..., 0] == 255
    assert inside.any() and not inside.all()
