"""Which images are chosen, and why: each strategy on pools whose answer is plain."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.selection.choices import Measure, Strategy
from secondlook.selection.expected_change import gradient_length
from secondlook.selection.keyframes import Moment
from secondlook.selection.strategies import (
    DIFFICULTY_BOUND,
    JudgedPool,
    choose_images,
    class_difficulty,
    difficulty_weights,
)
from secondlook.selection.uncertainty import readings_uncertainty
from secondlook_client.errors import InvalidInput

Box = tuple[str, float]
CLASSES = ("dog", "cat", "helmet")


def unit(*numbers: float) -> np.ndarray:
    row = np.array(numbers, np.float32)
    return row / np.linalg.norm(row)


def pool_of(images: list[list[Box]], vectors: list[np.ndarray] | None = None) -> JudgedPool:
    """A pool of images with boxes of one class each: its name and probability."""
    rows = [(at, name, p) for at, boxes in enumerate(images) for name, p in boxes]
    p = np.array([p for _, _, p in rows], np.float64)
    looks = vectors or [unit(1, at) for at in range(len(images))]
    return JudgedPool(
        [f"{at}.jpg" for at in range(len(images))],
        CLASSES,
        np.array([at for at, _, _ in rows], np.intp),
        np.arange(len(rows)),
        np.array([CLASSES.index(name) for _, name, _ in rows], np.intp),
        p,
        p,
        p,
        np.full(len(rows), np.nan),
        np.stack(looks) if images else None,
    )


def places(pool: JudgedPool, strategy: str, count: int, **options: object) -> list[int]:
    found = choose_images(pool, Strategy(strategy), count, **options)  # type: ignore[arg-type]
    assert all(one.reason for one in found.chosen)
    return [one.place for one in found.chosen]


SURE: list[Box] = [("dog", 0.99)]
DOUBT: list[Box] = [("dog", 0.5)]


def test_uncertainty_is_summed_over_the_boxes_and_told_by_the_worst() -> None:
    pool = pool_of([SURE, DOUBT, [], [("cat", 0.6), ("dog", 0.7), ("dog", 0.98)]])
    found = choose_images(pool, Strategy.UNCERTAINTY, 4)
    assert [one.place for one in found.chosen] == [3, 1, 0, 2]
    first, second, _, last = (one.reason for one in found.chosen)
    assert first == "cat 0.60 (proposer 0.60, verifier 0.60): entropy 0.97, the most of 3"
    assert second == "dog 0.50 (proposer 0.50, verifier 0.50): entropy 1.00"
    assert last == "has no box"


def test_what_would_change_a_student_most_comes_first() -> None:
    pool = replace(pool_of([SURE, DOUBT, SURE]), changes=np.array([0.3, np.nan, 0.6]))
    assert places(pool, "expected-change", 3) == [2, 0, 1]


def test_what_a_student_is_sure_of_would_not_change_it() -> None:
    features = np.array([[1.0, 2.0], [3.0, 0.0]])
    sure = gradient_length(features, np.array([[1.0, 0.0], [0.0, 0.0]]))
    doubt = gradient_length(features, np.array([[0.6, 0.0], [0.0, 0.0]]))
    assert sure == 0 and doubt == pytest.approx(0.4 * np.sqrt(1 + 4 + 1))
    other = gradient_length(features, np.array([[0.6, 0.0], [0.0, 0.2]]))
    assert other == pytest.approx(np.hypot(doubt, 0.2 * np.sqrt(9 + 1)))


def test_what_was_measured_counts_instead() -> None:
    measured = np.array([0.1, 0.9])
    pool = replace(pool_of([DOUBT, SURE]), measured=measured)
    kept = {"measure": Measure.MONTE_CARLO}
    assert places(pool, "uncertainty", 2, **kept) == [1, 0]
    assert places(pool, "committee", 1) == [1]
    with pytest.raises(InvalidInput, match="no box was measured by monte-carlo"):
        places(pool_of([DOUBT, SURE]), "uncertainty", 1, **kept)


def test_a_committee_compares_ranks() -> None:
    pool = pool_of([[("dog", p)] for p in (0.2, 0.4, 0.6, 0.8)])
    pool = replace(pool, scores=np.array([0.1, 0.2, 0.3, 0.4]), answers=np.array([1, 0.8, 0.9, 2]))
    assert places(pool, "committee", 1) == [0], "the lowest score with the highest answer but one"
    assert "disagreement" in choose_images(pool, Strategy.COMMITTEE, 1).chosen[0].reason
    silent = replace(pool, answers=np.full(4, np.nan))
    assert "verifier" not in choose_images(silent, Strategy.COMMITTEE, 1).chosen[0].reason


def test_diversity_stays_away_from_what_is_reviewed() -> None:
    looks = [unit(1, 0, 0), unit(0, 1, 0), unit(0, 0, 1), unit(0, 1, 0.01)]
    pool = pool_of([SURE] * 4, looks)
    assert sorted(places(pool, "diversity", 3)) in ([0, 1, 2], [0, 2, 3])
    known = replace(pool, known=np.stack([unit(0, 1, 0), unit(0, 0, 1)]))
    found = choose_images(known, Strategy.DIVERSITY, 1)
    assert found.chosen[0].place == 0
    assert found.chosen[0].reason == "unlike all before: similarity 0.00 at most"


def test_density_prefers_many_alike_that_nobody_knows() -> None:
    looks = [unit(1, at / 100, 0) for at in range(5)] + [unit(0, at / 100, 1) for at in range(3)]
    pool = pool_of([SURE] * 8, looks)
    first, second = choose_images(pool, Strategy.DENSITY, 2).chosen
    assert (first.place, second.place) == (2, 6)
    assert first.reason == "the most typical of 5 images like it"
    known = replace(pool, known=unit(1, 0, 0)[None])
    first, second = choose_images(known, Strategy.DENSITY, 2).chosen
    assert (first.place, second.place) == (6, 2)
    assert second.reason.endswith("like it, 1 more of which are reviewed")


def test_transfer_gives_each_target_its_turn() -> None:
    looks = [unit(1, 0.1, 0), unit(1, 0.2, 0), unit(0, 0.3, 1), unit(0, 1, 0)]
    pool = pool_of([SURE] * 4, looks)
    target = np.stack([unit(1, 0, 0), unit(0, 0, 1)])
    aimed = replace(pool, target=target, target_names=("day.jpg", "night.jpg"))
    assert places(aimed, "transfer", 3)[:2] == [0, 2]
    assert (
        "like day.jpg of the target" in choose_images(aimed, Strategy.TRANSFER, 1).chosen[0].reason
    )
    with pytest.raises(InvalidInput, match="needs images of the target"):
        places(pool, "transfer", 1)


def test_balance_takes_the_rare_class_and_the_rare_mode_soon() -> None:
    looks = [unit(1, at / 1000, 0) for at in range(38)] + [unit(0, 0, 1), unit(0, 0.01, 1)]
    images: list[list[Box]] = [[("dog", 0.9)] for _ in range(40)]
    images[7] = [("helmet", 0.9)]
    pool = pool_of(images, looks)
    found = choose_images(pool, Strategy.BALANCE, 6)
    chosen = {one.place for one in found.chosen}
    assert 7 in chosen and chosen & {38, 39}
    assert any("has helmet, 0.0 chosen" in one.reason for one in found.chosen)


def test_balance_goes_on_from_what_people_have_reviewed() -> None:
    pool = pool_of([[("dog", 0.99)], [("cat", 0.99)]], [unit(1, 0), unit(1, 0.01)])
    assert places(pool, "balance", 1) == [0]
    many_dogs = replace(pool, known_objects=np.array([9.0, 0, 0]))
    assert places(many_dogs, "balance", 1) == [1]
    modes = pool_of([SURE] * 20, [unit(1, 0.001 * at) for at in range(10)] + [unit(0, 1)] * 10)
    seen = replace(modes, known=np.stack([unit(0, 1)] * 5))
    assert all(at < 10 for at in places(seen, "balance", 3))


def test_mixed_takes_what_is_uncertain_and_no_two_alike() -> None:
    looks = [unit(1, at / 1000, 0) for at in range(7)] + [unit(0, 0, 1)] + [unit(0, 1, 0)] * 30
    images = [[("dog", 0.5)]] * 7 + [[("dog", 0.6)]] + [[("dog", 0.99)]] * 30
    found = choose_images(pool_of(images, looks), Strategy.MIXED, 2).chosen
    assert {one.place for one in found} & {*range(7)} and 7 in {one.place for one in found}
    assert "stands for" in found[0].reason and not {one.place for one in found} & {*range(8, 38)}


def test_difficult_classes_weigh_more_within_bounds() -> None:
    pool = pool_of([[("dog", 0.99), ("cat", 0.5)]] * 50)
    dog, cat, helmet = class_difficulty(pool)
    assert dog < helmet < cat
    weights = difficulty_weights(np.array([0.0, dog, cat, 1.0]))
    assert weights[0] == 1 and weights[-1] == pytest.approx(1 + DIFFICULTY_BOUND)
    assert (np.diff(weights) > 0).all()


def test_random_depends_on_the_seed_alone() -> None:
    pool = pool_of([SURE] * 30)
    assert places(pool, "random", 5) == places(pool, "random", 5)
    assert places(pool, "random", 5) != places(pool, "random", 5, seed=1)


def test_a_small_pool_is_told() -> None:
    pool = pool_of([SURE] * 10)
    found = choose_images(pool, Strategy.DIVERSITY, 5)
    assert found.advice.startswith("5 of 10 images leave little to choose: at random 50% of the")
    assert not choose_images(pool, Strategy.DIVERSITY, 3).advice
    assert not choose_images(pool, Strategy.RANDOM, 5).advice


@pytest.mark.parametrize(
    ("pool", "strategy", "count", "problem"),
    [
        (pool_of([]), "random", 1, "reviewed them all"),
        (pool_of([SURE]), "random", 0, "expected a count from 1"),
        (replace(pool_of([SURE]), vectors=None), "mixed", 1, "compares embeddings"),
        (pool_of([SURE]), "expected-change", 1, "needs a student"),
        (pool_of([SURE], [np.array([np.nan, 1])]), "diversity", 1, "is not finite"),
    ],
)
def test_bad_input_is_refused(pool: JudgedPool, strategy: str, count: int, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        places(pool, strategy, count)


BOXES = st.lists(st.tuples(st.sampled_from(CLASSES), st.floats(0, 1)), max_size=4)
WITHOUT_TARGET = [one for one in Strategy if one is not Strategy.TRANSFER]


@given(
    st.lists(BOXES, min_size=1, max_size=25),
    st.sampled_from(WITHOUT_TARGET),
    st.integers(1, 30),
    st.integers(0, 5),
)
def test_no_image_is_chosen_twice_and_never_more_than_asked(
    images: list[list[Box]], strategy: Strategy, count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pool = pool_of(images, [unit(*rng.normal(size=3)) for _ in images])
    moments = [Moment(place, "seen", {place: 1.0}) for place in range(len(images))]
    pool = replace(pool, changes=rng.random(len(images)), moments=moments)
    chosen = places(pool, strategy, count, seed=seed)
    assert len(chosen) == len(set(chosen)) == min(count, len(images))
    assert chosen == places(pool, strategy, count, seed=seed)


MEASURES = [one for one in Measure if not one.kept]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.sampled_from(MEASURES))
def test_the_uncertainty_of_a_box_is_bounded(probabilities: list[float], measure: Measure) -> None:
    boxes = np.zeros(len(probabilities), np.intp)
    (found,) = readings_uncertainty(np.array(probabilities), boxes, measure)
    assert 0 <= found <= 1


@pytest.mark.parametrize("measure", MEASURES)
def test_a_box_of_one_class_is_most_uncertain_at_one_half(measure: Measure) -> None:
    p = np.linspace(0.01, 0.99, 99)
    found = readings_uncertainty(p, np.arange(99), measure)
    assert found.argmax() == 49 and found[49] == pytest.approx(1)
    assert (np.diff(found[:50]) > 0).all() and np.allclose(found, found[::-1])
    pair = readings_uncertainty(np.array([0.9, 0.9]), np.zeros(2, np.intp), measure)
    assert pair > readings_uncertainty(np.array([0.9]), np.zeros(1, np.intp), measure)
