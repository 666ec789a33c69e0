"""Pages of images stay small whatever they show, and lose no box as long as there is room."""

import base64
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from masks import disc
from PIL import Image

from secondlook.core.masks import mask_from_polygons
from secondlook.reports import viewer
from secondlook.reports.mask_path import MAX_CHARACTERS, mask_path
from secondlook.reports.viewer import (
    SOLID,
    PageBox,
    PageImage,
    PageKind,
    PageView,
    embedded,
    script_json,
    shortened,
    thumbnail,
    viewer_values,
)
from secondlook_client.masks import Mask

KINDS = (PageKind("accepted", "", SOLID), PageKind("rejected", "✕", SOLID, shown=False))
TEN_MEGABYTES = 10_000_000
rng = np.random.default_rng(5)
NOISE = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)


def image_of(boxes, name="a.jpg", width=640, height=480):
    return PageImage(name, width, height, boxes, ranks=(0,))


def box(number=0, kind=0, reason=""):
    return PageBox(f"class {number % 7}", (number, 1, number + 5, 9), kind, 0.5, reason=reason)


def test_600_images_of_noise_with_many_boxes_stay_below_ten_megabytes():
    """Nothing is harder to compress than noise."""
    boxes = [box(n, n % 2, f"reason {n}" * 40) for n in range(200)]
    images = [image_of(boxes, f"{n}.jpg") for n in range(600)]
    values = viewer_values(images, lambda place: NOISE, PageView(KINDS, ["class 0"], ("first",)))
    card = next(values["cards"])  # all images are alike
    of_a_card = len(card["source"]) + 2 * viewer.LONGEST_NAME + 700
    assert len(values["data"].encode()) + 600 * of_a_card < TEN_MEGABYTES


def test_few_images_are_large_and_many_small():
    smooth = np.tile(np.linspace(0, 255, 3000).astype(np.uint8)[None, :, None], (2000, 1, 3))
    few, many = (decoded(thumbnail(smooth, most)) for most in (250_000, 4_000))
    assert few.size == (1280, 853) and 120 <= many.width <= few.width
    assert len(base64.b64decode(thumbnail(NOISE, 9_000).partition(",")[2])) <= 9_000


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000)])
def test_thumbnails_of_thin_images(size):
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    assert max(decoded(thumbnail(pixels, 5000)).size) <= 1280


def decoded(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_what_the_verifier_saw_is_kept_pixel_for_pixel():
    small = NOISE[:97, :85]
    assert np.array_equal(np.asarray(decoded(embedded(small)).convert("RGB")), small)
    assert embedded(np.zeros((900, 900, 3), np.uint8)) == ""


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 300))
def test_boxes_share_the_room(counts, total):
    most = viewer._most_boxes(counts, total)
    assert sum(min(count, most) for count in counts) <= total
    if sum(counts) > total:  # one more of each would be too many
        assert sum(min(count, most + 1) for count in counts) > total


def test_where_there_is_no_room_the_last_kinds_are_left_out_and_counted(monkeypatch):
    monkeypatch.setattr(viewer, "MAX_ROWS", 3)
    image = image_of([box(0, 1), box(1, 0), box(2, 1), box(3, 0), box(4, 0)])
    values = viewer_values([image], lambda place: NOISE, PageView(KINDS, []))
    data = json.loads(values["data"])
    assert [row[1] for row in data["images"][0]["b"]] == [0, 0, 0]
    assert data["images"][0]["more"] == 2


def test_too_much_text_is_left_out_and_said_to_be(monkeypatch):
    monkeypatch.setattr(viewer, "TEXT_BYTES", 40)
    image = image_of([box(0, reason="short"), box(1, reason="far too long " * 9), box(2)])
    values = viewer_values([image], lambda place: NOISE, PageView(KINDS, []))
    data = json.loads(values["data"])
    reasons = [data["texts"][row[12]] for row in data["images"][0]["b"]]
    assert reasons[0] == "short" and "left out" in reasons[1] and reasons[2] == ""


@given(st.text())
def test_json_in_a_script_says_the_same_and_ends_nothing(text):
    written = script_json({text: [text]})
    assert json.loads(written) == {text: [text]}
    assert not set("<>&") & set(written)


@given(st.text(max_size=60), st.integers(4, 40))
def test_shortened_texts_keep_both_ends(text, most):
    short = shortened(text, most)
    assert len(short) == min(len(text), most)
    assert short == text or (short[0] == text[0] and short[-1] == text[-1])


def filled(path, width, height):
    """The mask of a path: its closed lines, even-odd."""
    found = np.zeros((height, width), bool)
    for line in path.split("M")[1:]:
        start, _, steps = line.removesuffix("z").partition("l")
        moves = np.array([int(n) for n in steps.replace("-", " -").split()]).reshape(-1, 2)
        corners = np.concatenate([[[int(n) for n in start.split()]], moves]).cumsum(axis=0)
        found ^= mask_from_polygons([corners], width, height).to_array()
    return found


def test_a_path_is_nearly_the_mask_and_small():
    pixels = disc(640, 480, (40, 30, 400, 420))
    path = mask_path(Mask.from_array(pixels))
    again = filled(path, 640, 480)
    assert (again & pixels).sum() / (again | pixels).sum() > 0.98
    assert len(path) < 900
    rectangle = np.zeros((480, 640), bool)
    rectangle[10:20, 30:50] = True
    assert mask_path(Mask.from_array(rectangle)) == "M50 10l0 10-20 0 0-10z"


def test_what_has_no_outline_has_no_path_and_much_of_it_a_short_one():
    noise = np.random.default_rng(1).random((300, 300)) < 0.5
    assert len(mask_path(Mask.from_array(noise))) <= MAX_CHARACTERS
    assert mask_path(Mask(9, 9, "damaged")) == mask_path(Mask.from_array(noise & False)) == ""


def test_masks_share_a_room_of_their_own(monkeypatch):
    mask = Mask.from_array(disc(640, 480, (40, 30, 400, 420)))
    monkeypatch.setattr(viewer, "MASK_BYTES", len(mask_path(mask)) + 1)
    shown = PageBox("dog", (40, 30, 400, 420), 0, mask=mask, mask_facts="9 pixels")
    values = viewer_values(
        [image_of([shown] * 3 + [box()])], lambda place: NOISE, PageView(KINDS, [])
    )
    data = json.loads(values["data"])
    rows = data["images"][0]["b"]
    assert [bool(row[-1]) for row in rows[:2]] == [True, True] and rows[2][-1] == ""
    assert {data["texts"][row[-2]] for row in rows[:3]} == {"9 pixels"}
    assert len(rows[3]) == len(rows[0]) - 2
