"""Fitting a calibrator to answers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from secondlook.evaluation.calibration import auroc, reliability_of
from secondlook.evaluation.calibrator_fit import (
    USED,
    accept_limits,
    cross_fitted,
    fit_calibrator,
)
from secondlook.labeling.box_features import FEATURES, VERIFIER_FEATURES
from secondlook_client.errors import InvalidInput
from secondlook_client.ontology import ClassSpec, Ontology

CLASSES = ("dog", "person", "tree")
Evidence = tuple[NDArray[np.float64], NDArray[np.str_], NDArray[np.bool_], NDArray[np.intp]]


def world(count: int, seed: int = 0) -> Evidence:
    """Answers whose chances are known: scores matter more for trees, answers more for dogs."""
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 1, (count, len(FEATURES)))
    for name in ("score", "p_yes"):
        features[:, FEATURES.index(name)] *= 3
    names = np.array(CLASSES)[rng.integers(0, 3, count)]
    right = rng.random(count) < chances(features, names)
    return features, names, right, rng.integers(0, count // 4 + 2, count)


def chances(features: NDArray[np.float64], names: NDArray[np.str_]) -> NDArray[np.float64]:
    score, p_yes = (features[:, FEATURES.index(name)] for name in ("score", "p_yes"))
    trees = np.where(names == "tree", 1.5, 0.5)
    odds = trees * score + np.where(names == "dog", 1.5, 0.5) * p_yes + (names == "person") * 2
    return 1 / (1 + np.exp(-odds))


def test_with_many_answers_each_class_is_learnt() -> None:
    fitted = fit_calibrator(*world(20_000))
    features, names, _, _ = world(500, seed=1)
    off = fitted.probabilities(features, names) - chances(features, names)
    assert np.abs(off).mean() < 0.02
    assert fitted.classes == CLASSES
    assert (fitted.answers, fitted.features) == (20_000, USED)


def test_with_few_answers_classes_share() -> None:
    features, names, right, scenes = world(3000)
    some, others = np.flatnonzero(names == "dog")[:6], np.flatnonzero(names != "dog")
    rows = np.concatenate([some, others])
    right[some] = False
    fitted = fit_calibrator(features[rows], names[rows], right[rows], scenes[rows])
    place = fitted.features.index("p_yes")
    dog, person, tree = (fit.weights[place] for fit in fitted.fits)
    assert min(person, tree) - 0.1 < dog < max(person, tree) + 0.1
    found = fitted.probabilities(features[rows], names[rows])
    assert found[:6].mean() > 0.1  # six answers of no make nothing impossible


def test_a_class_without_answers_has_the_pooled_model() -> None:
    features, names, right, scenes = world(2000)
    ontology = Ontology((*map(ClassSpec, CLASSES), ClassSpec("cat")))
    fitted = fit_calibrator(features, names, right, scenes, ontology=ontology)
    assert fitted.classes == (*CLASSES, "cat")
    assert fitted.fits[-1].question == "Is this a cat?"
    lowest, highest = np.sort([fit.base for fit in fitted.fits[:3]])[[0, -1]]
    assert lowest < fitted.fits[-1].base < highest


@given(st.integers(0, 300), st.sampled_from([6, 40, 300]))
def test_a_better_score_or_answer_never_makes_it_less_probable(seed: int, count: int) -> None:
    features, names, right, scenes = world(count, seed)
    right = right ^ (np.random.default_rng(seed).random(count) < 0.8)  # mostly the opposite
    fitted = fit_calibrator(features, names, right, scenes, use=FEATURES)
    for name in ("score", "p_yes", "product"):
        assert all(fit.weights[fitted.features.index(name)] >= 0 for fit in fitted.fits)
    probabilities = fitted.probabilities(features, names)
    assert np.isfinite(probabilities).all()


@pytest.mark.parametrize("answer", [True, False])
def test_answers_that_are_all_alike(answer: bool) -> None:
    features, names, _, scenes = world(30)
    fitted = fit_calibrator(features, names, np.full(30, answer), scenes)
    found = fitted.probabilities(features, names)
    assert np.isfinite(found).all()
    assert ((found > 0.5) == answer).mean() > 0.7


def test_boxes_without_an_answer_are_left_out() -> None:
    features, names, right, scenes = world(400)
    silent = np.arange(400) % 4 == 0
    features[silent, FEATURES.index("p_yes")] = np.nan
    fitted = fit_calibrator(features, names, right, scenes)
    kept = fit_calibrator(*(part[~silent] for part in (features, names, right, scenes)))
    assert fitted == kept
    assert fitted.answers == 300
    untold = [name for name in USED if name not in VERIFIER_FEATURES]
    assert fit_calibrator(features, names, right, scenes, use=untold).answers == 400


def test_answers_may_count_more_than_once() -> None:
    features, names, right, scenes = world(300)
    twice = np.concatenate([np.arange(300), np.arange(0, 300, 2)])
    counted = np.where(np.arange(300) % 2 == 0, 2.0, 1.0)
    weighed = fit_calibrator(features, names, right, scenes, weights=counted)
    repeated = fit_calibrator(features[twice], names[twice], right[twice], scenes[twice])
    found, expected = (one.probabilities(features, names) for one in (weighed, repeated))
    assert found == pytest.approx(expected, abs=0.01)


def test_few_answers_move_an_earlier_calibrator_little() -> None:
    earlier = fit_calibrator(*world(20_000))
    features, names, _, scenes = world(60, seed=3)
    same = fit_calibrator(*world(60, seed=3), prior=earlier)
    test, of_class, _, _ = world(500, seed=4)
    before, after = (one.probabilities(test, of_class) for one in (earlier, same))
    fresh = fit_calibrator(*world(60, seed=3)).probabilities(test, of_class)
    truth = chances(test, of_class)
    assert np.abs(after - before).mean() < 0.05
    assert np.abs(after - truth).mean() < np.abs(fresh - truth).mean()
    other = fit_calibrator(features, names, np.zeros(60, bool), scenes, prior=earlier)
    assert other.probabilities(test, of_class).mean() < before.mean() - 0.1


def test_a_prior_without_one_of_the_classes() -> None:
    earlier = fit_calibrator(*world(2000))
    features, names, right, scenes = world(50, seed=5)
    names = np.where(names == "dog", "cat", names)
    fitted = fit_calibrator(features, names, right, scenes, prior=earlier)
    assert fitted.classes == ("cat", "person", "tree")
    assert np.isfinite(fitted.probabilities(features, names)).all()


class TestCrossFitted:
    def test_no_box_is_judged_by_its_own_scene(self) -> None:
        features, names, right, scenes = world(200)
        before = cross_fitted(features, names, right, scenes)
        own = scenes == scenes[0]
        changed = cross_fitted(features, names, right ^ own, scenes)
        assert changed[own].tolist() == before[own].tolist()
        assert (changed[~own] != before[~own]).any()

    def test_it_tells_what_new_scenes_can_expect(self) -> None:
        features, names, right, scenes = world(6000)
        found = cross_fitted(features, names, right, scenes)
        error = reliability_of(found, right).error
        assert error is not None
        assert error < 0.02
        assert auroc(found, right) > auroc(features[:, FEATURES.index("score")], right)

    def test_a_class_of_one_scene_alone_has_none(self) -> None:
        features, names, right, scenes = world(60)
        names[scenes == scenes[0]] = "cat"
        found = cross_fitted(features, names, right, scenes)
        assert np.isnan(found[names == "cat"]).all()
        assert np.isfinite(found[names != "cat"]).all()

    def test_one_scene_is_refused(self) -> None:
        features, names, right, _ = world(20)
        with pytest.raises(InvalidInput, match="all answers are of one scene"):
            cross_fitted(features, names, right, np.zeros(20, np.intp))


class TestAcceptLimits:
    def test_the_lowest_limit_with_the_precision(self) -> None:
        p = np.array([0.99, 0.95, 0.90, 0.805, 0.70, 0.99])
        right = np.array([True, True, False, True, False, False])
        names = ["a", "a", "a", "a", "a", "b"]
        assert accept_limits(p, names, right, 0.75) == {"a": 0.81, "b": 1.0}
        assert accept_limits(p, names, right, 0.9) == {"a": 0.95, "b": 1.0}

    def test_what_has_no_probability_counts_for_nothing(self) -> None:
        p = np.array([0.9, np.nan])
        assert accept_limits(p, ["a", "a"], np.array([True, False]), 0.9) == {"a": 0.9}


class TestRefused:
    def test_no_answer(self) -> None:
        features, names, right, scenes = world(5)
        features[:, FEATURES.index("p_yes")] = np.nan
        for rows in (slice(0), slice(None)):
            with pytest.raises(InvalidInput, match="there is no answer to fit"):
                fit_calibrator(features[rows], names[rows], right[rows], scenes[rows])

    def test_arrays_that_do_not_belong_together(self) -> None:
        features, names, right, scenes = world(5)
        with pytest.raises(InvalidInput, match="differ in length"):
            fit_calibrator(features, names[1:], right, scenes)
        with pytest.raises(InvalidInput, match="differ in length"):
            fit_calibrator(features, names, right, scenes, weights=np.ones(4))
        with pytest.raises(InvalidInput, match=f"expected {len(FEATURES)} features"):
            fit_calibrator(features[:, 1:], names, right, scenes)

    def test_an_answer_about_another_class(self) -> None:
        ontology = Ontology((ClassSpec("person"), ClassSpec("dog")))
        with pytest.raises(InvalidInput, match="the class 'tree', which the run has not"):
            fit_calibrator(*world(50), ontology=ontology)


def test_equal_answers_give_equal_calibrators() -> None:
    fitted = fit_calibrator(*world(300), source="a test")
    assert fitted == fit_calibrator(*world(300), source="a test")
    assert replace(fitted, source="").digest != fitted.digest
