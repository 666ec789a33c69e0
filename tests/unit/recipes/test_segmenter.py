"""The embedded segmenter: its scenes, prompts, losses, training and weights."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers import AutoModelForMaskGeneration, AutoProcessor, EdgeTamModel

from recipes.segmenter import shapes, train
from recipes.segmenter.data import (
    HELD_OUT_KINDS,
    MaskedScenes,
    SegmenterBatch,
    normalised,
    render,
    render_unseen,
    smallest_object,
)
from recipes.segmenter.evaluate import (
    ObjectResult,
    by_novelty,
    figures,
    next_click,
    results_of,
)
from recipes.segmenter.loss import ious, mask_losses
from recipes.segmenter.model import (
    MEAN,
    SIZE,
    STD,
    EncodedImages,
    Prompt,
    SegmenterShape,
    build_model,
    decode,
    encode,
    prompt_masks,
    speed_up,
)
from recipes.segmenter.muon import orthogonalised
from recipes.segmenter.prompts import at_click_size, boxes_of, next_clicks, noisy
from recipes.segmenter.trainer import SegmenterPlan, SegmenterTraining
from secondlook.config.settings import ModelSettings
from secondlook.core.types import Image
from secondlook.labeling.segmenter import SegmentationPrompt
from secondlook.models.loading import choose_placement
from secondlook.models.sam import SamSegmenter, SegmenterPixels

SMALL = SegmenterShape(4, (8, 8, 16, 16), (1, 1, 1, 1), 32)
TINY = SegmenterPlan(
    steps=5,
    images=1,
    objects=2,
    scenes=2,
    encoder_only=1,
    boxes_only=1,
    small=0.9,
    shape=SMALL,
)
SEED = torch.Generator().manual_seed(0)


def filled(boxes: torch.Tensor, side: int) -> torch.Tensor:
    """Masks of boxes, (M, 4) whole pixels: (M, side, side) bool."""
    masks = torch.zeros(len(boxes), side, side, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.long().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


class TestScenes:
    def test_the_held_out_kinds_are_prompted_by_no_training_scene(self) -> None:
        kinds = {kind for index in range(0, 8, 2) for kind in render(3, index).kinds}
        assert "person" in kinds
        assert not kinds & HELD_OUT_KINDS

    def test_unseen_scenes_hold_unseen_shapes(self) -> None:
        scene = render_unseen(3, 0)
        assert "shape" in scene.kinds
        assert len(scene.masks) == len(scene.kinds)

    def test_families_share_nothing(self) -> None:
        assert not {*shapes.TRAINING.shapes} & {*shapes.UNSEEN.shapes}
        assert not {*shapes.TRAINING.textures} & {*shapes.UNSEEN.textures}

    @pytest.mark.parametrize("family", [shapes.TRAINING, shapes.UNSEEN])
    def test_a_mask_is_where_the_image_changed(self, family: shapes.Family) -> None:
        for seed in range(12):
            before = np.full((60, 80, 3), 7, np.uint8)
            image, masks = before.copy(), [np.ones((60, 80), bool)]
            shapes.paste(image, masks, family, np.random.default_rng(seed), 8, 20)
            changed = (image != before).any(2)
            assert not (masks[1] & ~changed).any()
            assert np.array_equal(masks[0], ~masks[1])

    def test_kept_scenes_are_the_rendered_ones(self, tmp_path: Path) -> None:
        image, masks = MaskedScenes(tmp_path, 3, 2)[1]
        fresh = render(3, 1)
        assert np.array_equal(image, fresh.image)
        assert np.array_equal(masks, fresh.masks)

    def test_a_batch_depends_on_seed_and_step_alone(self, tmp_path: Path) -> None:
        scenes = MaskedScenes(tmp_path, 3, 2)
        first, again = (scenes.batch(1, 5, 2, 3, 160) for _ in range(2))
        other = scenes.batch(1, 6, 2, 3, 160)
        assert torch.equal(first.pixels, again.pixels)
        assert torch.equal(first.masks, again.masks)
        assert not torch.equal(first.pixels, other.pixels)
        _check_batch(first)

    def test_the_smallest_object_wins_a_pixel(self) -> None:
        large = np.ones((4, 4), bool)
        small = np.eye(4, dtype=bool)
        assert smallest_object(np.stack([small, large])).tolist()[0] == [1, 2, 2, 2]


def _check_batch(batch: SegmenterBatch) -> None:
    assert batch.masks.any(2).any(1).all()
    assert batch.pixels.shape == (2, 3, 160, 160)
    assert set(batch.image.tolist()) == {0, 1}
    assert int(batch.corners.max()) <= 20


class TestPrompts:
    @given(st.lists(st.integers(0, 31), min_size=4, max_size=4))
    def test_boxes_of_filled_boxes(self, numbers: list[int]) -> None:
        (x0, x1), (y0, y1) = sorted(numbers[:2]), sorted(numbers[2:])
        box = torch.tensor([[x0, y0, x1 + 1, y1 + 1]]).float()
        assert torch.equal(boxes_of(filled(box, 32)), box)

    def test_noise_moves_some_boxes_a_little(self) -> None:
        boxes = torch.tensor([[40.0, 40, 140, 140]]).repeat(60, 1)
        moved = (noisy(boxes, SEED) - boxes).abs()
        assert (moved.amax(1) == 0).any()
        assert 0 < moved.max() <= 16

    @settings(max_examples=25)
    @given(st.integers(0, 10_000))
    def test_the_next_click_lies_in_the_larger_error(self, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        truth = torch.rand(2, 16, 16, generator=random) > 0.5
        logits = torch.randn(2, 1, 16, 16, generator=random)
        points, labels = next_clicks(logits, truth, random)
        said = logits[:, 0] > 0
        for row in range(2):
            x, y = (points[row] / 2).long().tolist()
            assert bool(truth[row, y, x]) != bool(said[row, y, x])
            missed, extra = (truth & ~said)[row].sum(), (said & ~truth)[row].sum()
            assert bool(labels[row]) == bool(missed >= extra)

    def test_the_robot_clicks_in_the_middle_of_the_largest_error(self) -> None:
        truth, said = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
        truth[3:10, 3:10] = True
        said[15:18, 15:18] = True
        assert next_click(said, truth) == (6, 6, 1)
        assert next_click(said | truth, truth) == (16, 16, 0)


class TestLosses:
    masks = filled(torch.tensor([[8.0, 8, 24, 28]]), 32)

    def _logits(self, scale: float) -> torch.Tensor:
        cells = functional.avg_pool2d(self.masks[:, None].float(), 4)
        return scale * (2 * cells - 1)

    def test_a_right_mask_costs_less(self) -> None:
        right, wrong = (mask_losses(self._logits(s), self.masks, SEED) for s in (8.0, -8.0))
        assert right.item() < 0.2 < 2 < wrong.item()

    def test_iou(self) -> None:
        truth = at_click_size(self.masks)
        assert ious(self._logits(8.0), truth).item() > 0.9
        assert ious(self._logits(-8.0), truth).item() < 0.1


class TestFigures:
    def test_clicks_to_an_iou(self) -> None:
        quick = ObjectResult("dog", 99, clicks=[0.95], box=[0.92])
        slow = ObjectResult("car", 99, clicks=[0.5, 0.86, 0.8], box=[0.7, 0.91])
        found = figures([quick, slow], 3)
        assert found["noc85"] == 1.5
        assert found["noc90"] == 2.0
        assert found["box_clicks90"] == 0.5
        assert found["lowered"] == pytest.approx(1 / 3, abs=1e-4)

    def test_novelty(self) -> None:
        kinds = ("dog", "shape", "car", "person")
        results = [ObjectResult(kind, 99, [1.0], [1.0]) for kind in kinds]
        found = by_novelty(results, 3)
        assert found["unseen"]["objects"] == found["seen"]["objects"] == 2


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    for shape in ((2, 12, 30), (2, 30, 12)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape, generator=SEED)))
        assert values.min() > 0.5
        assert values.max() < 1.3


def product_of(model: EdgeTamModel) -> SamSegmenter:
    """What the package makes of the model."""
    return SamSegmenter(
        copy.deepcopy(model),
        SegmenterPixels(SIZE, tuple(255 * m for m in MEAN), tuple(255 * s for s in STD), True),
        name="tiny",
        digest="0",
        placement=choose_placement(ModelSettings(device="cpu")),
    )


class TestModel:
    def test_a_small_object_is_decoded_in_a_window_as_in_the_training(self) -> None:
        model = build_model(0, SMALL).eval()
        product = product_of(model)
        image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        box, (x, y) = (200.0, 100.0, 262.0, 150.0), (19, 6)  # the window's first cell
        encoding = product.encode([Image(image, "0" * 64)])[0]
        (found,) = product.segment(encoding, [SegmentationPrompt(box)])[0]
        with torch.inference_mode():
            whole = encode(speed_up(model), normalised(image[None]))
            cut = [
                level[:, :, y * scale : (y + 20) * scale, x * scale : (x + 20) * scale]
                for level, scale in zip(
                    (*whole.levels, whole.positions, whole.finest), (4, 2, 1, 1, 4), strict=True
                )
            ]
            corners = torch.tensor([[8.0 * x, 8.0 * y]])
            encoded = EncodedImages((cut[0], cut[1], cut[2]), cut[3], cut[4], corners)
            logits, quality = decode(model, encoded, torch.tensor([0]), Prompt(torch.tensor([box])))
        wanted = functional.interpolate(logits, (160, 160), mode="bilinear")[0, 0] > 0
        rows, columns = slice(8 * y, 8 * y + 160), slice(8 * x, 8 * x + 160)
        assert found.quality == pytest.approx(float(quality.clamp(0, 1)), abs=1e-3)
        inner = (slice(2, -2), slice(2, -2))  # beyond the window is nothing, which is blended in
        differing = found.pixels[rows, columns][inner] != wanted.numpy()[inner]
        assert differing.mean() < 1e-3 and 0.01 < wanted.float().mean() < 0.99
        found.pixels[rows, columns] = False
        assert not found.pixels.any()

    def test_training_sees_prompts_as_the_product_gives_them(self) -> None:
        model = build_model(0, SMALL).eval()
        product = product_of(model)
        image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        before = np.zeros((SIZE, SIZE), bool)
        before[40:200, 80:160] = True
        box, inside, outside = (50.0, 30.0, 201.0, 222.0), (100.5, 90.0), (20.0, 300.0)
        encoding = product.encode([Image(image, "0" * 64)])[0]
        wanted = [
            product.segment(encoding, [prompt])[0]
            for prompt in (
                SegmentationPrompt(box),
                SegmentationPrompt(inside=[inside]),
                SegmentationPrompt(box, [inside], [outside], before),
            )
        ]
        boxes, points = torch.tensor([box]), torch.tensor([[inside, outside]])
        cells = functional.avg_pool2d(torch.tensor(before)[None, None].float(), 2) - 0.5
        got = [
            (Prompt(boxes), None, False),
            (Prompt(points=points[:, :1], labels=torch.tensor([[1]])), None, True),
            (Prompt(boxes, points, torch.tensor([[1, 0]])), cells, False),
        ]
        with torch.inference_mode():
            encoded = encode(speed_up(model), normalised(image[None]))
            for candidates, (prompt, previous, several) in zip(wanted, got, strict=True):
                logits, quality = decode(
                    model, encoded, torch.tensor([0]), prompt, previous, several=several
                )
                masks = functional.interpolate(logits, (SIZE, SIZE), mode="bilinear")[0] > 0
                for candidate, row in zip(
                    candidates, quality[0].argsort(descending=True), strict=True
                ):
                    assert (candidate.pixels != masks[row].numpy()).mean() < 1e-3
                    assert candidate.quality == pytest.approx(
                        float(quality[0, row].clamp(0, 1)), abs=1e-3
                    )

    def test_a_window_is_prompted_as_its_part_of_the_square(self) -> None:
        prompt = Prompt(
            torch.tensor([[90.0, 50, 170, 190]]), torch.tensor([[[99.0, 66]]]), torch.tensor([[0]])
        )
        whole = prompt_masks(prompt, 160, torch.zeros(1, 2), None)
        part = prompt_masks(prompt, 80, torch.tensor([[64.0, 48]]), None)
        assert torch.equal(whole[..., 24:104, 32:112], part)
        assert {-10.0, 10.0} <= set(part.unique().tolist())


class TestTraining:
    def test_a_killed_run_goes_on_and_is_exported(self, tmp_path: Path) -> None:
        whole = SegmenterTraining(TINY, tmp_path)
        seen = [whole.one_step()]
        whole.save()
        seen += [whole.one_step() for _ in range(2)]
        assert [{"dense", "box", "click"} & set(losses) for losses in seen] == [
            {"dense"},
            {"dense", "box"},
            {"dense", "box", "click"},
        ]
        resumed = SegmenterTraining(TINY, tmp_path)
        resumed.resume()
        assert [resumed.one_step() for _ in range(2)] == seen[1:]

        out = tmp_path / "out"
        train.run(resumed, every=5, out=out, command="test", held_out=1)
        assert resumed.step == TINY.steps
        loaded = EdgeTamModel.from_pretrained(out)
        kept = resumed.average.state_dict()
        assert all(torch.equal(value, kept[name]) for name, value in loaded.state_dict().items())
        record = json.loads((out / "training.json").read_text())
        assert record["step"] == TINY.steps
        assert "box unseen" in record["curve"][-1]

    def test_another_length_is_recorded(self, tmp_path: Path) -> None:
        first = SegmenterTraining(TINY, tmp_path)
        first.resume()
        first.one_step()
        first.save()
        longer = SegmenterTraining(replace(TINY, steps=9), tmp_path)
        longer.resume()
        assert [row["steps"] for row in longer.history] == [5, 9]
        assert longer.history[1]["from_step"] == 1


class TestWeights:
    def test_they_are_small_and_load_by_their_own_class(self) -> None:
        assert sum(p.stat().st_size for p in train.WEIGHTS.iterdir()) < 6_000_000
        model = AutoModelForMaskGeneration.from_pretrained(train.WEIGHTS)
        assert isinstance(model, EdgeTamModel)
        pixels = AutoProcessor.from_pretrained(train.WEIGHTS)(
            images=np.zeros((40, 60, 3), np.uint8), return_tensors="pt"
        )["pixel_values"]
        assert pixels.shape == (1, 3, SIZE, SIZE)

    def test_boxes_mean_more_than_chance_on_what_was_never_seen(self) -> None:
        model = speed_up(EdgeTamModel.from_pretrained(train.WEIGHTS, dtype=torch.float32).eval())
        found = by_novelty([*results_of(model, [render_unseen(8, k) for k in range(3)], 2)], 2)
        assert found["unseen"]["box"] > 0.6
        assert found["seen"]["box"] > 0.6
