"""The outlines by hand: whole and plausible, also where the photos are not at hand."""

import json

from photo_outlines import OUTLINES, filled


def test_every_outline_encloses_something():
    photos = json.loads(OUTLINES.read_text())
    objects = [one for photo in photos for one in photo["objects"]]
    assert len(objects) >= 40 and len({one["kind"] for one in objects}) >= 20
    assert all(len(photo["sha256"]) == 64 for photo in photos)
    for one in objects:
        outer, *holes = one["rings"]
        assert len(outer) >= 8
        xs, ys = zip(*outer, strict=True)
        assert min(xs) >= 0 and min(ys) >= 0 and max(xs) > min(xs) + 20 and max(ys) > min(ys) + 20
        assert all(len(hole) >= 4 for hole in holes)


def test_holes_are_cut_out():
    square = [[2, 2], [8, 2], [8, 8], [2, 8]]
    hole = [[4, 4], [6, 4], [6, 6], [4, 6]]
    assert filled([square], (10, 10)).sum() == 36
    assert filled([square, hole], (10, 10)).sum() == 32
