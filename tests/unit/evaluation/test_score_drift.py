"""Scores that drift raise the share of checks, and lower it again; nothing else."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from secondlook.evaluation.precision_monitor import DRIFT_RAISED, RATE, Check, PrecisionMonitor
from secondlook.evaluation.score_drift import (
    CHECKS_LOWERED,
    CHECKS_RAISED,
    DRIFT_CHECKS,
    FEWEST,
    REST_CHECKS,
    ScoreDrift,
    Values,
    reference_of,
    values_of,
)
from secondlook_client.errors import InvalidInput
from secondlook_client.ontology import View
from secondlook_client.values import Answer, Decision, Judgement, Outcome, Verdict

BOXES = 5


def images(level: float, count: int, seed: int = 0) -> Iterator[Values]:
    """Images whose scores are about ``level``, and of which nine in ten boxes are accepted."""
    draws = np.random.default_rng(seed)
    for _ in range(count):
        scores = draws.beta(40 * level, 40 * (1 - level), (3, BOXES))
        accepted = (draws.random(BOXES) < 0.9).astype(float)
        yield (*(tuple(row.tolist()) for row in scores), tuple(accepted.tolist()))


def drift(level: float = 0.9, count: int = 400) -> ScoreDrift:
    reference = reference_of([list(images(level, count))])
    assert reference is not None
    return ScoreDrift(reference)


def follow(
    found: ScoreDrift, monitor: PrecisionMonitor, some: Iterator[Values]
) -> list[tuple[int, str]]:
    """What became of the share, by image."""
    told = []
    for number, values in enumerate(some):
        monitor.draw(f"{monitor.accepted}", BOXES)
        kind, why = found.follow(values, monitor)
        assert bool(kind) == bool(why)
        told += [(number, kind)] if kind else []
    return told


def test_scores_like_those_of_the_population_raise_nothing() -> None:
    assert follow(drift(), PrecisionMonitor(0.95), images(0.9, 1500, seed=1)) == []


def test_other_scores_raise_the_share_until_they_are_checked_and_are_normal_then() -> None:
    found, monitor = drift(), PrecisionMonitor(0.95)
    (raised, up), (lowered, down) = follow(found, monitor, images(0.75, 1000, seed=2))
    assert (up, down) == (CHECKS_RAISED, CHECKS_LOWERED) and raised < 60 < lowered
    assert DRIFT_CHECKS < monitor.drawn < 3 * DRIFT_CHECKS and monitor.rate == RATE
    assert follow(found, monitor, images(0.9, 300, seed=3)) == []  # and the first are, still
    assert follow(found, monitor, images(0.75, 300, seed=4)) == []
    while monitor.drawn < 3 * DRIFT_CHECKS + REST_CHECKS:
        monitor.draw(f"{monitor.accepted}", BOXES)
    assert follow(found, monitor, images(0.5, 100, seed=5))[0][1] == CHECKS_RAISED


def test_it_rests_after_a_raise() -> None:
    found, monitor = drift(), PrecisionMonitor(0.95)
    assert len(follow(found, monitor, images(0.75, 1000, seed=2))) == 2
    drawn = monitor.drawn
    while monitor.drawn < drawn + REST_CHECKS // 2:
        assert follow(found, monitor, images(0.5, 20)) == []


def test_what_it_says_names_the_signal_and_how_far_it_strayed() -> None:
    found = drift()
    assert found.sentence == ""
    for values in images(0.9, 200, seed=1):
        found.update((*values[:3], (0.0,) * BOXES))  # much less is accepted
    assert found.sentence.startswith("the share accepted is not distributed as in the run of the")
    assert "differs by 0.8" in found.sentence or "differs by 0.9" in found.sentence
    monitor = PrecisionMonitor(0.95)
    kind, why = found.follow(next(images(0.9, 1)), monitor)
    assert (kind, why) == (CHECKS_RAISED, found.raised)
    assert monitor.rate == RATE * DRIFT_RAISED


def test_suspicious_scores_never_become_normal() -> None:
    found, monitor = drift(), PrecisionMonitor(0.95)
    assert follow(found, monitor, images(0.75, 60, seed=2))[0][1] == CHECKS_RAISED
    for _ in range(3):
        monitor.observe(Check(0, RATE), right=False)
    assert monitor.is_suspicious
    assert follow(found, monitor, images(0.75, 1000, seed=3)) == [] and found.raised
    for _ in range(100):
        monitor.observe(Check(0, RATE), right=True)
    assert follow(found, monitor, images(0.75, 3, seed=4)) == [(0, CHECKS_LOWERED)]


def test_a_population_whose_stretches_differ_lets_scores_stray_as_far() -> None:
    calm = reference_of([list(images(0.9, 200)), list(images(0.9, 200, seed=1))])
    mixed = reference_of([list(images(0.95, 200)), list(images(0.8, 200, seed=1))])
    assert calm is not None and mixed is not None
    assert (mixed.limits[:3] > 3 * calm.limits[:3]).all()
    night = ScoreDrift(mixed)
    assert follow(night, PrecisionMonitor(0.95), images(0.8, 500, seed=2)) == []


def test_few_images_say_nothing_of_how_far_scores_stray() -> None:
    assert reference_of([list(images(0.9, FEWEST - 1))]) is None
    assert reference_of([[((), (), (), ())] * FEWEST]) is None
    assert reference_of([]) is None


def test_scores_without_a_spread_or_a_verifier() -> None:
    same: Values = ((0.99,), (), (0.8,), (1.0,))
    reference = reference_of([[same] * FEWEST])
    assert reference is not None
    for strange in (((0.98,), (), (0.8,), (1.0,)), ((0.99,), (), (0.9,), (1.0,))):
        found = ScoreDrift(reference)
        for _ in range(50):
            found.update(same)
        assert found.sentence == ""
        for _ in range(50):
            found.update(strange)
        assert "differs by 0.6" in found.sentence


def test_the_signals_of_an_image() -> None:
    def one(outcome: Outcome, p_yes: float | None = 0.8, place: int = -1) -> Judgement:
        verdict = Verdict("Dog?", View.CROP, Answer(p_yes, "yes"), "v", 1.0)
        box = (0.0, 0.0, 1.0, 1.0)
        return Judgement("dog", box, 0.7, verdict, Decision(outcome, 0.9, ""), place)

    kinds = Outcome.ACCEPT, Outcome.UNSURE, Outcome.REJECT
    accepted = dataclasses.replace(one(Outcome.ACCEPT), verdict=None)
    found = values_of([*map(one, kinds), accepted, one(Outcome.ACCEPT, None)])
    assert found == ((0.9,) * 3, (0.8,), (0.7,) * 3, (1.0, 0.0, 1.0, 1.0))


def test_another_process_goes_on_where_it_was() -> None:
    found, monitor = drift(), PrecisionMonitor(0.95)
    follow(found, monitor, images(0.75, 700, seed=2))
    again = ScoreDrift.from_json(found.to_json())
    twin = PrecisionMonitor.from_json(monitor.to_json())
    some = list(images(0.6, 800, seed=3))
    assert follow(found, monitor, iter(some)) == follow(again, twin, iter(some))
    assert again.to_json() == found.to_json() and len(found.to_json()) < 10_000


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{", "["),
        ('"sizes": [', '"sizes": [7, '),
        ('"limits": [0.', '"limits": [7.'),
        ('"normal": [[', '"normal": [[7, '),
        ('"normal": [', '"normal": [[],'),
        ('"rests": 0', '"rests": null'),
        ('"sums"', '"other"'),
        ("{", " " * 60_000 + "{"),
    ],
)
def test_other_text_is_not_a_drift(old: str, new: str) -> None:
    text = drift().to_json()
    assert old in text
    with pytest.raises(InvalidInput, match="this is not the state of a drift"):
        ScoreDrift.from_json(text.replace(old, new, 1))
