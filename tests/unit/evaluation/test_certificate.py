import json
from dataclasses import replace

import pytest

from secondlook.evaluation.certificate import Certificate, digest_of_answers
from secondlook.evaluation.guarantee import Guaranteed, Promise, Terms
from secondlook_client.errors import InvalidInput
from secondlook_client.values import ReviewAnswer

CERTIFICATE = Certificate(
    name="street",
    run="night",
    population="labels of run night",
    images=200,
    boxes=2400,
    scenes=190,
    terms=Terms(0.95, 0.9, 100, Promise.RUN),
    results=(
        Guaranteed("dog", 0.8, "of this run …", 90, 0.7, 0.96, 0.9, 100, 2, 1),
        Guaranteed("cat", None, "too few", more_answers=80),
    ),
    calibrator="ab" * 32,
    seed=7,
    sample="cd" * 32,
    answers="ef" * 32,
    created_at=1.5,
    history=({"kind": "broken", "at": 2.0},),
)
TEXT = CERTIFICATE.to_json()


def test_a_certificate_survives_json() -> None:
    again = Certificate.from_json(TEXT)
    assert again == CERTIFICATE
    assert again.to_json() == TEXT
    assert again.holds
    assert again.thresholds == {"dog": 0.8}
    assert any("Missed objects" in line for line in again.not_guaranteed)


def test_one_that_guarantees_nothing_says_so() -> None:
    assert not replace(CERTIFICATE, results=CERTIFICATE.results[1:]).holds


def changed(**fields: object) -> str:
    return json.dumps({**json.loads(TEXT), **fields})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (TEXT.replace("2400", "NaN"), "not JSON"),
        ("{}", "format 1"),
        (changed(format=2), "format 1"),
        (changed(extra=1), "'extra' is unknown"),
        (json.dumps({k: v for k, v in json.loads(TEXT).items() if k != "run"}), "'run' is missing"),
        (changed(name=3), "'name' is of another kind"),
        (changed(seed=True), "'seed' is of another kind"),
        (changed(boxes=-1), "out of range"),
        (changed(created_at=10**400), "not finite"),
        (changed(name="x" * 5000), "more than 4000 characters"),
        (changed(terms=None), "is missing"),
        (changed(terms={"target": 1.0}), "expected a precision"),
        (changed(terms={"promise": "all"}), "'promise' is of another kind"),
        (changed(results=[]), "one result a class"),
        (changed(results=[{"class_name": "dog", "threshold": 7, "reason": ""}]), "between 0 and 1"),
        (changed(results=["dog"]), "of another kind"),
        (changed(results={}), "not a list"),
        (changed(history=["x"]), "of another kind"),
        (" " * 9_000_000, "at most"),
    ],
)
def test_other_text_is_not_a_certificate(text: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        Certificate.from_json(text)


def test_the_digest_of_answers_depends_on_each_of_them() -> None:
    answers = {3: ReviewAnswer.RIGHT, 5: ReviewAnswer.WRONG, 9: ReviewAnswer.RIGHT}
    digest = digest_of_answers([3, 5], answers)
    assert digest == digest_of_answers([3, 5], {3: ReviewAnswer.RIGHT, 5: ReviewAnswer.WRONG})
    assert digest != digest_of_answers([3, 5], answers | {5: ReviewAnswer.UNSURE})
    assert digest != digest_of_answers([3], answers)
