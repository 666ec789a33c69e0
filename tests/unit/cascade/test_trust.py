"""Simulated streams: one row of features and one agreement per image, seeds fixed."""

from dataclasses import dataclass

import numpy as np
import pytest

from secondlook.cascade.trust import DriftDetector, Trust
from secondlook.config.settings import CascadeSettings
from secondlook_client.errors import BadSetting
from secondlook_client.values import LabelPath

TOLERANCES = (0.05, 0.1, 0.03, *(0.02,) * 12)
"""As ``student.FEATURE_TOLERANCES``: expected agreement, boxes, mean probability, brightness."""


class Scene:
    """A camera's stream: what is seen changes slowly, and now and then the student is in doubt."""

    def __init__(self, seed: int, agreement: float = 0.97, doubt: float = 0.03) -> None:
        """``agreement``: the mean of audits. ``doubt``: how often some frames of doubt begin."""
        self.rng = np.random.default_rng(seed)
        self.agreement, self.doubt = agreement, doubt
        self.things, self.in_doubt = 4.0, 0
        self.light = self.rng.uniform(0.3, 0.6, 12)
        self.clouds = np.zeros(12)

    def change(self, agreement: float, doubt: float = 0.15) -> None:
        """Another place: other light, and a student that knows it less."""
        self.light = self.light + self.rng.normal(0, 0.1, 12)
        self.agreement, self.doubt = agreement, doubt

    def frame(self) -> tuple[float, list[float]]:
        """(expected agreement, features) of the next frame."""
        rng = self.rng
        self.things += 0.1 * (4 - self.things) + rng.normal(0, 0.5)
        self.clouds = 0.95 * self.clouds + rng.normal(0, 0.004, 12)
        self.in_doubt = max(0, self.in_doubt - 1)
        if not self.in_doubt and rng.random() < self.doubt:
            self.in_doubt = int(rng.integers(2, 8))
        found = float(np.log1p(max(self.things, 0)))
        expected = 0.7 if self.in_doubt else 0.97
        row = [expected, found, 0.95 - 0.02 * rng.random()]
        return expected, row + (self.light + self.clouds).tolist()

    def compared(self) -> float:
        """How far both agree on it; what the student doubts it gets wrong more often."""
        mean = min(self.agreement, 0.7) if self.in_doubt else self.agreement
        return float(np.clip(1 - self.rng.exponential(1 - mean), 0, 1))


@dataclass
class Story:
    """What became of each frame."""

    paths: list[LabelPath]
    back: list[bool]
    """Whether the teachers labelled everything at that time."""

    def share_of_teachers(self, start: int, end: int) -> float:
        """Share of the frames that needed the teachers."""
        some = self.paths[start:end]
        return sum(path is not LabelPath.STUDENT for path in some) / len(some)


def play(trust: Trust, scene: Scene, frames: int, story: Story | None = None) -> Story:
    story = story or Story([], [])
    for _ in range(frames):
        path = LabelPath.TEACHERS
        expected, features = scene.frame()
        if trust.should_run():
            path = trust.route(expected, features)
        story.paths.append(path)
        story.back.append(trust.teachers_label_all)
        if path is not LabelPath.STUDENT:
            trust.observe(path, expected, scene.compared())
    return story


def trust(seed: int = 0, **settings: float) -> Trust:
    """One that asks for an agreement of 0.9."""
    return Trust(CascadeSettings(**{"agreement": 0.9, **settings}), TOLERANCES, seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(4))
def test_a_stable_stream_is_soon_left_to_the_student(seed: int) -> None:
    story = play(trust(seed), Scene(seed), 3000)
    assert story.share_of_teachers(0, 30) == 1.0
    assert story.share_of_teachers(0, 3000) <= 0.3
    assert story.share_of_teachers(2000, 3000) <= 0.3


def test_after_a_sudden_change_the_teachers_label_all_within_50_frames() -> None:
    waited = []
    for seed in range(20):
        one, scene = trust(seed), Scene(seed)
        play(one, scene, 1200)
        scene.change(agreement=0.4)
        waited.append(play(one, scene, 200).back.index(True))
    assert max(waited) <= 50
    assert np.median(waited) <= 10


def test_the_teachers_stay_while_the_student_is_wrong() -> None:
    one, scene = trust(), Scene(0)
    play(one, scene, 1200)
    assert not one.teachers_label_all
    scene.change(agreement=0.4)
    story = play(one, scene, 1500)
    assert one.teachers_label_all
    assert story.share_of_teachers(50, 1500) == 1.0


def test_a_change_that_the_student_masters_costs_some_audits_and_no_trust() -> None:
    one, scene = trust(), Scene(1)
    play(one, scene, 1200)
    scene.change(agreement=0.97, doubt=0.03)
    story = play(one, scene, 600)
    assert any(story.back[:50])
    assert story.share_of_teachers(100, 600) <= 0.35


