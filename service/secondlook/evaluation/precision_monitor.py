"""Whether a guaranteed precision still holds: a trickle of random checks that never ends.

Of the boxes that are accepted under a guarantee a few are drawn at random and checked by a person.
``core.sequential_test`` bets against the claim that the precision is at least the target, and says
so when it no longer is. Of a frame (of any scene, should the caller pass larger ones) one box is
checked at most: several boxes of one frame can be wrong for one reason, and the test may not count
that reason twice.

*Few checks, and soon enough.* A trickle of ``RATE`` alone is too slow: at 0.02 a fall from 0.97 to
0.8 is noticed after 350 frames with 5 boxes each. So the trickle is raised tenfold as long as there
is any suspicion, that is, evidence of ``SUSPICION``: in a good stream that is rare and short, and
costs a fifth more checks; after a fall the first errors bring the checks that prove it. Signs of
another scene that need no person (``evaluation.score_drift``) raise it fivefold
(``raise_trickle``), until a number of checks is drawn, so that what they cost is bounded; that
there are none never lowers it.

*Why a share that changes keeps the test valid.* Let frame t have n boxes, k of them right, and let
F be everything before it: earlier frames and their scores, which of their boxes were right, and the
answers. The claim is that E[k | F] ≥ target · E[n | F], frame by frame. The share r is a function
of F alone, never of frame t's own scores; the frame is checked with probability r·n, and the
checked box is any of the n with the same probability. So the answer to a check is right with
probability E[r·n · k/n | F] / E[r·n | F] = E[k | F] / E[n | F] ≥ target: r cancels, whatever it is
and however it came about. (Where r·n exceeds 1, frames with so many boxes count less.) Each bet
then gains nothing on average, and a false alarm takes ``EVIDENCE`` checks on average, at least. A
greater share makes alarms more frequent by the frame, never by the check; so a raise has an end.

*False alarms.* The claim's bound is the target itself, so a stream exactly at the target is the
worst case. ``EVIDENCE`` makes an alarm there rarer than one in ten streams of 5,000 frames with
5 boxes each, by simulation (``bench.guarantee``), also where drift raises the share at times.
A stream that is two points better had none in 300.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace

from secondlook.core.sequential_test import SequentialTest
from secondlook_client.errors import InvalidInput

RATE = 0.02
"""Share of the accepted boxes that is checked."""
RAISED = 10.0
"""Factor on it under suspicion."""
DRIFT_RAISED = 5.0
"""Factor on it while scores have drifted, and nothing is suspicious yet."""
SUSPICION = 1.5
"""Evidence from which the trickle is raised."""
EVIDENCE = 500.0
"""Evidence from which the guarantee no longer holds."""
STAKES = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Smaller than for means in the middle of [0, 1]: errors are rare."""
FORMAT = 1
MAX_TEXT = 10_000


@dataclass(frozen=True)
class Check:
    """A box that a person should check."""

    box: int
    """Its place among the accepted boxes of the frame."""
    chance: float
    """With which each box of the frame was drawn, (0, 1]."""


@dataclass(frozen=True)
class _State:
    """All that a monitor knows."""

    target: float
    rate: float
    seed: str
    evidence: tuple[float, ...] = (1.0,) * len(STAKES)
    accepted: int = 0
    drawn: int = 0
    checked: int = 0
    wrong: int = 0
    weight: float = 0.0
    """Boxes that the checked ones stand for."""
    weight_wrong: float = 0.0
    raised_until: int = 0
    """Number of drawn checks up to which the trickle is raised."""
    broken: bool = False


