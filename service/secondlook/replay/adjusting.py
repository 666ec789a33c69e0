"""An ontology with other thresholds, or fewer classes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from secondlook.errors import BadOntology
from secondlook.ontology import Ontology

EVERY = ""
"""Stands for every class that is not named itself."""


def adjusted(
    ontology: Ontology, changes: Mapping[str, Mapping[str, float]], only: Sequence[str] = ()
) -> Ontology:
    """``ontology`` with other numbers.

    ``changes`` are values by class name (or ``EVERY``) by field: ``threshold``, ``accept``,
    ``reject``. ``only`` keeps these classes; a contrast group of which one is left is none any
    more. Raises ``BadOntology`` for an unknown class or numbers that contradict each other.
    """
    for name in [*only, *(name for values in changes.values() for name in values)]:
        if name != EVERY and name not in ontology.names:
            known = ", ".join(f"'{known}'" for known in ontology.names[:10])
            raise BadOntology(f"there is no class '{name}' in that run; it has {known}")
    specs = [
        replace(
            spec,
            **{f: v.get(spec.name, v.get(EVERY, getattr(spec, f))) for f, v in changes.items()},
        )
        for spec in ontology.classes
        if not only or spec.name in only
    ]
    groups = [spec.group for spec in specs]
    return Ontology(tuple(replace(s, group="") if groups.count(s.group) == 1 else s for s in specs))
