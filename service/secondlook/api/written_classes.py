"""Classes as they are written in Python: names, lines as on the command line, dicts, or a file."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from secondlook.core.ontology_yaml import classes_of_line, load_ontology, ontology_from_yaml
from secondlook_client.errors import BadOntology
from secondlook_client.ontology import ClassSpec, Ontology

WrittenClasses: TypeAlias = (
    "str | os.PathLike[str] | Sequence[str | ClassSpec] | Mapping[str, Any] | Ontology"
)
"""See ``ontology_of``."""


def ontology_of(classes: WrittenClasses) -> Ontology:
    """The classes, checked. Raises ``BadOntology`` and ``NotFound``.

        ["dog", "cat"]                                        names
        ["glasses = person ? Is this person wearing glasses?"]  lines, as ``-c`` takes them
        {"vehicle": ["car", "bus"], "dog": None}              phrases by name
        {"glasses": {"phrases": ["person"], "question": …}}   the entries of the YAML form
        "classes.yaml"                                        a file of that form

    A ``ClassSpec`` in a list, and a whole ``Ontology``, are taken as they are.
    """
    if isinstance(classes, Ontology):
        return classes
    if isinstance(classes, os.PathLike) or _is_file_name(classes):
        return load_ontology(Path(classes))  # type: ignore[arg-type]
    if isinstance(classes, Mapping):
        return _of_mapping(classes)
    listed = [classes] if isinstance(classes, str | ClassSpec) else classes
    if not isinstance(listed, Sequence):
        raise BadOntology(
            "expected classes as a list of names, a dict of phrases by name, or the path of a "
            f"YAML file, got {type(classes).__name__}"
        )
    return Ontology(tuple(spec for entry in listed for spec in _of_entry(entry)))


def _is_file_name(classes: object) -> bool:
    return isinstance(classes, str) and classes.lower().endswith((".yaml", ".yml"))


def _of_entry(entry: object) -> tuple[ClassSpec, ...]:
    if isinstance(entry, ClassSpec):
        return (entry,)
    return classes_of_line(entry)  # type: ignore[arg-type]  # it says what it wants


def _of_mapping(classes: Mapping[str, Any]) -> Ontology:
    """JSON is YAML, so there is one reader, and one set of messages."""
    entries = {
        name: {"phrases": found} if isinstance(found, str | list | tuple) else found
        for name, found in classes.items()
    }
    try:
        text = json.dumps({"classes": entries}, ensure_ascii=False)
    except (TypeError, ValueError) as cause:
        raise BadOntology(f"the classes hold something other than text: {cause}") from cause
    return ontology_from_yaml(text, "classes")
