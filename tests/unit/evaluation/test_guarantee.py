"""Populations of boxes whose truth is known; a person answers by it."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secondlook.evaluation.guarantee import (
    Guaranteed,
    Promise,
    SamplePlan,
    Terms,
    certify,
    draw,
)
from secondlook_client.errors import InvalidInput
from secondlook_client.values import ReviewAnswer

RIGHT, WRONG, UNSURE = ReviewAnswer.RIGHT, ReviewAnswer.WRONG, ReviewAnswer.UNSURE
RUN, SCENES = Promise.RUN, Promise.SCENES


@dataclass(frozen=True, eq=False)
class World:
    probability: NDArray[np.float64]
    scenes: NDArray[np.intp]
    right: NDArray[np.bool_]

    @property
    def names(self) -> list[str]:
        return ["dog"] * len(self.right)

    def plan(self, terms: Terms, seed: int = 0) -> SamplePlan:
        return draw(self.probability, self.names, self.scenes, terms, seed=seed)

    def certified(self, terms: Terms, seed: int = 0) -> Guaranteed:
        plan = self.plan(terms, seed)
        return certify(plan, self.answers(plan))

    def answers(self, plan: SamplePlan) -> dict[int, ReviewAnswer]:
        return {row: RIGHT if self.right[row] else WRONG for row in plan.rows.tolist()}

    def precision(self, threshold: float) -> float:
        return float(self.right[self.probability >= threshold].mean())


def independent(seed: int, boxes: int = 3000, scenes: int = 600) -> World:
    """The probability is right."""
    draws = np.random.default_rng(seed)
    probability = draws.beta(4, 0.3, boxes)
    return World(probability, draws.integers(0, scenes, boxes), draws.random(boxes) < probability)


def clustered(seed: int, precision: float, scenes: int = 400) -> World:
    """Whole scenes are wrong; the probability knows nothing of it. Scenes have 1 to 12 boxes."""
    draws = np.random.default_rng(seed)
    of_box = np.repeat(np.arange(scenes), draws.integers(1, 13, scenes))
    right = draws.random(scenes) < precision
    return World(draws.uniform(0.9, 1, len(of_box)), of_box, right[of_box])


def at(precision: float, seed: int, boxes: int = 2400) -> World:
    """Exactly this share of the boxes is right, down to the last box, in scenes of 4."""
    draws = np.random.default_rng(seed)
    right = np.arange(boxes) >= round((1 - precision) * boxes)
    return World(draws.permutation(np.linspace(0.8, 1, boxes)), np.arange(boxes) // 4, right)


@pytest.mark.parametrize("promise", Promise)
def test_a_good_run_is_guaranteed_with_most_of_its_right_boxes(promise: Promise) -> None:
    given_, covered = 0, []
    for seed in range(12):
        world = independent(seed)
        found = world.certified(Terms(promise=promise), seed)
        assert found.answers <= 200
        if found.threshold is not None:
            given_ += 1
            kept = world.probability >= found.threshold
            assert found.accepted == kept.sum()
            assert found.coverage == pytest.approx(
                world.right[kept].sum() / world.right.sum(), abs=0.02
            )
            assert 0.95 <= found.bound <= 1
            covered.append(found.coverage)
    assert given_ >= 9
    assert np.mean(covered) >= 0.5


def test_a_run_just_below_the_target_is_guaranteed_at_most_once_in_twenty_draws() -> None:
    world = at(0.949, seed=3)
    flat = replace(world, probability=np.full(len(world.right), 0.99))  # one threshold
    terms = Terms(promise=RUN)
    wrongly = sum(flat.certified(terms, seed).holds for seed in range(300))
    assert wrongly <= 15 + 2 * 3.8  # two standard deviations of the simulation
    assert wrongly >= 2  # nothing is wasted either


def test_errors_in_whole_scenes_do_not_break_a_guarantee_about_scenes() -> None:
    """Each time other scenes, whose precision is just below the target."""
    terms = Terms(promise=SCENES)
    wrongly = sum(clustered(n, 0.9495).certified(terms, n).holds for n in range(150))
    assert wrongly <= 7.5 + 2 * 2.7


def test_counting_boxes_instead_of_scenes_would_break_it() -> None:
    """Why a scene is one observation: the run is certain of its own boxes, others are worse."""
    few = [clustered(n, 0.9495, scenes=60) for n in range(100)]
    by_box = sum(one.certified(Terms(promise=RUN), n).holds for n, one in enumerate(few))
    by_scene = sum(one.certified(Terms(promise=SCENES), n).holds for n, one in enumerate(few))
    assert by_box > 10
    assert by_scene <= 8


def test_crowded_scenes_may_be_worse_in_proportion() -> None:
    wrongly = 0
    for seed in range(150):
        draws = np.random.default_rng(seed)
        amounts = draws.choice([1, 2, 3, 8], 200)
        of_box = np.repeat(np.arange(200), amounts)
        rate = 0.0505 * amounts * amounts.mean() / (amounts**2).mean()
        right = draws.random(200) >= rate
        world = World(np.full(len(of_box), 0.99), of_box, right[of_box])
        wrongly += world.certified(Terms(promise=SCENES), seed).holds
    assert wrongly <= 7.5 + 2 * 2.7


def test_the_order_of_the_images_plays_no_part() -> None:
    """Other rows may be drawn, but what is tested is the same."""
    world = independent(1)
    order = np.random.default_rng(0).permutation(len(world.right))
    moved = World(world.probability[order], world.scenes[order], world.right[order])
    plan, other = world.plan(Terms(promise=RUN)), moved.plan(Terms(promise=RUN))
    assert plan.gates == other.gates
    assert len(plan.rows) == len(other.rows)
    assert plan.digest != other.digest
    assert plan.digest == world.plan(Terms(promise=RUN)).digest


def test_questions_are_about_distinct_boxes_the_most_probable_first() -> None:
    world = independent(0)
    for promise in Promise:
        plan = world.plan(Terms(promise=promise))
        asked = world.probability[plan.rows]
        assert (np.diff(asked) <= 0).all()
        assert len(set(plan.rows.tolist())) == len(plan.rows) <= 200
        for gate in plan.gates:
            assert (asked[: gate.answers] >= gate.threshold).all()
            assert (asked[gate.answers :] < gate.threshold).all()
            assert gate.boxes == (world.probability >= gate.threshold).sum()
    scenes = world.scenes[world.plan(Terms(promise=SCENES)).rows]
    assert len(np.unique(scenes)) == len(scenes)  # one answer a scene


def test_every_box_is_as_likely_to_be_asked_about() -> None:
    world = independent(0, boxes=40, scenes=1000)
    flat = replace(world, probability=np.full(40, 0.99))
    draws = [flat.plan(Terms(0.8, 0.8, 10, RUN), seed).rows for seed in range(2000)]
    counts = np.bincount(np.concatenate(draws), minlength=40)
    assert counts / 2000 == pytest.approx([0.25] * 40, abs=0.05)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(Promise), st.data())
def test_a_wrong_answer_more_never_gives_more(
    seed: int, promise: Promise, data: st.DataObject
) -> None:
    world = independent(seed, boxes=800, scenes=300)
    plan = world.plan(Terms(0.9, 0.9, 80, promise), seed)
    answers = world.answers(plan)
    before = certify(plan, answers)
    row = data.draw(st.sampled_from(plan.rows.tolist()))
    after = certify(plan, answers | {row: data.draw(st.sampled_from([WRONG, UNSURE]))})
    assert after.accepted <= before.accepted
    assert after.wrong >= before.wrong
    better = certify(plan, answers | {row: RIGHT})
    assert better.accepted >= before.accepted


def test_an_unsure_answer_counts_as_wrong_and_is_told() -> None:
    world = independent(0)
    plan = world.plan(Terms())
    all_right = dict.fromkeys(plan.rows.tolist(), RIGHT)
    assert certify(plan, all_right).holds
    some = all_right | dict.fromkeys(plan.rows[:9].tolist(), UNSURE)
    found = certify(plan, some)
    assert not found.holds
    assert (found.wrong, found.unsure) == (9, 9)
    assert "9 of" in found.reason


def test_answers_in_part_certify_the_strict_thresholds_already() -> None:
    world = independent(0)
    plan = world.plan(Terms(promise=RUN))
    first, second = plan.gates[:2]
    right = dict.fromkeys(plan.rows.tolist(), RIGHT)
    nothing = certify(plan, {})
    assert nothing.open_questions == first.answers
    assert "questions are still to be answered" in nothing.reason
    part = certify(plan, {row: right[row] for row in plan.rows[: first.answers].tolist()})
    assert part.threshold == first.threshold
    assert part.open_questions == second.answers - first.answers
    whole = certify(plan, right)
    assert whole.threshold == plan.gates[-1].threshold
    assert whole.open_questions == 0


def test_after_the_test_that_failed_nothing_more_is_asked() -> None:
    plan = independent(0).plan(Terms(promise=RUN))
    first = plan.gates[0]
    wrong = dict.fromkeys(plan.rows[: first.answers].tolist(), WRONG)
    found = certify(plan, wrong)
    assert found.open_questions == 0
    assert not found.holds
    assert found.more_answers is None
    assert "better probabilities would" in found.reason


def test_a_near_miss_says_how_many_more_answers_it_would_take() -> None:
    world = at(0.97, seed=0)
    plan = world.plan(Terms(promise=RUN))
    rows = plan.rows[: plan.gates[0].answers].tolist()
    for errors in range(len(rows)):
        found = certify(plan, dict.fromkeys(rows, RIGHT) | dict.fromkeys(rows[:errors], WRONG))
        if not found.holds:
            break
    assert found.more_answers is not None
    assert 20 <= found.more_answers <= 2000
    assert f"about {found.more_answers:,} more answers" in found.reason


def test_a_small_class_is_checked_box_by_box_and_known() -> None:
    world = independent(2, boxes=70)
    found = world.certified(Terms(promise=RUN))
    assert found.threshold is not None
    assert world.precision(found.threshold) >= 0.95
    assert found.bound == pytest.approx(world.precision(found.threshold))
    assert "as every box was checked" in found.reason
    laxer = np.unique(world.probability[world.probability < found.threshold])
    assert all(world.precision(one) < 0.95 for one in laxer)


def test_too_few_scenes_say_so_before_anything_is_asked() -> None:
    world = clustered(0, 0.99, scenes=40)
    found = world.certified(Terms(promise=SCENES))
    assert found.answers == found.open_questions == 0
    assert "takes at least 59 answers without a single error, one a scene" in found.reason
    assert "a guarantee of this run alone" in found.reason
    few = world.certified(Terms(budget=20, promise=RUN))
    assert "20 are too few" in few.reason


def test_equal_probabilities_are_on_one_side_of_a_threshold() -> None:
    draws = np.random.default_rng(0)
    world = independent(0)
    rough = replace(world, probability=np.round(world.probability, 2))
    for promise in Promise:
        plan = rough.plan(Terms(promise=promise), int(draws.integers(100)))
        for gate in plan.gates:
            assert gate.boxes == (rough.probability >= gate.threshold).sum()


def test_one_class_is_drawn_from_its_own_boxes_and_those_without_a_probability_from_none() -> None:
    world = independent(0)
    names = np.where(np.arange(len(world.right)) % 2, "dog", "cat")
    holes = np.where(np.arange(len(world.right)) % 5 == 0, np.nan, world.probability)
    plan = draw(holes, names, world.scenes, Terms(promise=RUN), class_name="dog")
    assert (plan.rows % 2 == 1).all()
    assert (plan.rows % 5 > 0).all()
    nothing = draw(holes, names, world.scenes, Terms(), class_name="horse")
    assert certify(nothing, {}).reason == "there is no box to ask about"
    empty = draw(np.zeros(0), [], np.zeros(0, int), Terms())
    assert not certify(empty, {}).holds


@pytest.mark.parametrize(
    "wrong", [{"target": 1.0}, {"target": 0.2}, {"confidence": 1.0}, {"budget": 0}]
)
def test_terms_that_cannot_be_kept_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match="expected a"):
        Terms(**wrong)  # type: ignore[arg-type]


def test_arrays_and_answers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidInput, match="as many probabilities as classes"):
        draw(np.zeros(3), ["dog"] * 2, np.zeros(3, int), Terms())
    with pytest.raises(InvalidInput, match="probabilities from 0 to 1"):
        draw(np.array([1.5]), ["dog"], np.zeros(1, int), Terms())
    plan = independent(0).plan(Terms())
    with pytest.raises(InvalidInput, match="expected right, wrong or unsure"):
        certify(plan, {int(plan.rows[0]): ReviewAnswer.COMPLETE})
