from collections.abc import Sequence

import numpy as np
import pytest
from fakes import ScriptedProposer
from hypothesis import given, settings
from hypothesis import strategies as st

from secondlook.config.settings import ModelSettings
from secondlook.core.boxes import iou
from secondlook.core.types import Boxes, Image, Proposals
from secondlook.labeling.tiling import EDGE, MAX_TILES, TiledProposer, merged, tile_windows, tiled
from secondlook.labeling.vocabulary import ChecksPhrases

SIDE, OVERLAP = 100, 0.3
SMALL = int(SIDE * OVERLAP) - 2 * SIDE * EDGE - 1
"""Sides up to which an object lies in some tile and touches none of its edges."""


def coordinates(width: int, height: int) -> Image:
    """An image whose pixels say where they are."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x % 256, y % 256, x // 256 * 16 + y // 256], axis=2).astype(np.uint8)
    return Image(pixels, f"{width} {height}")


class PerfectProposer:
    """Knows every object; of a part of the image it gives what is seen of them. The whole image
    shows it none with a longer side below ``hidden``."""

    name, digest = "perfect", "p1"

    def __init__(self, boxes: Boxes, scores: np.ndarray, size: tuple[int, int], hidden: float = 0):
        self.boxes, self.scores, self.size, self.hidden = boxes, scores, size, hidden
        self.tiles: list[tuple[int, int]] = []

    def propose(
        self, images: Sequence[Image], phrases: Sequence[str], floor: float
    ) -> list[Proposals]:
        return [self._seen(image) for image in images]

    def _seen(self, image: Image) -> Proposals:
        x, y, high = (int(value) for value in image.pixels[0, 0])
        left, top = x + high // 16 * 256, y + high % 16 * 256
        limits = np.array([image.width, image.height] * 2)
        seen = np.clip(self.boxes - [left, top, left, top], 0, limits).astype(np.float32)
        rows = (seen[:, 2:] - seen[:, :2]).min(axis=1, initial=999) > 0
        if (image.width, image.height) == self.size:
            rows &= (seen[:, 2:] - seen[:, :2]).max(axis=1, initial=0) >= self.hidden
        else:
            self.tiles.append((left, top))
        return Proposals(seen[rows], self.scores[rows])


@st.composite
def scenes(draw: st.DrawFn) -> tuple[tuple[int, int], Boxes, np.ndarray]:
    """A size, and boxes of which no two are alike, with their scores of two classes."""
    size = draw(st.integers(20, 420)), draw(st.integers(20, 420))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    count = draw(st.integers(0, 12))
    sides = np.where(rng.random((count, 1)) < 0.7, SMALL, 300) * rng.uniform(0.2, 1, (count, 2))
    sides = np.minimum(sides, size)
    corners = rng.random((count, 2)) * (np.array(size) - sides)
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    alike = np.triu(iou(boxes, boxes) > 0.5, 1).any(axis=0)
    scores = rng.uniform(0.3, 1, (count, 2)).astype(np.float32)
    return size, boxes[~alike], scores[~alike]


def as_set(found: Proposals) -> set[tuple[float, ...]]:
    rows = np.concatenate([found.boxes, found.scores], axis=1).round(2)
    assert len({tuple(row) for row in rows.tolist()}) == len(found)
    return {tuple(row) for row in rows.tolist()}


@given(
    st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 1500), st.floats(0, 0.75), st.data()
)
def test_tiles_cover_the_image_and_hold_small_boxes_whole(
    width: int, height: int, side: int, overlap: float, data: st.DataObject
) -> None:
    windows = tile_windows(width, height, side, overlap)
    if not len(windows):
        assert max(width, height) <= side
        return
    assert len(windows) <= MAX_TILES
    low, high = windows[:, :2], windows[:, 2:]
    assert (low >= 0).all() and (high <= (width, height)).all()
    assert len(np.unique(high - low, axis=0)) == 1  # one shape: they share batches
    x = data.draw(st.integers(0, width - 1))
    y = data.draw(st.integers(0, height - 1))
    right = min(x + max(int(side * overlap), 1), width)  # of one pixel, it is the cover
    bottom = min(y + max(int(side * overlap), 1), height)
    assert ((low <= (x, y)).all(axis=1) & (high >= (right, bottom)).all(axis=1)).any()


@settings(max_examples=60, deadline=None)
@given(scenes(), st.booleans())
def test_what_a_perfect_proposer_sees_comes_back_once(
    scene: tuple[tuple[int, int], Boxes, np.ndarray], blind: bool
) -> None:
    size, boxes, scores = scene
    hidden = SMALL if blind and max(size) > SIDE else 0
    model = PerfectProposer(boxes, scores, size, hidden)
    image = coordinates(*size)
    (found,) = TiledProposer(model, SIDE, OVERLAP, "all").propose([image], ["a", "b"], 0.1)
    assert as_set(found) == as_set(Proposals(boxes, scores))


def test_only_tiles_with_something_small_are_looked_at_and_their_neighbours_if_need_be() -> None:
    size = (1000, 1000)
    boxes = np.array([(500, 500, 520, 520), (575, 505, 594, 520), (0, 0, 400, 400)], np.float32)
    scores = np.full((3, 1), 0.5, np.float32)
    model = PerfectProposer(boxes, scores, size)
    few = TiledProposer(model, SIDE, OVERLAP, "small")
    (found,) = few.propose([coordinates(*size)], ["a"], 0.1)
    assert len(found) == 3
    assert len(model.tiles) == 2  # of 196
    # The second one is seen in the tile of the first only; it is cut there, and so looked after.
    model.tiles.clear()
    model.boxes = boxes = np.array([(500, 500, 520, 520), (575, 505, 594, 520)], np.float32)
    model.scores, model.hidden = scores[:2], 20
    (found,) = few.propose([coordinates(*size)], ["a"], 0.1)
    assert as_set(found) == as_set(Proposals(boxes, scores[:2]))
    model.tiles.clear()
    model.hidden = 999
    (found,) = few.propose([coordinates(*size)], ["a"], 0.1)
    assert (len(found), model.tiles) == (0, [])


def test_half_an_object_is_dropped_where_another_tile_has_all_of_it() -> None:
    """Whatever it is taken for; where nobody else looked it stays."""
    windows = np.array([(0, 0, 100, 100), (70, 0, 170, 100)])
    none = Proposals(np.zeros((0, 4), np.float32), np.zeros((0, 2), np.float32))
    half = Proposals(np.array([(80, 10, 100, 30)], np.float32), np.array([[0, 0.9]], np.float32))
    all_of = Proposals(np.array([(80, 10, 110, 30)], np.float32), np.array([[0.5, 0]], np.float32))
    size = (170, 100)
    assert as_set(merged(none, [half, all_of], windows, size)) == as_set(all_of)
    assert as_set(merged(none, [half, none], windows, size)) == set()
    assert as_set(merged(none, [half], windows[:1], size)) == as_set(half)


def test_a_result_does_not_depend_on_the_batch() -> None:
    def script(image: Image, phrases: Sequence[str]) -> list:
        shade = int(image.pixels[0, 0, 0])
        return [((0.1, 0.1, 0.2, 0.2), {"a": 0.2 + shade / 300}), ((0.5, 0, 1, 1), {"b": 0.4})]

    rng = np.random.default_rng(3)
    images = [
        Image(rng.integers(0, 255, (h, w, 3), dtype=np.uint8), str(w))
        for w, h in ((250, 90), (40, 30), (210, 310))
    ]
    for where in ("all", "small"):
        model = ScriptedProposer(script)
        mine = TiledProposer(model, SIDE, OVERLAP, where)
        together = mine.propose(images, ["a", "b"], 0.1)
        alone = [mine.propose([image], ["a", "b"], 0.1)[0] for image in images]
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_array_equal(one.boxes, other.boxes)
            np.testing.assert_array_equal(one.scores, other.scores)
        assert model.batches[0] == 3


def test_tiles_are_part_of_a_proposers_name_and_leave_its_words_to_it() -> None:
    class Strict(ScriptedProposer):
        def check_phrases(self, phrases: Sequence[str]) -> None:
            raise ValueError(phrases[0])

    model = Strict()
    assert tiled(model, ModelSettings()) is model
    made = {
        tiled(model, ModelSettings(tile=tile, tile_where=where)).digest
        for tile in (320, 640)
        for where in ("all", "small")
    }
    assert len(made | {model.digest}) == 5
    checked = tiled(model, ModelSettings(tile=320))
    assert isinstance(checked, ChecksPhrases)
    with pytest.raises(ValueError, match="a dog"):
        checked.check_phrases(["a dog"])
