"""Views of images: boxes stay with their pixels, and what is cut off is not background."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from training_sets import CLASSES, COLOURS, drawn, sample_of

from secondlook.datasets.image_cache import read_pixels
from secondlook.datasets.samples import Sample, boxes_array, class_array
from secondlook.detector.runtime import stretch
from secondlook.training import augment
from secondlook.training.augment import (
    KEPT_SHARE,
    AnnotatedImage,
    annotated_image,
    augmented,
    plain_view,
)
from secondlook.training.data import Batch, Views, loader, workers_for
from secondlook.training.settings import TrainingSettings

NONE, NOBODY = boxes_array(()), class_array(())
SIZE = (96, 80)
sides = st.integers(24, 160)


@st.composite
def scenes(draw: st.DrawFn) -> AnnotatedImage:
    """One bright rectangle on black, in an image of any size."""
    width, height = draw(sides), draw(sides)
    x1, y1 = draw(st.integers(0, width - 12)), draw(st.integers(0, height - 12))
    x2, y2 = draw(st.integers(x1 + 10, width)), draw(st.integers(y1 + 10, height))
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[y1:y2, x1:x2] = 255
    boxes = boxes_array([(x1, y1, x2, y2)])
    return AnnotatedImage(
        pixels, boxes, class_array([1]), boxes, class_array([0]), boxes, class_array([2])
    )


def bright_box(seen: AnnotatedImage) -> list[float]:
    """Where the rectangle is in the pixels."""
    grey = seen.pixels.max(axis=2).astype(int)
    rows, columns = np.nonzero(grey * 2 >= grey.min() + grey.max())  # other light moves both
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@settings(max_examples=60, deadline=None)
@given(scene=scenes(), seed=st.integers(0, 2**31))
def test_boxes_stay_with_their_pixels(scene: AnnotatedImage, seed: int) -> None:
    seen = augmented(scene, SIZE, np.random.default_rng(seed))
    assert seen.pixels.shape == (SIZE[1], SIZE[0], 3) and seen.pixels.dtype == np.uint8
    every = np.concatenate([seen.boxes, seen.ignore, seen.negatives])
    assert (every >= 0).all() and (every <= [*SIZE, *SIZE]).all()
    assert (every[:, 2:] > every[:, :2]).all()
    for box in seen.boxes:
        # A pixel of the smoothed edge, and half a source pixel that the stretching enlarges.
        slack = 2 + 1.0 * max(SIZE[0] / scene.size[0], SIZE[1] / scene.size[1])
        assert np.abs(box - bright_box(seen)).max() <= slack


@settings(max_examples=60, deadline=None)
@given(scene=scenes(), seed=st.integers(0, 2**31))
def test_what_is_cut_off_is_ignored(scene: AnnotatedImage, seed: int) -> None:
    seen = augmented(scene, SIZE, np.random.default_rng(seed))
    # The same rectangle stands for a label of class 1, a region of 0 and a negative of class 2.
    region = seen.ignore[seen.ignore_classes == 0]
    cut = seen.ignore[seen.ignore_classes == 1]
    assert len(seen.classes) + len(cut) == len(region) <= 1
    assert seen.classes.tolist() in ([], [1]) and seen.negative_classes.tolist() in ([], [2])
    assert np.array_equal(seen.negatives, seen.boxes)
    assert np.array_equal(region, np.concatenate([seen.boxes, cut]))


def test_a_label_of_which_little_is_left_becomes_a_region() -> None:
    pixels = np.zeros((100, 100, 3), np.uint8)
    boxes = boxes_array([(0, 0, 50, 50), (80, 80, 100, 100), (40, 40, 90, 90)])
    scene = AnnotatedImage(
        pixels, boxes, class_array([0, 1, 2]), NONE, NOBODY, boxes, class_array([3, 4, 5])
    )
    window = augment.Window(40, 40, 60, 60)
    seen = augment._view(scene, window, (60, 60), mirrored=False)
    assert KEPT_SHARE > 100 / 2500
    assert seen.classes.tolist() == [1, 2] and seen.boxes.tolist() == [
        [40, 40, 60, 60],
        [0, 0, 50, 50],
    ]
    assert seen.ignore_classes.tolist() == [0] and seen.ignore.tolist() == [[0, 0, 10, 10]]
    assert seen.negative_classes.tolist() == [4, 5]
    mirrored = augment._view(scene, window, (60, 60), mirrored=True)
    assert mirrored.boxes.tolist() == [[0, 40, 20, 60], [10, 0, 60, 50]]


def test_the_plain_view_is_what_the_device_sees(tmp_path: Path) -> None:
    sample = sample_of(tmp_path, 3)
    pixels = read_pixels(sample)
    seen = plain_view(annotated_image(sample, pixels), SIZE)
    assert np.array_equal(seen.pixels, stretch(pixels, SIZE))
    scale = np.array([96 / 72, 80 / 60] * 2)
    assert np.allclose(seen.boxes, sample.boxes * scale, atol=1e-4)
    assert seen.classes.tolist() == [0, 1]


def test_views_differ_and_depend_on_the_seed_alone(tmp_path: Path) -> None:
    scene = annotated_image(sample := sample_of(tmp_path, 3), read_pixels(sample))
    first, again, other = (augmented(scene, SIZE, np.random.default_rng(n)) for n in (1, 1, 2))
    assert np.array_equal(first.pixels, again.pixels) and np.array_equal(first.boxes, again.boxes)
    assert not np.array_equal(first.pixels, other.pixels)


def test_light_changes_colours_and_not_places() -> None:
    image, rows = drawn(5)
    pixels = np.asarray(image)
    lit = [augment._jittered_light(pixels, np.random.default_rng(n)) for n in range(12)]
    assert any(np.abs(one.astype(int) - pixels).mean() > 10 for one in lit)
    for one in lit:
        for number, (x1, y1, x2, y2) in rows:
            inside = one[int(y1) : int(y2), int(x1) : int(x2)].reshape(-1, 3).mean(axis=0)
            assert inside.argmax() == np.argmax(COLOURS[number])  # red is red, green is green


# --- batches ------------------------------------------------------------------------------------

AUGMENTED = TrainingSettings(seed=7)
PLAIN = TrainingSettings(augment=False)


def batches(samples: list[Sample], batch: int, **more: Any) -> Iterator[Batch]:
    """Of a training with so many images a step."""
    settings = replace(AUGMENTED, batch=batch)
    return loader(samples, len(CLASSES), (64, 64), settings, **more)


def test_every_image_once_before_any_twice(tmp_path: Path) -> None:
    samples = [sample_of(tmp_path, seed) for seed in range(7)]
    views = Views(samples, 2, (72, 60), replace(PLAIN, seed=7), 10**7)
    for epoch in range(3):
        shown = [views[epoch * 7 + place][0].permute(1, 2, 0).numpy() for place in range(7)]
        originals = [read_pixels(sample) for sample in samples]
        order = [next(n for n in range(7) if np.array_equal(originals[n], one)) for one in shown]
        assert sorted(order) == list(range(7)) and order != list(range(7))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_anywhere(tmp_path: Path, workers: int) -> None:
    samples = [sample_of(tmp_path, seed) for seed in range(5)]
    whole = [*batches(samples, 4, steps=range(4), workers=0)]
    later = [*batches(samples, 4, steps=range(2, 4), workers=workers)]
    assert len(whole) == 4 and len(later) == 2
    for (images, targets, _), (same, alike, _) in zip(whole[2:], later, strict=True):
        assert images.shape == (4, 3, 64, 64) and images.equal(same)
        for one, other in zip(targets, alike, strict=True):
            assert one.keys() == other.keys() and all(one[k].equal(other[k]) for k in one)


def test_processes_share_a_batch(tmp_path: Path) -> None:
    samples = [sample_of(tmp_path, seed) for seed in range(5)]
    (whole,) = batches(samples, 5, steps=range(1), workers=0)
    parts = [
        next(batches(samples, 5, steps=range(1), workers=0, part=(rank, 2)))[0] for rank in range(2)
    ]
    assert [len(part) for part in parts] == [3, 2]
    assert all(whole[0][n].equal(parts[n % 2][n // 2]) for n in range(5))
    alone = next(batches(samples, 1, steps=range(1), workers=0, part=(1, 2)))
    assert len(alone[0]) == 1  # a process without images would leave the others waiting


def test_regions_may_be_learnt_as_background(tmp_path: Path) -> None:
    sample = sample_of(tmp_path, 0)
    doubtful = replace(sample, ignore=sample.boxes[:1], ignore_classes=sample.classes[:1])
    kept = Views([doubtful], 2, (72, 60), PLAIN, 0)[0][1]
    left = Views([doubtful], 2, (72, 60), replace(PLAIN, use_ignore=False), 0)[0][1]
    relative = (sample.boxes[0] / np.float32([72, 60, 72, 60])).tolist()
    assert kept["ignore"].tolist() == [pytest.approx(relative)]
    assert len(left["ignore"]) == 0 and len(left["boxes"]) == len(kept["boxes"]) == 2
    # What a window cuts is no background in either case.
    views = Views([doubtful], 2, (72, 60), TrainingSettings(use_ignore=False), 0)
    assert any(len(views[place][1]["ignore"]) for place in range(60))


def test_large_images_are_kept_small(tmp_path: Path) -> None:
    PILImage.new("RGB", (1200, 900)).save(tmp_path / "a.png")
    box = boxes_array([(120, 90, 600, 450)])
    sample = Sample(
        tmp_path / "a.png", 1200, 900, "a", "", box, class_array([0]), NONE, NOBODY, NONE, NOBODY
    )
    views = Views([sample], 1, (64, 64), PLAIN, 10**7)
    target = views[0][1]
    assert target["boxes"].tolist() == [pytest.approx([0.3, 0.3, 0.4, 0.4])]
    assert views._cache.get(0, lambda: np.zeros((1, 1, 3), np.uint8)).shape == (192, 256, 3)


def test_workers_that_help() -> None:
    assert workers_for(3, "cpu", 1) == 3 and workers_for(0, "cuda", 1) == 0
    assert workers_for(-1, "cpu", 1) == 0
    assert 1 <= workers_for(-1, "cuda", 1) <= 8
