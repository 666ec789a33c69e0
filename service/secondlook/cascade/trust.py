"""When a student may be believed without its teachers: a sequential rule, free of clock and I/O.

Three questions are asked all the time, of one stream of images.

*Where is it certain?* ``certainty`` learns that from every image that both sides have labelled.
What follows is about the images of which it is.

*Does it agree?* Each audit gives an agreement x in [0, 1]. ``Bets`` gambles against a claim about
its mean: with a stake s, capital is multiplied by 1 + s·(x − m), which on average gains nothing
while the mean is at most m, whatever the distribution and however one audit depends on those
before it. Starting again from 1 whenever less is left makes it an *e-detector* (Shin, Ramdas and
Rinaldo, arXiv 2203.03532): the expected number of audits until the capital reaches A, should the
claim be true, is at least A. A mean over several stakes is as safe, and near the best of them.
Trust is won when betting against "the mean agreement is at most ``agreement``" has made
``evidence`` and there were ``least_audits``; for 0.85 and 100 that takes 37 audits with perfect
agreement, some 55 at 0.95 and 110 at 0.9; at 0.85 at least 100, and below it hardly ever happens.
Trust is lost when betting against "it is at least ``agreement − slack``" has made
``counter_evidence``: three audits that disagree wholly, four at 0.5. The slack keeps a student at
the bound from flickering.

*Is it still the same scene?* At an audit share of 0.1, fifty images bring five audits: too few
to notice a change. ``Watch`` therefore follows numbers that cost no teacher (the agreement that
the student expects, how much it found, how sure it was, how light the image's parts are): a short
moving average of each against a long one, in units of how far the short one usually strays.
Measuring the spread of the very average that is tested takes care of frames that resemble the
ones before them. Beyond ``alarm`` units (of one number, or half of that of all together) everything
is audited until ``settled_after`` audits have been heard, with the new scene learned meanwhile, or
trust is lost.

A false alarm costs some tens of images for the teachers and nothing else. What neither notices:
a student that goes wrong in the same way as its teachers, and one that goes wrong while the
image and its own answers look as before, until the audits show it (at a share of 0.1 and
wholly wrong, 40 images on average).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook.cascade.threshold import Certainty
from secondlook.core.types import LabelPath

LEAST_AUDIT_SHARE = 0.02
"""Of the images that a trusted student is certain of; never less."""
_STAKES = np.array([0.1, 0.25, 0.5, 0.75, 1.0])
"""As shares of the greatest stake that cannot lose more than everything."""
_ENOUGH = 1e12
"""Capital is not counted beyond it."""


@dataclass(frozen=True)
class TrustRule:
    """The bounds of trust. Raises ``ValueError`` for one out of range."""

    audit_share: float = 0.1
    """Of what a trusted student is certain of, how much its teachers see too, [0.02, 1]."""
    agreement: float = 0.85
    """Trust wants a mean agreement above this, (0, 1)."""
    slack: float = 0.05
    """It is lost below ``agreement − slack``, which must be above 0."""
    least_audits: int = 30
    evidence: float = 100.0
    """Capital that wins trust, > 1: so many audits go by, at least, until it does so wrongly."""
    counter_evidence: float = 20.0
    """Capital that ends it, > 1. Less, because trust lost wrongly costs little."""
    alarm: float = 4.0
    """Usual deviations beyond which the scene has changed."""
    settled_after: int = 10
    """Audits heard before an alarm can end."""
    beside: float = 1.0
    """Share of images on which a student runs that is not trusted, so that it can be, (0, 1]."""

    def __post_init__(self) -> None:
        sound = {
            "audit_share": LEAST_AUDIT_SHARE <= self.audit_share <= 1,
            "agreement": 0 < self.agreement - self.slack <= self.agreement < 1,
            "evidence": self.evidence > 1,
            "counter_evidence": self.counter_evidence > 1,
            "beside": 0 < self.beside <= 1,
        }
        for name, fine in sound.items():
            if not fine:
                raise ValueError(f"{name} = {getattr(self, name)} is out of range")


class Bets:
    """Capital won by betting against a claim about the mean of numbers in [0, 1]."""

    def __init__(self, mean: float, *, claim: str) -> None:
        """The ``claim`` is that the mean is "at most" or "at least" ``mean``, in (0, 1)."""
        self._mean = mean
        self._sign = 1.0 if claim == "at most" else -1.0
        self._stakes = _STAKES / (mean if claim == "at most" else 1 - mean)
        self._capital: NDArray[np.float64] = np.ones_like(_STAKES)
        self.heard = 0

    def hear(self, x: float) -> None:
        """One more number, [0, 1]."""
        gain = 1 + self._stakes * self._sign * (x - self._mean)
        self._capital = np.minimum(np.maximum(self._capital, 1) * gain, _ENOUGH)
        self.heard += 1

    @property
    def evidence(self) -> float:
        """The capital now."""
        return float(self._capital.mean())


class Watch:
    """Notices when numbers leave the range that they usually keep.

    Before ``LEARN`` rows were seen it notices nothing.
    """

    LEARN = 30
    SHORT, LONG = 1 / 8, 1 / 400
    """Weights of a new row in the short and in the long average."""
    ADAPT = 1 / 20
    """In place of ``LONG`` while a change is being looked into."""
    TOGETHER = 2.0
    """How many times as strange it is when all numbers stray alike as when one does."""

    def __init__(self, floors: Sequence[float]) -> None:
        """``floors`` > 0: by how much each number may stray at least without being strange."""
        self._floors = np.asarray(floors, dtype=np.float64)
        self._short = np.zeros_like(self._floors)
        self._long = np.zeros_like(self._floors)
        self._spread = np.zeros_like(self._floors)
        self.seen = 0

    def see(self, row: Sequence[float], adapt: bool = False) -> float:
        """How strange things have become with this row, in usual deviations, ≥ 0.

        ``adapt`` learns the row quickly: what is looked into becomes what is usual.
        """
        self.seen += 1
        first = 1 / self.seen
        if self.seen == 1:  # the first row is no surprise
            self._long = np.array(row, dtype=np.float64)
        self._short += max(first, self.SHORT) * (np.asarray(row) - self._short)
        strays = self._short - self._long
        usual = np.sqrt(self._spread + self._floors**2)
        weight = max(first, self.ADAPT if adapt else self.LONG)
        self._long += weight * strays
        self._spread += weight * (strays**2 - self._spread)
        if self.seen <= self.LEARN:
            return 0.0
        odd = np.abs(strays) / usual
        return float(max(odd.max(), self.TOGETHER * np.sqrt((odd**2).mean())))


class Trust:
    """How far one student is believed on one stream of images. Not thread-safe.

    For each image ask ``wanted``; where it is, run the student and ask ``route``; tell ``heard``
    the agreement of each image that the teachers labelled in the end.
    """

    def __init__(self, rule: TrustRule, floors: Sequence[float], seed: int | str = 0) -> None:
        """``floors`` are for the numbers that ``route`` will be given; see ``Watch``."""
        self.rule = rule
        self._floors = tuple(floors)
        self._draw = random.Random(seed)  # audits are a sample, not a secret
        self._begin()

    def _begin(self) -> None:
        """Nothing is known of the student, now or again."""
        self.trusted = False
        self.alarmed = False
        """Whether everything is audited because the scene seems to have changed."""
        self._settling = 0
        """Audits heard since the last alarm."""
        self._watch = Watch(self._floors)
        self._certainty = Certainty(self.rule.agreement)
        self._for, self._against = self._hopes(), self._doubts()

    @property
    def teachers_are_back(self) -> bool:
        """Whether the student decides nothing alone at present."""
        return self.alarmed or not self.trusted or self._certainty.bound is None

    def wanted(self) -> bool:
        """Whether the student shall run on the next image."""
        return self.trusted or self._draw.random() < self.rule.beside

    def route(self, expected: float, numbers: Sequence[float]) -> LabelPath:
        """Who labels an image on which the student ran.

        ``expected``: the agreement that the student expects of its labels, [0, 1]. ``numbers``:
        what is watched of the image.
        """
        strange = self._watch.see(numbers, adapt=self.alarmed)
        if self.trusted and strange > self.rule.alarm:
            self.alarmed, self._settling = True, 0
        elif self.alarmed and self._settling >= self.rule.settled_after:
            self.alarmed = False
        if not self._certainty.holds(expected):
            return LabelPath.TEACHERS
        if self.teachers_are_back or self._draw.random() < self.rule.audit_share:
            return LabelPath.AUDIT
        return LabelPath.STUDENT

    def heard(self, path: LabelPath, expected: float, agreement: float) -> None:
        """The teachers labelled an image, too, and the student's labels agree so far, [0, 1].

        ``path`` is how it was routed. What the student was not certain of says nothing for or
        against trust, but from where on it may be certain.
        """
        alone = path is LabelPath.AUDIT and not self.teachers_are_back
        self._certainty.hear(expected, agreement, 1 / self.rule.audit_share if alone else 1.0)
        if path is LabelPath.AUDIT:
            self._audited(agreement)

    def _audited(self, agreement: float) -> None:
        self._settling += 1
        self._for.hear(agreement)
        if not self.trusted:
            convinced = self._for.evidence >= self.rule.evidence
            if convinced and self._for.heard >= self.rule.least_audits:
                self.trusted = True
                self._against = self._doubts()
            return
        self._against.hear(agreement)
        if self._against.evidence >= self.rule.counter_evidence:
            self._begin()

    def _hopes(self) -> Bets:
        return Bets(self.rule.agreement, claim="at most")

    def _doubts(self) -> Bets:
        return Bets(self.rule.agreement - self.rule.slack, claim="at least")