def test_slow_decay_is_noticed_by_audits_alone() -> None:
    lost = []
    for seed in range(8):
        one, scene = trust(seed), Scene(seed)
        play(one, scene, 1000)
        fall = np.linspace(0.97, 0.6, 1000)
        for frame, agreement in enumerate(fall):
            scene.agreement = float(agreement)
            play(one, scene, 1)
            if one.teachers_label_all and not one.drifted:
                lost.append(fall[frame])
                break
    assert len(lost) == 8
    assert max(lost) < 0.85
    assert np.median(lost) >= 0.72


def test_a_student_that_recovers_is_trusted_again() -> None:
    one, scene = trust(), Scene(3, agreement=0.5)
    assert play(one, scene, 1000).share_of_teachers(0, 1000) == 1.0
    scene.agreement = 0.97
    assert play(one, scene, 1000).share_of_teachers(500, 1000) <= 0.3


@pytest.mark.parametrize("agreement", [0.0, 0.5, 0.8, 0.87])
def test_a_bad_student_is_never_trusted(agreement: float) -> None:
    for seed in range(5):
        one = trust(seed)
        draws = np.random.default_rng(seed)
        for _ in range(3000):
            agreed = float(np.clip(1 - draws.exponential(1 - agreement), 0, 1))
            one.observe(LabelPath.AUDIT, 0.95, agreed)
            assert not one.trusted


def test_audits_never_stop() -> None:
    one, scene = trust(audit_share=0.02), Scene(0, agreement=1.0, doubt=0.0)
    paths = play(one, scene, 10_000).paths[1000:]
    audits = np.flatnonzero([path is LabelPath.AUDIT for path in paths])
    assert 0.015 <= len(audits) / len(paths) <= 0.06
    assert np.diff(audits).max() < 500


def test_the_same_seed_audits_the_same_images() -> None:
    def paths(seed: int) -> list[LabelPath]:
        return play(trust(seed), Scene(0), 400).paths

    assert paths(1) == paths(1) != paths(2)


def test_an_untrusted_student_runs_on_its_shadow_share() -> None:
    one = trust(shadow_share=0.25)
    assert 200 < sum(one.should_run() for _ in range(1000)) < 300
    one.trusted = True
    assert all(one.should_run() for _ in range(100))


def test_few_audits_win_no_trust_and_few_errors_lose_none() -> None:
    one = trust()
    for _ in range(29):
        one.observe(LabelPath.AUDIT, 1.0, 1.0)
    assert not one.trusted
    for _ in range(60):
        one.observe(LabelPath.AUDIT, 1.0, 1.0)
    assert one.trusted
    for agreement in (0.0, 0.0):
        one.observe(LabelPath.AUDIT, 1.0, agreement)
        assert one.trusted
    one.observe(LabelPath.AUDIT, 1.0, 0.0)
    assert not one.trusted


def test_an_audit_of_a_trusted_student_is_weighted_by_those_not_sampled() -> None:
    one, calm = trust(audit_share=0.1), [0.0] * len(TOLERANCES)
    for _ in range(60):
        one.observe(LabelPath.AUDIT, 0.97, 1.0)
    assert one.trusted
    for _ in range(12):  # of some 120 images: with the 60 a mean below what is asked
        one.observe(LabelPath.AUDIT, 0.95, 0.8)
    assert one.trusted
    assert one.route(0.95, calm) is LabelPath.TEACHERS
    assert one.route(0.97, calm) is not LabelPath.TEACHERS


def test_a_drift_detector_warms_up_and_tells_change_from_noise() -> None:
    draws, detector = np.random.default_rng(0), DriftDetector([0.05] * 12)
    early = [detector.update(draws.normal(size=12).tolist()) for _ in range(DriftDetector.WARM_UP)]
    assert early == [0.0] * DriftDetector.WARM_UP
    usual = [detector.update(draws.normal(size=12).tolist()) for _ in range(1000)]
    assert np.quantile(usual, 0.99) < 4
    one = [0.0] * 11 + [3.0]
    assert max(detector.update((draws.normal(size=12) + one).tolist()) for _ in range(20)) > 4


def test_a_drift_detector_that_adapts_learns_the_new_scene() -> None:
    draws, detector = np.random.default_rng(0), DriftDetector([0.05])
    for level, adapt in ((0.0, False), (3.0, True)):
        for _ in range(200):
            detector.update([level + float(draws.normal())], adapt)
    assert detector.update([3.0]) < 2
    assert max(detector.update([0.0]) for _ in range(20)) > 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"audit_share": 0.0},
        {"audit_share": 1.1},
        {"agreement": 1.0},
        {"agreement": 0.04},
        {"shadow_share": 0.0},
    ],
)
def test_bounds_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadSetting, match="expected a number from"):
        CascadeSettings(**wrong)  # type: ignore[arg-type]
