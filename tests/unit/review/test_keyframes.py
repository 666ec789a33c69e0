"""Keyframes of a run with tracks: each track, and what happens to it, in few frames."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from fakes import Row
from frozen import encoded, stored
from PIL import Image as PILImage

from secondlook.core.frame_names import FrameAddress, frame_address
from secondlook.core.types import Image
from secondlook.labeling.decisions import judge
from secondlook.review.image_pool import read_pool
from secondlook.review.keyframes import with_moments
from secondlook.review.queue_order import queue_items
from secondlook.selection.choices import Strategy
from secondlook.selection.strategies import choose_images
from secondlook.store import Store
from secondlook.store.runs import Run, create_run
from secondlook_client.errors import InvalidInput
from secondlook_client.values import NewReview, ReviewAnswer, ReviewOrder

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

FRAMES, STEP_MS = 24, 200
LEFT = (4.0, 4.0, 24.0, 30.0)
BLUE_FROM, HIDDEN = 12, range(14, 21)
SECOND_UNTIL, THIRD_UNTIL = 6, 11


def number_of(name: str) -> int:
    return frame_address(name).ms // STEP_MS


def dog_box(number: int) -> tuple[float, float, float, float]:
    """Largest in the frames 4 to 7."""
    size = 30.0 if 4 <= number < 8 else 20.0
    return (34.0, 10.0, 34.0 + size, 10.0 + size)


def street(image: Image, phrases: Sequence[str]) -> Sequence[Row]:
    """A dog that is hidden for a while, and something on the left."""
    number, rows = number_of(image.name), []
    if number not in HIDDEN:
        rows.append((dog_box(number), {"dog": 0.9}))
    if number < THIRD_UNTIL:
        rows.append((LEFT, {"dog": 0.8}))
    return rows


def tracks_of(number: int) -> dict[int, int]:
    """The dog is track 1; the other one is 2, and from a frame on 3."""
    first = 0 if number in HIDDEN else 1
    left = {first: 2 if number < SECOND_UNTIL else 3} if number < THIRD_UNTIL else {}
    return ({0: 1} if first else {}) | left


@pytest.fixture
def run(store: Store) -> Run:
    """The dog is red, and from a frame on blue."""
    clip = {}
    for number in range(FRAMES):
        pixels = np.random.default_rng(number).integers(90, 110, (64, 72, 3), dtype=np.uint8)
        colour = (200, 20, 20) if number < BLUE_FROM else (20, 20, 200)
        for box, of in ((dog_box(number), colour), (LEFT, (20, 200, 20))):
            x0, y0, x1, y1 = map(int, box)
            pixels[y0:y1, x0:x1] = of + np.random.default_rng(1).integers(
                0, 9, (y1 - y0, x1 - x0, 1)
            )
        name = FrameAddress("a.mp4", STEP_MS * number).name
        clip[name] = encoded(PILImage.fromarray(pixels.astype(np.uint8)), "PNG")
    source = stored(store, "r", clip, script=street)
    with store.database.writing() as connection:
        made = create_run(connection, "t", "redecide", source.ontology, source.settings, source)
    decided = []
    for result in store.results.page(source.id, 0, 100):
        labelled = result.labelled
        rows = tracks_of(number_of(labelled.name))
        evidence = replace(labelled.evidence, tracks=rows)
        judged = judge(evidence, source.ontology, source.nms_iou)
        labelled = replace(labelled, evidence=evidence, judgements=judged)
        decided.append((result.item_id, result.image_id, labelled))
    with store.database.writing() as connection:
        store.results.add(connection, made, decided)
    return made


def keyframes(store: Store, run: Run, count: int = 99) -> dict[int, str]:
    """By frame why it was chosen, in order."""
    found = with_moments(store, run, read_pool(store, run))
    chosen = choose_images(found.pool, Strategy.KEYFRAMES, count).chosen
    return {number_of(found.images[one.place].name): one.reason for one in chosen}


def test_three_frames_show_three_tracks_and_what_happens_to_them(store: Store, run: Run) -> None:
    found = keyframes(store, run)
    (first, why), (second, again), (third, before) = found.items()
    assert first in (6, 7)  # large, and where the third track has just begun
    assert why == "tracks 1, 3: at its best; track 3: begins where track 2 ended"
    assert second < SECOND_UNTIL or third < SECOND_UNTIL
    told = {again, before}
    assert "track 2: at its best" in told
    assert "track 1: looks otherwise; track 1: found again after 1.6 s" in told
    assert list(keyframes(store, run, 1)) == [first]

    items = list(queue_items(store, "t", ReviewOrder.KEYFRAMES))
    asked = [(number_of(store.results.decided(one.cursor).labelled.name), one.box) for one in items]
    assert len(asked) == 4, "one answer for each track, and one more of the first"
    assert {number for number, _ in asked} == {*found}
    assert [box for number, box in asked if number == first] == [dog_box(first), LEFT]
    assert len(list(queue_items(store, "t", ReviewOrder.KEYFRAMES, count=2))) == 2


def test_what_was_answered_is_seen_and_a_run_without_tracks_has_no_keyframes(
    store: Store, run: Run
) -> None:
    first = next(iter(keyframes(store, run)))
    cursor = next(
        one.cursor
        for one in store.results.page(run.id, 0, 100)
        if number_of(one.labelled.name) == first
    )
    judged = store.results.decided(cursor).labelled
    answers = [
        NewReview(judged.sha256, one.class_name, one.box, ReviewAnswer.RIGHT, person="Ada")
        for one in judged.judgements
        if one.class_name == "dog"
    ]
    store.reviews.add(answers)
    left = keyframes(store, run)
    assert first not in left and len(left) == 2
    assert "track 3" not in " ".join(left.values())
    with pytest.raises(InvalidInput, match="'r' has no tracks, so no frame of it is a keyframe"):
        list(queue_items(store, "r", ReviewOrder.KEYFRAMES))
