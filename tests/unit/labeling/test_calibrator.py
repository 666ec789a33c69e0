"""Probabilities from features; calibrators as JSON that may come from strangers."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.labeling.box_features import FEATURES
from secondlook.labeling.calibrator import BASE, Calibrator, ClassFit, VerifyBudget
from secondlook_client.errors import BadSetting, InvalidInput
from secondlook_client.ontology import MAX_CLASSES, ClassSpec, Ontology

ONTOLOGY = Ontology((ClassSpec("person"), ClassSpec("dog")))
MADE = Calibrator(
    ("person", "dog"),
    ("score", "p_yes", "overlap_better"),
    (0.5, 1.0, 0.25),
    (
        ClassFit(1.0, (0.5, 1.0, -2.0), "Is this a person?"),
        ClassFit(-1.0, (0.25, 0.5, 0.0), "Is this a dog?"),
    ),
    {"dog": 0.9, "person": 0.6},
    "boxes@1",
    "answers@2",
    120,
    40,
    "a test",
)


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 4, (count, len(FEATURES)))


def changed(**values: Any) -> str:
    return json.dumps(json.loads(MADE.to_json()) | values)


def fits(calibrator: Calibrator, ontology: Ontology, proposer: str, verifier: str) -> bool:
    try:
        calibrator.check(ontology, proposer, verifier)
    except BadSetting:
        return False
    return True


def test_the_probability_is_that_of_a_logistic_model() -> None:
    row = np.zeros((1, len(FEATURES)))
    row[0, FEATURES.index("score")], row[0, FEATURES.index("overlap_better")] = 2.5, 0.75
    odds = 1.0 + 0.5 * 2.0 - 1.0 * 1.0 - 2.0 * 0.5
    assert MADE.probabilities(row, ["person"]) == pytest.approx([1 / (1 + np.exp(-odds))])


def test_the_reasons_add_up_to_the_probability() -> None:
    for row, name in zip(rows(6), ["person", "dog"] * 3, strict=True):
        told = MADE.contributions(row, name)
        odds = sum(added for _, _, added in told)
        assert MADE.probabilities(row[None], [name]) == pytest.approx([1 / (1 + np.exp(-odds))])
        assert told[0] == (BASE, 1.0, 1.0 if name == "person" else -1.0)
        sizes = [abs(added) for _, _, added in told[1:]]
        assert sizes == sorted(sizes, reverse=True)
        values = {feature: value for feature, value, _ in told[1:]}
        assert values == {name: row[FEATURES.index(name)] for name in MADE.features}


@given(st.integers(0, 1000))
def test_a_row_alone_has_the_same_bits(seed: int) -> None:
    features = rows(9, seed)
    names = np.array(MADE.classes)[np.random.default_rng(seed).integers(0, 2, 9)]
    together = MADE.probabilities(features, names)
    alone = [MADE.probabilities(features[[at]], names[[at]])[0] for at in range(9)]
    assert together.tolist() == alone
    order = np.random.default_rng(seed).permutation(9)
    assert MADE.probabilities(features[order], names[order]).tolist() == together[order].tolist()


def test_without_an_answer_there_is_no_probability() -> None:
    row = rows(2)
    row[:, FEATURES.index("overlap_better")] = np.nan
    found = MADE.probabilities(row, ["person", "dog"])
    assert np.isnan(found[0])
    assert not np.isnan(found[1])  # which gives that feature no weight


@pytest.mark.parametrize(
    "numbers",
    [{"centres": (0.0, np.nan, 0.0)}, {"accept": {"dog": np.inf}}, {"fits": (MADE.fits[0],)}],
)
def test_numbers_that_cannot_be_used_are_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="this is no calibrator that can be used"):
        replace(MADE, **numbers)


def test_nothing_to_judge() -> None:
    assert MADE.probabilities(rows(0), []).shape == (0,)


def test_unknown_classes_and_features_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no class 'cat'; it knows 'person', 'dog'"):
        MADE.probabilities(rows(1), ["cat"])
    with pytest.raises(InvalidInput, match="no class 'cat'"):
        MADE.contributions(rows(1)[0], "cat")
    with pytest.raises(InvalidInput, match=f"expected {len(FEATURES)} features"):
        MADE.probabilities(rows(1)[:, 1:], ["dog"])
    with pytest.raises(InvalidInput, match="2 rows of features for 1 class names"):
        MADE.probabilities(rows(2), ["dog"])


class TestCheck:
    def test_its_own_models_and_some_of_its_classes(self) -> None:
        for ontology in (ONTOLOGY, Ontology((ClassSpec("dog"),))):
            assert fits(MADE, ontology, "boxes@1", "answers@2")
        assert fits(replace(MADE, proposer="", verifier=""), ONTOLOGY, "any@3", "")
        assert not fits(MADE, ONTOLOGY, "any@3", "answers@2")

    def test_another_class(self) -> None:
        with pytest.raises(InvalidInput, match=r"no class 'cat'.*--calibrator none"):
            MADE.check(Ontology((ClassSpec("cat"),)), "boxes@1", "answers@2")

    def test_another_question(self) -> None:
        asked = Ontology((ClassSpec("dog", question="Is this a red dog?"),))
        with pytest.raises(InvalidInput, match=r"'Is this a dog\?'.*'Is this a red dog\?'"):
            MADE.check(asked, "boxes@1", "answers@2")

    @pytest.mark.parametrize(
        ("models", "told"),
        [
            (("boxes@9", "answers@2"), "the proposer boxes@1, and this is boxes@9"),
            (("boxes@1", ""), "the verifier answers@2, and this is none"),
        ],
    )
    def test_other_models(self, models: tuple[str, str], told: str) -> None:
        with pytest.raises(BadSetting, match=told):
            MADE.check(ONTOLOGY, *models)


class TestJson:
    def test_it_is_what_it_was(self) -> None:
        again = Calibrator.from_json(MADE.to_json() + "\n")
        assert again == MADE
        assert again.digest == MADE.digest
        assert len(MADE.digest) == 64

    def test_equal_calibrators_have_equal_text(self) -> None:
        other = replace(MADE, accept={"person": 0.6, "dog": 0.9})
        assert other.to_json() == MADE.to_json()
        assert replace(MADE, answers=121).digest != MADE.digest

    def test_a_feature_of_later_versions_is_named(self) -> None:
        text = changed(features=["score", "p_yes", "student"])
        with pytest.raises(InvalidInput, match="it weighs 'student', and this version knows score"):
            Calibrator.from_json(text)

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("", "not JSON"),
            ("[]", "a JSON object with format 1"),
            ("[" * 100_000, "not JSON"),
            ('{"format": 2}', "another version may have made it"),
            (MADE.to_json().replace("0.25", "NaN"), "not JSON"),
            (MADE.to_json().replace("0.25", "1e999"), "up to a million"),
            (MADE.to_json().replace("0.25", "true"), "up to a million"),
            (MADE.to_json().replace("0.25", '"x"'), "up to a million"),
            (MADE.to_json().replace("0.25", "9" * 500), "up to a million"),
            (changed(features="score"), "'features' is not a list"),
            (changed(features=["score", "score", "p_yes"]), "twice"),
            (changed(centres=[0.0]), "expected 3 numbers a class"),
            (changed(centres=None), "a list of numbers is missing"),
            (changed(classes=[]), "'classes' is not an object"),
            (changed(classes={}), "0 fits for 0 classes"),
            (changed(classes={"a": 1}), "class 'a' is not an object"),
            (changed(classes={"a" * 121: {}}), "names of 120 characters"),
            (changed(classes={str(n): {} for n in range(MAX_CLASSES + 1)}), "at most 2000"),
            (changed(classes={"a": {"base": 0, "weights": [1]}}, accept={}), "expected 3 numbers"),
            (changed(accept={"dog": 1.5}), "not between 0 and 1"),
            (changed(accept={"cat": 0.5}), "a class that it has not"),
            (changed(answers=-1), "'answers' is not a number"),
            (changed(answers=True), "'answers' is not a number"),
            (changed(source=3), "'source' is not a text"),
            (changed(proposer="x" * 1001), "at most 1000 characters"),
            (" " * (16 * 2**20 + 1), "characters; at most"),
        ],
    )
    def test_damaged_or_hostile_text(self, text: str, told: str) -> None:
        with pytest.raises(InvalidInput, match=told):
            Calibrator.from_json(text)

    @given(st.integers(0, len(MADE.to_json()) - 1), st.characters())
    def test_any_damage_is_noticed_or_makes_another_one(self, at: int, character: str) -> None:
        text = MADE.to_json()
        text = text[:at] + character + text[at + 1 :]
        try:
            read = Calibrator.from_json(text)
        except InvalidInput:
            return
        assert Calibrator.from_json(read.to_json()) == read
        assert np.isfinite(read.probabilities(rows(2), [read.classes[0]] * 2)).all()


BEFORE = Calibrator(
    MADE.classes, ("score",), (0.5,), (ClassFit(1.0, (0.5,)), ClassFit(-1.0, (0.25,)))
)
BUDGET = VerifyBudget(0.4, 0.001, (0.1, 0.0), (0.9, 2.0))
ABLE = replace(MADE, before=BEFORE, budgets=(BUDGET, replace(BUDGET, share=0.6)))


def test_what_needs_no_answer_is_part_of_the_json() -> None:
    assert Calibrator.from_json(ABLE.to_json()) == ABLE
    assert ABLE.digest != MADE.digest
    assert "budgets" not in json.loads(MADE.to_json())  # the digest of before


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"before": None}, "expected a JSON object"),
        ({"before": json.loads(MADE.to_json())}, "weighs 'p_yes', which the verifier's answers"),
        ({"before": json.loads(ABLE.to_json())}, "it has 'budgets' and no 'before'"),
        ({"before": "[]"}, "expected a JSON object"),
        ({"budgets": {}}, "'budgets' is not a list of at most 100"),
        ({"budgets": [1]}, "a budget is not an object"),
        ({"budgets": [asdict(BUDGET)] * 101}, "at most 100"),
        ({"budgets": [asdict(BUDGET) | {"below": [0.1]}]}, "has not 2 limits"),
        ({"budgets": [asdict(BUDGET) | {"share": "x"}]}, "expected a number"),
        ({"budgets": [asdict(BUDGET), asdict(BUDGET) | {"share": 0.1}]}, "do not ascend"),
    ],
)
def test_budgets_that_cannot_be_used_are_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        Calibrator.from_json(json.dumps(json.loads(ABLE.to_json()) | change))


def test_budgets_without_a_calibrator_before_the_verifier_are_refused() -> None:
    with pytest.raises(InvalidInput, match="it has 'budgets' and no 'before'"):
        replace(MADE, budgets=(BUDGET,))
    with pytest.raises(InvalidInput, match="'before' is of other classes"):
        replace(ABLE, before=replace(BEFORE, classes=("dog", "person")))
