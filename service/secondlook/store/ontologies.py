"""Values that millions of rows share: model names, and ontologies exactly as they were used."""

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache

from sqlalchemy import Connection, select

from secondlook.core.types import STUDENT, Evidence
from secondlook.store.database import insert_new, sanitize_text
from secondlook.store.schema import ontologies, texts
from secondlook_client.errors import BadOntology, Damaged, NotFound
from secondlook_client.ontology import ClassSpec, Ontology, spec_fields

STUDENT_SEPARATOR = " + "
"""Between a proposer and the student that was compared with it."""


def text_id(connection: Connection, text: str) -> int:
    """The id of ``text``, inserted if new.

    Characters that a database cannot store (NUL, lone surrogates) are replaced.
    """
    text = sanitize_text(text, len(text))
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    known = select(texts.c.id).where(texts.c.digest == digest)
    found = connection.execute(known).scalar()
    if found is None:
        insert_new(connection, texts, [{"digest": digest, "text": text}])
        found = connection.execute(known).scalar_one()
    return int(found)


def proposer_text(evidence: Evidence) -> str:
    """The proposer of evidence with the student compared with it, if any, as one text.

    ``parse_proposer_text`` is the inverse.
    """
    return evidence.proposer + (STUDENT_SEPARATOR + evidence.student if evidence.student else "")


def parse_proposer_text(text: str) -> tuple[str, str]:
    """(proposer, student or empty) of a text from ``proposer_text``."""
    proposer, separator, student = text.partition(STUDENT_SEPARATOR + STUDENT)
    return proposer, STUDENT + student if separator else ""


def load_texts(connection: Connection, ids: Iterable[int]) -> dict[int, str]:
    """Texts by id. Raises ``Damaged`` when one is missing."""
    wanted = set(ids)
    rows = connection.execute(select(texts.c.id, texts.c.text).where(texts.c.id.in_(wanted)))
    found = {row.id: row.text for row in rows}
    if missing := wanted - found.keys():
        raise Damaged(f"text {min(missing)} is missing from the store; run `secondlook check`")
    return found


def ontology_id(connection: Connection, ontology: Ontology) -> int:
    """The id of ``ontology``, inserted if new."""
    known = select(ontologies.c.id).where(ontologies.c.digest == ontology.digest)
    found = connection.execute(known).scalar()
    if found is None:
        row = {"digest": ontology.digest, "classes": ontology_json(ontology)}
        insert_new(connection, ontologies, [row])
        found = connection.execute(known).scalar_one()
    return int(found)


def load_ontology(connection: Connection, number: int) -> Ontology:
    """The ontology of that id, equal to the one that was stored, with the same digest.

    Raises ``NotFound``, and ``Damaged`` when the row cannot be parsed or its digest differs.
    """
    query = select(ontologies.c.digest, ontologies.c.classes).where(ontologies.c.id == number)
    row = connection.execute(query).first()
    if row is None:
        raise NotFound(f"the store has no ontology {number}; run `secondlook check`")
    return read_ontology(row.classes, row.digest)


def ontology_json(ontology: Ontology) -> str:
    """The classes as JSON; ``read_ontology`` is the inverse."""
    return json.dumps([spec_fields(spec) for spec in ontology.classes])


@lru_cache(maxsize=64)
def read_ontology(classes: str, digest: str) -> Ontology:
    """The ontology of an ``ontology_json``. Raises ``Damaged`` when its digest differs."""
    try:
        ontology = Ontology(tuple(ClassSpec(**spec) for spec in json.loads(classes)))
    except (ValueError, TypeError, BadOntology) as cause:
        raise Damaged(f"ontology {digest} cannot be read ({cause})") from cause
    if ontology.digest != digest:
        raise Damaged(f"ontology {digest} has changed since it was stored; run `secondlook check`")
    return ontology
