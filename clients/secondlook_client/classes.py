"""What to look for."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ClassSpec:
    """One class of an ontology; what is left out, the server fills in as it says here.

    The server checks it: a call with a class that makes no sense raises ``BadOntology``.
    """

    name: str
    phrases: Sequence[str] = ()
    """Given to the proposer; the class's score is the best of them. Default: the name."""
    question: str = ""
    """Closed question for the verifier. Default: "Is this a <name>?"."""
    view: str = "crop"
    """What the verifier is shown: ``crop``, ``context`` or ``image``."""
    group: str = ""
    """Contrast group: at most one of its classes is accepted for one box."""
    threshold: float | None = None
    """Proposer score below which the question is not asked, [0, 1]. Default: 0.25."""
    accept: float | None = None
    """P(yes) from which a box is accepted, [0, 1]. Default: 0.6."""
    reject: float | None = None
    """P(yes) up to which a box is rejected, [0, 1]. Default: 0.4."""


Classes = Sequence[str | ClassSpec]
"""Classes in order; a string is a class with that name."""
