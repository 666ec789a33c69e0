"""The errors that benchmarks and tests put into labels are those that they say."""

import random
from collections import Counter
from typing import Any

from corrupted_labels import RIGHT, WRONG_CLASS, WRONG_PLACE, corrupted
from hypothesis import given
from hypothesis import strategies as st

boxes = st.tuples(st.integers(0, 90), st.integers(0, 90), st.integers(1, 50), st.integers(1, 50))


def dataset(rows: list[tuple[int, int, int, int]]) -> dict[str, Any]:
    entries = [
        {
            "id": n,
            "image_id": 1,
            "category_id": n % 3,
            "bbox": [x, y, min(w, 100 - x), min(h, 100 - y)],
        }
        for n, (x, y, w, h) in enumerate(rows)
    ]
    return {"images": [{"id": 1, "width": 100, "height": 100}], "annotations": entries}


@given(st.lists(boxes, min_size=10, max_size=40, unique=True), st.integers(0, 99))
def test_classes_and_boxes_change_only_where_it_is_told(
    rows: list[tuple[int, int, int, int]], seed: int
) -> None:
    truth = dataset(rows)
    after, errors = corrupted(truth, random.Random(seed))
    amounts = Counter(errors.values())
    assert amounts[WRONG_CLASS] == round(0.3 * len(rows))
    assert amounts[WRONG_PLACE] == round(0.2 * len(rows))
    for before, now in zip(truth["annotations"], after["annotations"], strict=True):
        changed = {key for key in before if before[key] != now[key]}
        expected = {RIGHT: set(), WRONG_CLASS: {"category_id"}, WRONG_PLACE: {"bbox"}}
        assert changed == expected[errors[before["id"]]]
        x, y, width, height = now["bbox"]
        assert 0 <= x <= x + width <= 101 and 0 <= y <= y + height <= 101 and width * height > 0
    assert corrupted(truth, random.Random(seed)) == (after, errors)


def test_a_class_is_never_swapped_for_another_true_one() -> None:
    """A person with glasses is annotated as both."""
    entries = [
        {"id": n, "image_id": 1, "category_id": n % 2, "bbox": [0, 0, 9, 9]} for n in range(10)
    ]
    other = {"id": 10, "image_id": 1, "category_id": 2, "bbox": [9, 9, 9, 9]}
    truth = {"images": [{"id": 1, "width": 99, "height": 99}], "annotations": [*entries, other]}
    for seed in range(20):
        after, errors = corrupted(truth, random.Random(seed))
        swapped = [e for e in after["annotations"][:10] if errors[e["id"]] == WRONG_CLASS]
        assert {entry["category_id"] for entry in swapped} <= {2}
