"""The camera of the demo world: exact truth, slow change, and another place when it moves."""

import time
from itertools import pairwise

import numpy as np
import pytest

from secondlook.demo.stream import TrackedScene, frames, tracked_frames
from secondlook.demo.world import NOUNS, Scene, Thing

CHANGE = 90


@pytest.fixture(scope="module")
def stream() -> list[Scene]:
    return list(frames(5, 120, changes=(CHANGE,)))


def test_the_same_arguments_give_the_same_frames(stream: list[Scene]) -> None:
    again = list(frames(5, 20, changes=(CHANGE,)))
    for one, other in zip(stream, again, strict=False):
        assert np.array_equal(one.image, other.image)
        assert one.things == other.things
    assert not np.array_equal(next(iter(frames(6, 1))).image, stream[0].image)


def test_boxes_are_inside_and_nouns_are_the_worlds(stream: list[Scene]) -> None:
    for scene in stream:
        assert scene.image.shape == (240, 320, 3)
        assert scene.image.dtype == np.uint8
        for thing in scene.things:
            x0, y0, x1, y1 = thing.box
            assert 0 <= x0 < x1 <= 320
            assert 0 <= y0 < y1 <= 240
            assert thing.noun in NOUNS
    assert {thing.noun for scene in stream for thing in scene.things} >= {"person", "tree"}


def test_what_moves_moves_slowly_and_the_place_stays(stream: list[Scene]) -> None:
    pixels = np.stack([scene.image.astype(np.float32) for scene in stream])
    steps = np.abs(np.diff(pixels, axis=0)).mean((1, 2, 3))
    assert np.median(steps[: CHANGE - 1]) < 6
    assert steps[CHANGE - 1] > 3 * np.median(steps)
    assert np.median(np.abs(pixels[0] - pixels[CHANGE - 1])) < 10
    walks = set()
    for before, after in pairwise(stream[:CHANGE]):
        ours = {(t.noun, t.colour, t.traits): t.box[0] for t in before.things if t.noun != "tree"}
        for thing in after.things:
            if (key := (thing.noun, thing.colour, thing.traits)) in ours:
                walks.add(round(thing.box[0] - ours[key], 1))
    assert any(0.2 < abs(step) < 4 for step in walks)


def test_people_come_and_go() -> None:
    counts = [len(scene.things) for scene in frames(7, 250)]
    assert min(counts) < max(counts)
    assert max(counts) <= 20


def test_a_place_after_a_change_is_another_one(stream: list[Scene]) -> None:
    first, second = (
        np.median([scene.image for scene in part], axis=0)
        for part in (stream[:CHANGE], stream[CHANGE:])
    )
    assert np.abs(first - second).mean() > 15


def test_a_frame_is_cheap() -> None:
    camera = frames(8, 61)
    next(camera)
    started = time.process_time()
    rendered = list(camera)
    assert (time.process_time() - started) / len(rendered) < 0.030


def test_too_small_a_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 64"):
        next(frames(1, 1, size=32))


def test_an_object_has_one_number_in_every_frame(stream: list[Scene]) -> None:
    tracked = list(tracked_frames(5, 20, changes=(CHANGE,)))
    for one, scene in zip(tracked, stream, strict=False):
        assert np.array_equal(one.scene.image, scene.image) and one.scene.things == scene.things
        assert len(set(one.objects)) == len(one.objects) == len(scene.things)
    things = [pair for one in tracked for pair in things_of(one)]
    nouns = {(number, thing.noun) for number, thing in things}
    assert len(nouns) == len({o for o, _ in nouns}), "an object stays what it is"
    assert len(nouns) <= len(stream[0].things) + 3


def test_frames_between_may_be_left_out() -> None:
    """The camera goes on meanwhile, so what moves has gone further."""
    far, near = (list(tracked_frames(5, 4, every=every)) for every in (5, 1))
    assert furthest(far) > 3 * furthest(near)


def things_of(frame: TrackedScene) -> list[tuple[int, Thing]]:
    return list(zip(frame.objects, frame.scene.things, strict=True))


def furthest(frames: list[TrackedScene]) -> float:
    """The furthest that an object has gone from the first frame to the last, pixels."""
    first, last = ({o: thing.box[0] for o, thing in things_of(frames[at])} for at in (0, -1))
    return max(abs(last[number] - x) for number, x in first.items() if number in last)
