"""Which boxes of a run are asked about, and in which order."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored import ANSWERS, image_of, labelled, review_box, stored_run

from secondlook.review import queue_order
from secondlook.review.local_reviews import LocalReviews
from secondlook.review.queue_order import queue_items
from secondlook.store import Store
from secondlook.store.reviews import QueueItem
from secondlook_client.errors import AlreadyExists, InvalidInput, NotFound
from secondlook_client.values import Outcome, ReviewOrder

RANDOM, VALUE, UNCERTAINTY = ReviewOrder.RANDOM, ReviewOrder.VALUE, ReviewOrder.UNCERTAINTY
P_DOG = (0.55, 0.95, 0.05, 0.58, 0.7, 0.31)


@pytest.fixture
def run(store: Store) -> str:
    """Six images with three judged boxes each: the dogs have the probabilities of ``P_DOG``."""
    found = [labelled(f"i{n}", answers={**ANSWERS, "Dog?": p_yes}) for n, p_yes in enumerate(P_DOG)]
    return stored_run(store, "first", found).name


def items(store: Store, order: ReviewOrder, **options: object) -> list[QueueItem]:
    return [*queue_items(store, "first", order, **options)]  # type: ignore[arg-type]


def test_every_judged_box_is_an_item_and_says_what_was_decided(store: Store, run: str) -> None:
    found = items(store, RANDOM)
    assert len(found) == 18 and {one.inclusion for one in found} == {1.0}
    judged = {
        (result.cursor, place): one
        for result in store.results.page(store.results.run(run).id)
        for place, one in enumerate(result.labelled.judgements)
    }
    for one in found:
        of = judged.pop((one.cursor, one.place))
        assert (one.class_name, one.outcome, one.box) == (of.class_name, of.outcome, of.box)
        assert one.probability == of.probability
    assert judged == {}
    strata = {one.stratum for one in found if one.class_name == "dog"}
    assert strata == {"dog 0.5–0.6", "dog 0.9–1.0", "dog 0.0–0.1", "dog 0.7–0.8", "dog 0.3–0.4"}


def test_the_seed_decides_and_nothing_else(store: Store, run: str) -> None:
    assert items(store, RANDOM, seed=5) == items(store, RANDOM, seed=5)
    assert items(store, RANDOM, seed=5) != items(store, RANDOM, seed=6)


def test_random_gives_every_stratum_its_turn(store: Store, run: str) -> None:
    found = items(store, RANDOM, count=9)
    counts = Counter(one.stratum for one in found)
    assert len(counts) == 7 and max(counts.values()) == 2  # of 7 strata with 6, 6, 2, 1, 1, 1, 1
    assert len({one.stratum for one in found[:7]}) == 7
    full = {one.stratum: one.inclusion for one in found}
    assert full["dog 0.9–1.0"] == 1.0
    # One each, and two more among the three strata that have more.
    assert full["glasses on 0.9–1.0"] == pytest.approx((1 + 2 / 3) / 6)


def test_value_begins_at_the_limit_and_spreads_over_the_strata(store: Store, run: str) -> None:
    dogs = items(store, VALUE, classes=["dog"])
    assert len(dogs) == 6
    # Two boxes are in 0.5–0.6: the nearest to the limit of 0.6 counts double, the other once.
    assert [one.probability for one in dogs[:2]] == pytest.approx([0.58, 0.55])
    assert dogs[-1].probability == pytest.approx(0.05)
    assert items(store, VALUE, count=3, classes=["dog"]) == dogs[:3]


def test_what_was_answered_in_a_stratum_lowers_its_value(store: Store, run: str) -> None:
    dog = next(one for one in items(store, VALUE, classes=["dog"]))
    review_box(store, image_of(store, "i3"), "dog", dog.box, "right")
    first, *rest = items(store, VALUE, classes=["dog"])
    assert first.probability == pytest.approx(0.7)  # 0.55 is worth half now
    assert len(rest) == 4  # and the reviewed one is not asked about again
    assert dog.cursor not in {one.cursor for one in (first, *rest)}


def test_uncertainty_begins_at_one_half(store: Store, run: str) -> None:
    dogs = items(store, UNCERTAINTY, classes=["dog"])
    assert [round(one.probability, 2) for one in dogs[:4]] == [0.55, 0.58, 0.31, 0.7]


def test_boxes_of_people_and_doubts_about_images_are_not_asked(store: Store, run: str) -> None:
    review_box(store, image_of(store, "i0"), "dog", (0, 0, 5, 5), "missing")
    assert len(items(store, RANDOM)) == 18


def test_what_is_not_there_is_told(store: Store, run: str) -> None:
    with pytest.raises(NotFound, match="no run 'other'"):
        queue_items(store, "other", RANDOM)
    with pytest.raises(InvalidInput, match="no class 'bird'; there are glasses on"):
        items(store, RANDOM, classes=["bird"])
    for wrong in ({"count": -1}, {"seed": -1}, {"seed": 2**70}):
        with pytest.raises(InvalidInput, match="a count from 0 and a seed"):
            items(store, RANDOM, **wrong)
    stored_run(store, "empty", [labelled("empty", rows=())])
    with pytest.raises(InvalidInput, match="run 'empty' has no judged box"):
        queue_items(store, "empty", RANDOM)


def test_a_name_that_no_queue_can_have_is_refused_before_the_run_is_read(
    store: Store, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reviews = LocalReviews(store)
    reviews.create_queue("dogs", run, classes=["dog"])

    def never(*_: object) -> None:
        raise AssertionError("the run was read")

    monkeypatch.setattr(queue_order, "_read", never)
    with pytest.raises(AlreadyExists, match="there is a queue 'dogs' already"):
        reviews.create_queue("dogs", run)
    for reuse in (False, True):
        with pytest.raises(InvalidInput, match="1 to 200 characters"):
            reviews.create_queue("", run, reuse=reuse)
    assert reviews.create_queue("dogs", run, classes=["dog"], reuse=True).name == "dogs"


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=60),
    st.integers(1, 60),
    st.integers(0, 2**32),
)
def test_a_stratified_draw_is_even_and_says_its_probabilities(
    strata: list[int], count: int, seed: int
) -> None:
    of = np.array(strata, dtype=np.intp)
    rng = np.random.default_rng(seed)
    count = min(count, len(of))
    rows, inclusion = queue_order._draw_randomly(of, rng.permutation(len(of)), count, rng)
    assert len({*rows.tolist()}) == len(rows) == count
    drawn = Counter(of[rows].tolist())
    sizes = Counter(strata)
    least_open = min((drawn[s] for s in sizes if drawn[s] < sizes[s]), default=len(of))
    assert max(drawn.values()) <= least_open + 1
    by_stratum = dict(zip(of[rows].tolist(), inclusion.tolist(), strict=True))
    expected = sum(by_stratum[s] * sizes[s] for s in by_stratum)
    if len(by_stratum) == len(sizes):
        assert expected == pytest.approx(count)


def test_the_probabilities_of_a_draw_are_those_with_which_it_happens() -> None:
    of = np.array([0] * 2 + [1] * 5 + [2] * 9, dtype=np.intp)
    hits = np.zeros(len(of))
    rounds = 4000
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        rows, inclusion = queue_order._draw_randomly(of, rng.permutation(len(of)), 9, rng)
        hits[rows] += 1
    told = dict(zip(of[rows].tolist(), inclusion.tolist(), strict=True))
    assert told == pytest.approx({0: 1.0, 1: 3.5 / 5, 2: 3.5 / 9})
    for stratum, probability in told.items():
        share = hits[of == stratum] / rounds
        assert share == pytest.approx(probability, abs=5 * (0.25 / rounds) ** 0.5)


def test_outcomes_of_all_kinds_are_asked_about(store: Store, run: str) -> None:
    assert {one.outcome for one in items(store, RANDOM)} == {*Outcome}
