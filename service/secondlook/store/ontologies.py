"""Texts that millions of rows share: model names, and ontologies as they were."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import lru_cache

from sqlalchemy import Connection, select

from secondlook.core.errors import BadOntology, Damaged, NotFound
from secondlook.core.ontology import ClassSpec, Ontology
from secondlook.core.types import STUDENT, Evidence
from secondlook.store.database import insert_new
from secondlook.store.schema import ontologies, texts

BESIDE = " + "
"""Between a proposer and the student that was compared with it."""


def text_id(connection: Connection, text: str) -> int:
    """The number of ``text``, which is added when it is new.

    Characters that a database cannot hold (NUL, halves of characters) are replaced.
    """
    text = text.encode("utf-8", "replace").decode().replace("\x00", "?")
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    known = select(texts.c.id).where(texts.c.digest == digest)
    found = connection.execute(known).scalar()
    if found is None:
        insert_new(connection, texts, [{"digest": digest, "text": text}])
        found = connection.execute(known).scalar_one()
    return int(found)


def speakers(evidence: Evidence) -> str:
    """Proposer and, where one was compared with it, student: the text that evidence is kept with.

    ``speakers_of`` reads it.
    """
    return evidence.proposer + (BESIDE + evidence.student if evidence.student else "")


def speakers_of(text: str) -> tuple[str, str]:
    """(proposer, student or empty) of what ``speakers`` wrote."""
    proposer, beside, student = text.partition(BESIDE + STUDENT)
    return proposer, STUDENT + student if beside else ""


def texts_of(connection: Connection, ids: Iterable[int]) -> dict[int, str]:
    """The texts by number. Raises ``Damaged`` when one is missing."""
    wanted = set(ids)
    rows = connection.execute(select(texts.c.id, texts.c.text).where(texts.c.id.in_(wanted)))
    found = {row.id: row.text for row in rows}
    if missing := wanted - found.keys():
        raise Damaged(f"text {min(missing)} is gone from the store; run `secondlook check`")
    return found


def ontology_id(connection: Connection, ontology: Ontology) -> int:
    """The number of ``ontology``, which is added when it is new."""
    known = select(ontologies.c.id).where(ontologies.c.digest == ontology.digest)
    found = connection.execute(known).scalar()
    if found is None:
        row = {"digest": ontology.digest, "classes": written(ontology)}
        insert_new(connection, ontologies, [row])
        found = connection.execute(known).scalar_one()
    return int(found)


def load_ontology(connection: Connection, number: int) -> Ontology:
    """The ontology of that number, equal to the one that was kept, with the same digest.

    Raises ``NotFound``, and ``Damaged`` when the row is no ontology or another one.
    """
    query = select(ontologies.c.digest, ontologies.c.classes).where(ontologies.c.id == number)
    row = connection.execute(query).first()
    if row is None:
        raise NotFound(f"the store has no ontology {number}; run `secondlook check`")
    return read_ontology(row.classes, row.digest)


def written(ontology: Ontology) -> str:
    """The classes as JSON, from which ``read_ontology`` makes an equal ontology."""
    return json.dumps([asdict(spec) for spec in ontology.classes])


@lru_cache(maxsize=64)
def read_ontology(classes: str, digest: str) -> Ontology:
    """An ontology from ``written``. Raises ``Damaged`` when its digest is not ``digest``."""
    try:
        ontology = Ontology(tuple(ClassSpec(**spec) for spec in json.loads(classes)))
    except (ValueError, TypeError, BadOntology) as cause:
        raise Damaged(f"ontology {digest} cannot be read ({cause})") from cause
    if ontology.digest != digest:
        raise Damaged(f"ontology {digest} has changed since it was kept; run `secondlook check`")
    return ontology
