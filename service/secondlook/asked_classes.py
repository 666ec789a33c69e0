"""The classes of an ontology as a service is asked for them."""

from secondlook.ontology import Ontology
from secondlook_client import ClassSpec


def for_client(ontology: Ontology) -> tuple[ClassSpec, ...]:
    """The classes as the client says them; nothing is left to the service's defaults."""
    return tuple(
        ClassSpec(
            spec.name,
            spec.phrases,
            spec.question,
            spec.view.value,
            spec.group,
            spec.threshold,
            spec.accept,
            spec.reject,
        )
        for spec in ontology.classes
    )
