"""Ontologies as people write them: one line a class, or YAML.

One line::

    dog                                            found by "dog", asked "Is this a dog?"
    dog, cat, horse                                three classes of that kind
    truck = lorry, pickup truck                    found by other phrases
    puppy = dog ? Is this a young dog?             phrase and question
    puppy ? Is this a young dog?                   question only
    helmet on @head = person ? Is a helmet worn?   stands in the contrast group "head"

that is ``name [@group] [= phrase, phrase …] [? question]``. YAML, where every entry is optional::

    defaults: {threshold: 0.3}                     also view, accept, reject, mask, box
    classes:
      dog:
      helmet on:
        phrases: [person, rider]                   or one text, separated by commas
        question: Is a helmet worn?
        group: head
        view: crop                                 crop, context, image or mask
        threshold: 0.25                            proposer's score from which it is asked
        accept: 0.6                                P(yes) from which it is accepted
        reject: 0.4                                P(yes) up to which it is rejected
        presence_question: Is there a rider?       asked about a whole image, to verify that it is
                                                   empty; else "Does this picture show a <name>?"
        mask: true                                 labels have masks: a segmenter is required;
                                                   false: none; else where a segmenter is in use
        box: mask                                  a label has its mask's box where that is the
                                                   better one; else the proposer's
      helmet off: {phrases: person, question: Is the head bare?, group: head}

A question needs no quotes, in braces neither, unless a comma or colon stands in it.
``classes`` (or the whole file) may also be a list of one-line forms. All scalars are read as text,
so a class may be called ``no`` or ``1``; ``null`` and ``~`` after a colon count as nothing.
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml

from secondlook.core.written_yaml import YamlProblem, parse_yaml
from secondlook_client.errors import BadOntology, NotFound
from secondlook_client.ontology import (
    ClassSpec,
    Ontology,
    default_presence_question,
    default_question,
)
from secondlook_client.values import BoxSource, View

MAX_BYTES = 1 << 20
MAX_DEPTH = 6
CLASS_KEYS = (
    "phrases",
    "question",
    "presence_question",
    "view",
    "group",
    "threshold",
    "accept",
    "reject",
    "mask",
    "box",
)
DEFAULT_KEYS = ("view", "threshold", "accept", "reject", "mask", "box")
NUMBERS = ("threshold", "accept", "reject")
CHOICES: Mapping[str, Mapping[str, Any]] = {
    "view": {view.value: view for view in View},
    "mask": {"true": True, "false": False},
    "box": {source.value: source for source in BoxSource},
}
FORM = "name [@group] [= phrase, phrase …] [? question]"
# Possessive: backtracking over a long text takes time by the square of its length.
_TEXT_IN_BRACES = re.compile(
    r"""(?<=[:,\[{]\ )               # behind a colon, comma or opening bracket
        (?!["'&*!|>%@`\ ])            # text that is not quoted
        (?:(?!:\ )[^"\#,\[\]{}\n])++
        (?=\s*+[,\]}])               # up to a comma or closing bracket
    """,
    re.VERBOSE,
)


def ontology_from_lines(lines: Iterable[str]) -> Ontology:
    """An ontology from one-line forms, as ``--class`` gives them. Raises ``BadOntology``."""
    return Ontology(tuple(spec for line in lines for spec in classes_of_line(line)))


def classes_of_line(line: str) -> tuple[ClassSpec, ...]:
    """The class that a one-line form describes, or several for bare names with commas.

    Raises ``BadOntology`` with the form when the line is not of it.
    """
    return tuple(_spec(name, entries) for name, entries in _entries_of_line(line))


def load_ontology(path: Path) -> Ontology:
    """Read a YAML file. Raises ``NotFound`` or ``BadOntology``; both name the file."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as cause:
        raise NotFound(f"there is no ontology file '{path}'; check the path") from cause
    except OSError as cause:
        raise BadOntology(f"'{path}' cannot be read: {cause.strerror}") from cause
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise BadOntology(f"'{path}' is no UTF-8 text; save it as UTF-8") from cause
    return ontology_from_yaml(text, str(path))


def ontology_from_yaml(text: str, source: str = "ontology") -> Ontology:
    """Read YAML text. Raises ``BadOntology`` that begins with ``source``."""
    if len(text) > MAX_BYTES:
        raise BadOntology(f"{source}: longer than {MAX_BYTES:,} characters; split the classes up")
    try:
        return _ontology(_parse(text))
    except BadOntology as cause:
        raise BadOntology(f"{source}: {cause}") from cause


def dump(ontology: Ontology) -> str:
    """YAML that reads back as an equal ontology; entries at their default are left out."""
    classes = {spec.name: _told(spec) for spec in ontology.classes}
    return yaml.safe_dump({"classes": classes}, sort_keys=False, allow_unicode=True, width=10_000)


def _told(spec: ClassSpec) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    if spec.phrases != (spec.name,):
        entries["phrases"] = list(spec.phrases)
    if spec.question != default_question(spec.name):
        entries["question"] = spec.question
    if spec.presence_question != default_presence_question(spec.name):
        entries["presence_question"] = spec.presence_question
    for f in fields(ClassSpec):
        value = getattr(spec, f.name)
        if f.name in CLASS_KEYS[3:] and f.default is not MISSING and value != f.default:
            entries[f.name] = _written(f.name, value)
    return entries


def _written(name: str, value: Any) -> Any:
    if name in NUMBERS:
        return float(value)
    return value if name == "mask" else str(value)


def _parse(text: str) -> Any:
    """The document. In braces a question need not be quoted, though PyYAML ends text at a "?"."""
    try:
        return _parse_strictly(text)
    except BadOntology:
        quoted = _TEXT_IN_BRACES.sub(_quoted_question, text)
        if quoted == text:
            raise
        return _parse_strictly(quoted)


def _quoted_question(found: re.Match[str]) -> str:
    text = found[0].rstrip()
    if "?" not in text:
        return found[0]
    return json.dumps(text, ensure_ascii=False) + found[0][len(text) :]


def _parse_strictly(text: str) -> Any:
    try:
        return parse_yaml(text, MAX_DEPTH, empty_nulls=True)
    except YamlProblem as problem:
        raise BadOntology(f"no valid YAML{problem.where}: {problem}") from problem


def _ontology(document: Any) -> Ontology:
    if isinstance(document, list):
        document = {"classes": document}
    if not isinstance(document, dict) or "classes" not in document:
        raise BadOntology(
            "expected 'classes:' with a name on each line below it, or a list with '- name' lines"
        )
    _check_keys("the file", document, ("classes", "defaults"))
    defaults = document.get("defaults") or {}
    if not isinstance(defaults, dict):
        raise BadOntology(f"defaults: expected {', '.join(DEFAULT_KEYS)}, got {defaults!r:.60}")
    _check_keys("defaults", defaults, DEFAULT_KEYS)
    named = _named(document["classes"])
    return Ontology(tuple(_spec(name, {**defaults, **entries}) for name, entries in named))


def _named(classes: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """Names and entries from either way of writing ``classes``."""
    if isinstance(classes, list):
        return [found for line in classes for found in _entries_of_line(line)]
    if classes in ("", None):
        return []
    if not isinstance(classes, dict):
        raise BadOntology(f"classes: expected names, one a line, got {classes!r:.60}")
    for name, entries in classes.items():
        if entries and not isinstance(entries, dict):
            raise BadOntology(
                f"class '{name}': expected {', '.join(CLASS_KEYS)} below it, got {entries!r:.60}"
            )
    return [(name.strip(), entries or {}) for name, entries in classes.items()]


def _entries_of_line(line: Any) -> list[tuple[str, Mapping[str, Any]]]:
    if not isinstance(line, str):
        raise BadOntology(f"expected a class as '{FORM}', got {line!r:.80}")
    name, entries = _parts_of_line(line)
    for key, text in entries.items():
        if not text:
            raise BadOntology(f"'{line:.200}': {key} left empty; a class is written '{FORM}'")
    if not entries:
        return [(part.strip(), {}) for part in name.split(",")]
    if "," in name:
        raise BadOntology(
            f"'{line:.200}': several names share one {' and '.join(entries)}; give each its own "
            "line"
        )
    return [(name, entries)]


def _parts_of_line(line: str) -> tuple[str, dict[str, str]]:
    """The name of a one-line form, and what else it gives: group, phrases, question."""
    head, asks, question = line.partition("?")
    name, equals, phrases = head.partition("=")
    name = name.strip()
    before, at, group = name.rpartition("@")
    if not at or before[-1:].strip():  # an "@" inside of a word is part of the name
        before, at, group = name, "", ""
    parts = (("group", at, group), ("phrases", equals, phrases), ("question", asks, question))
    return before.strip(), {key: text.strip() for key, given, text in parts if given}


def _spec(name: str, entries: Mapping[str, Any]) -> ClassSpec:
    _check_keys(f"class '{name}'", entries, CLASS_KEYS)
    read: dict[str, Any] = {}
    for key, value in entries.items():
        if key == "phrases":
            read[key] = _phrases(name, value)
        elif not isinstance(value, str):
            raise BadOntology(f"class '{name}': expected one value for {key}, got {value!r:.60}")
        elif key in NUMBERS:
            read[key] = _number(name, key, value)
        elif key in CHOICES:
            read[key] = _choice(name, key, value)
        else:
            read[key] = value.strip()
    return ClassSpec(name, **read)


def _phrases(name: str, value: Any) -> tuple[str, ...]:
    found = value.split(",") if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(phrase, str) for phrase in found):
        raise BadOntology(f"class '{name}': expected phrases as a list of texts, got {value!r:.60}")
    return tuple(phrase.strip() for phrase in found)


def _number(name: str, key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise BadOntology(
            f"class '{name}': expected {key} as a number between 0 and 1, got '{value}'"
        ) from None


def _choice(name: str, key: str, value: str) -> Any:
    found = CHOICES[key].get(value.strip().lower())
    if found is None:
        allowed = ", ".join(CHOICES[key])
        raise BadOntology(f"class '{name}': expected {key} as one of {allowed}, got '{value}'")
    return found


def _check_keys(where: str, given: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    for key in given:
        if key not in allowed:
            close = difflib.get_close_matches(key, allowed, 1)
            meant = f"did you mean '{close[0]}'?" if close else f"allowed are {', '.join(allowed)}"
            raise BadOntology(f"{where}: unknown entry '{key}'; {meant}")
