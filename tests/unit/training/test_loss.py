"""The students' loss: several classes an object, ignored regions, hard negatives, rare classes."""

import numpy as np
import pytest
import torch

from secondlook.training.augment import AnnotatedImage
from secondlook.training.data import targets_of
from secondlook.training.loss import MAX_CLASS_WEIGHT, attach_loss, class_weights
from secondlook.training.model import build_student

SIDE, CLASSES = 64, ("person", "with glasses", "dog")
BOX = [8, 8, 40, 56]
LEFT = [0, 30, 12, 64]
QUERIES = (BOX, LEFT, [50, 2, 62, 20])


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(3)
    return build_student("pico", CLASSES, "none", (SIDE, SIDE), seed=3).model.train()


def _image(labels=((BOX, 0),), ignore=(), negatives=()):
    def split(pairs):
        boxes = np.array([box for box, _ in pairs], np.float32).reshape(-1, 4)
        return boxes, np.array([kind for _, kind in pairs], np.int64)

    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    image = AnnotatedImage(pixels, *split(labels), *split(ignore), *split(negatives))
    return targets_of(image, len(CLASSES))


def _class_gradient(student, target):
    """Slope of the last layer's classification loss by its scores; (queries, classes)."""
    config = student.config
    centres = torch.tensor([_centred(box) for box in QUERIES])[None]
    logits = torch.zeros(1, 2, len(QUERIES), len(CLASSES), requires_grad=True)
    corners = torch.zeros(1, 1, len(QUERIES), 4 * (config.max_num_bins + 1))
    _, parts, _ = student.loss_function(
        logits[:, -1],
        [target],
        torch.device("cpu"),
        centres,
        config,
        logits,
        torch.stack([centres, centres], 1),
        enc_topk_logits=logits[:, 0],
        enc_topk_bboxes=centres,
        predicted_corners=corners,
        initial_reference_points=centres[:, None],
    )
    (slope,) = torch.autograd.grad(parts["loss_mal"], logits)
    return slope[0, -1]


def _centred(box):
    x1, y1, x2, y2 = (side / SIDE for side in box)
    return [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]


def test_an_object_with_two_classes_raises_both(student):
    attach_loss(student)
    both = _class_gradient(student, _image(((BOX, 0), (BOX, 1))))
    assert (both[0, :2] < 0).all()
    assert both[0, 2] > 0
    assert (both[1:] > 0).all()
    one = _class_gradient(student, _image())
    assert one[0, 0] < 0 < one[0, 1]


def test_a_query_in_an_ignored_region_learns_nothing_of_that_class(student):
    attach_loss(student)
    slope = _class_gradient(student, _image(ignore=((LEFT, 1),)))
    assert slope[1, 1] == 0
    assert (slope[1, [0, 2]] > 0).all()
    assert (slope[2] > 0).all(), "a query elsewhere is background as ever"
    every = _class_gradient(student, _image(ignore=((LEFT, -1),)))
    assert (every[1] == 0).all()


def test_an_ignored_region_hides_no_label_inside_it(student):
    """An unsure "with glasses" on a certain person: the person is learnt, the glasses are not."""
    attach_loss(student)
    slope = _class_gradient(student, _image(ignore=((BOX, 1), (BOX, 0))))
    assert slope[0, 0] < 0
    assert slope[0, 1] == 0
    assert slope[0, 2] > 0


def test_a_hard_negative_weighs_more(student):
    rejected = _image(negatives=((LEFT, 2),))
    attach_loss(student, negative_weight=1)
    light = _class_gradient(student, rejected)
    attach_loss(student, negative_weight=3)
    heavy = _class_gradient(student, rejected)
    assert torch.allclose(heavy[1, 2], 3 * light[1, 2])
    assert torch.allclose(heavy[1, :2], light[1, :2])
    assert torch.allclose(heavy[[0, 2]], light[[0, 2]])


def test_a_class_weighs_what_it_is_given(student):
    attach_loss(student)
    plain = _class_gradient(student, _image())
    attach_loss(student, weights=torch.tensor([1.0, 4.0, 1.0]))
    balanced = _class_gradient(student, _image())
    assert plain[:, 1].abs().max() > 0
    assert torch.allclose(balanced[:, 1], 4 * plain[:, 1])
    assert torch.allclose(balanced[:, [0, 2]], plain[:, [0, 2]])


@pytest.mark.parametrize(
    ("counts", "balance", "weights"),
    [
        ((100, 100, 10), 1.0, (1, 1, 10)),
        ((100, 100, 25), 0.5, (1, 1, 2)),
        ((100, 100, 25), 0.0, (1, 1, 1)),
        ((100, 400, 100), 1.0, (1, 1, 1)),  # what is frequent weighs no less
        ((1000, 1000, 1), 1.0, (1, 1, MAX_CLASS_WEIGHT)),
        ((1000, 1000, 0), 1.0, (1, 1, MAX_CLASS_WEIGHT)),
    ],
)
def test_rare_classes_weigh_more(counts, balance, weights):
    numbers = np.repeat(np.arange(3), counts)
    assert class_weights([numbers], 3, balance).tolist() == pytest.approx(weights)
    assert class_weights([], 3, balance).tolist() == [1, 1, 1]


def test_an_image_of_nothing_has_a_finite_loss(student):
    attach_loss(student)
    empty = _image(labels=())
    said = student(pixel_values=torch.rand(1, 3, SIDE, SIDE), labels=[empty])
    assert torch.isfinite(said.loss)


def test_without_changes_the_loss_is_the_models_own(student):
    """One class an object, nothing ignored: the boxes and classification losses of transformers."""
    from transformers.loss.loss_deimv2 import Deimv2ForObjectDetectionLoss

    attach_loss(student)
    ours = _losses(student)
    student.loss_function = Deimv2ForObjectDetectionLoss
    theirs = _losses(student)
    for name in ("loss_mal", "loss_bbox", "loss_giou", "loss_mal_dn_1", "loss_giou_dn_1"):
        assert ours[name].item() == pytest.approx(theirs[name].item(), rel=1e-4), name


def _losses(student):
    torch.manual_seed(0)
    pixels = torch.rand(2, 3, SIDE, SIDE)
    return student(pixel_values=pixels, labels=[_image(), _image()]).loss_dict
