"""How uncertain a label is, by a method that asks more than the label's own probability."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class UncertaintyMethod(StrEnum):
    """Where an uncertainty comes from."""

    MONTE_CARLO = "monte-carlo"
    """The models were asked again: on other views of the image, and in other words."""
    COMMITTEE = "committee"
    """Proposer, verifier and a student that learnt from labels were compared."""
    DISTRIBUTION = "distribution"
    """A student's distribution over the places where each edge of the box may lie."""


@dataclass(frozen=True)
class LabelUncertainty:
    """The uncertainty of one judgement by one method."""

    method: str
    """An ``UncertaintyMethod``; a newer server may have others."""
    value: float
    """How far the method speaks against what the run decided, [0, 1]: see ``of``."""
    confidence: float
    """How far the method supports the label, [0, 1]. It orders; it is no probability."""
    reason: str
    """What was found, in a sentence."""
    figures: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """What was measured, by name; for instance four entropies, of the left, top, right and bottom
    edge."""

    @property
    def words(self) -> str:
        """``0.41 by committee: proposer 0.62, verifier 0.93, student 0.22``."""
        return f"{self.value:.2f} by {self.method}: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "method": str(self.method),
            "uncertainty": self.value,
            "confidence": self.confidence,
            "reason": self.reason,
            "figures": {name: list(values) for name, values in self.figures.items()},
        }
