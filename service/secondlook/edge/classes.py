"""What the server is asked to label on the frames sent: the classes of the student, or others."""

from dataclasses import dataclass

from secondlook.asked_classes import for_client
from secondlook.detector.manifest import Manifest
from secondlook.ontology import ClassSpec, Ontology
from secondlook.ontology_text import ontology_from_yaml
from secondlook_client import ClassSpec as ClientClass


@dataclass(frozen=True)
class Teaching:
    """A captured stream and the classes that it is for; a stream keeps its classes for ever."""

    stream_id: str
    classes: tuple[ClientClass, ...]


def teaching(stream: str, given: Ontology | None, manifest: Manifest | None) -> Teaching:
    """Where frames go that were chosen with this student.

    ``given`` classes go to the stream as it was named. The student's own go to one with the
    classes' digest in its name, since a later student may have others. Raises ``BadOntology`` for
    a manifest whose classes cannot be asked for, and ``ValueError`` when there are none at all.
    """
    if given is not None:
        return Teaching(stream, for_client(given))
    if manifest is None:
        raise ValueError("neither classes nor a student that has some")
    ontology = (
        ontology_from_yaml(manifest.ontology, "the student's classes")
        if manifest.ontology
        else Ontology(tuple(ClassSpec(name) for name in manifest.classes))
    )
    return Teaching(f"{stream}-{ontology.digest[:8]}", for_client(ontology))