class PrecisionMonitor:
    """Draws checks among the accepted boxes of a stream and tests their answers. Not thread-safe.

    For each frame call ``draw``; hand the check to a person, and pass the answer to ``observe``
    whenever it comes. ``to_json`` keeps everything, so that another process can go on.
    """

    def __init__(self, target: float, *, rate: float = RATE, seed: str = "") -> None:
        """``target``: the guaranteed precision, (0, 1). ``rate``: the share of the accepted boxes
        that is checked, (0, 1]. ``seed``: another for each stream. Raises ``InvalidInput``."""
        self._state = _State(target, rate, seed)
        self._test = _test_of(self._state)
        self._evidence = 1.0

    @property
    def holds(self) -> bool:
        """Whether the guarantee still stands; once it does not, it stays so."""
        return not self._state.broken

    @property
    def evidence(self) -> float:
        """Against the claim that the precision is at least the target, ≥ 0; 1 at the start."""
        return self._evidence

    @property
    def accepted(self) -> int:
        """Boxes accepted so far."""
        return self._state.accepted

    @property
    def checked(self) -> int:
        """Answers so far."""
        return self._state.checked

    @property
    def wrong(self) -> int:
        """Of these wrong."""
        return self._state.wrong

    @property
    def drawn(self) -> int:
        """Checks so far, those without an answer too."""
        return self._state.drawn

    @property
    def precision(self) -> float | None:
        """Estimate for everything that was accepted, each answer weighted by how many boxes it
        stands for; None before the first answer."""
        state = self._state
        return 1 - state.weight_wrong / state.weight if state.weight else None

    @property
    def rate(self) -> float:
        """Share of the accepted boxes that is checked at present."""
        factor = DRIFT_RAISED if self.is_raised else 1.0
        return min(1.0, self._state.rate * (RAISED if self.is_suspicious else factor))

    @property
    def is_suspicious(self) -> bool:
        """Whether the answers are some evidence against the guarantee."""
        return self.evidence >= SUSPICION

    @property
    def is_raised(self) -> bool:
        """Whether ``raise_trickle`` is in force."""
        return self._state.drawn < self._state.raised_until

    def raise_trickle(self, checks: int) -> None:
        """Check more until so many more ``checks`` are drawn, as the scene seems to have changed.

        What the caller decides this by must be known before the frames that are drawn from next.
        """
        until = max(self._state.raised_until, self._state.drawn + checks)
        self._state = replace(self._state, raised_until=until)

    def draw(self, frame: int | str, boxes: int) -> Check | None:
        """What to check of a ``frame`` (any name, unique in the stream) with accepted ``boxes``."""
        state = self._state
        chance = min(1.0, self.rate * boxes)
        # A hash: the same in every version of Python, whoever goes on with the stream.
        chosen = hashlib.blake2b(f"{state.seed}/{frame}".encode(), digest_size=16).digest()
        drawn = int.from_bytes(chosen[:8], "big") < chance * 2**64
        self._state = replace(state, accepted=state.accepted + boxes, drawn=state.drawn + drawn)
        if not drawn:
            return None
        return Check(int.from_bytes(chosen[8:], "big") % boxes, chance / boxes)

    def observe(self, check: Check, right: bool) -> bool:
        """The answer to a check; an unsure one is not right. Whether the guarantee holds."""
        state, weight = self._state, 1 / check.chance
        self._test.update(float(right))
        self._evidence = self._test.evidence
        self._state = replace(
            state,
            evidence=tuple(self._test.state),
            checked=state.checked + 1,
            wrong=state.wrong + (not right),
            weight=state.weight + weight,
            weight_wrong=state.weight_wrong + (0 if right else weight),
            broken=state.broken or self._evidence >= EVIDENCE,
        )
        return self.holds

    def to_json(self) -> str:
        """Everything that it knows."""
        return json.dumps({"format": FORMAT, **asdict(self._state)}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "PrecisionMonitor":
        """The inverse of ``to_json``. Raises ``InvalidInput`` for anything else."""
        try:
            told = json.loads(text) if len(text) <= MAX_TEXT else None
            if not isinstance(told, dict) or told.pop("format", None) != FORMAT:
                raise ValueError("of another format")
            state = _State(**{**told, "evidence": tuple(map(float, told["evidence"]))})
            made = cls(state.target, rate=state.rate, seed=state.seed)
            made._state, made._test = state, _test_of(state)
            made._evidence = made._test.evidence
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as cause:
            raise InvalidInput(f"this is not the state of a monitor ({cause!s:.100})") from None
        return made


def _test_of(state: _State) -> SequentialTest:
    if not 0 < state.target < 1:
        raise InvalidInput(f"expected a precision between 0 and 1, got {state.target}")
    if not 0 < state.rate <= 1:
        raise InvalidInput(f"expected a share of checks between 0 and 1, got {state.rate}")
    counts = (state.accepted, state.drawn, state.checked, state.wrong, state.raised_until)
    sizes = (*counts, state.weight, state.weight_wrong, *state.evidence)
    if len(state.evidence) != len(STAKES) or not all(0 <= n < math.inf for n in sizes):
        raise InvalidInput("expected numbers from 0 on in the state of a monitor")
    if not all(isinstance(n, int) for n in counts) or not isinstance(state.broken, bool):
        raise InvalidInput("expected whole numbers of boxes in the state of a monitor")
    if not isinstance(state.seed, str):
        raise InvalidInput("expected a text as the seed of a monitor")
    return SequentialTest(state.target, claim="at least", stakes=STAKES, evidence=state.evidence)
