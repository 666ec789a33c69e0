"""Reviews of people and their queue, calibrators and guarantees, decoys."""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the tables, and turn the corrections of before into reviews."""
    _reviews()
    _guarantees()
    _decoys()


def _reviews() -> None:
    op.create_table(
        "reviews",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column(
            "key", sa.LargeBinary(length=16), nullable=False, comment="see reviews.review_key"
        ),
        sa.Column("image_id", NUMBER, nullable=False),
        sa.Column(
            "class_name",
            sa.String(length=120),
            nullable=False,
            comment="empty: of the whole image",
        ),
        sa.Column("x1", sa.Double(), comment="box as it was shown, pixels"),
        sa.Column("y1", sa.Double()),
        sa.Column("x2", sa.Double()),
        sa.Column("y2", sa.Double()),
        sa.Column("answer", sa.String(length=8), nullable=False),
        sa.Column(
            "reason", sa.String(length=16), nullable=False, comment="why it is wrong; or empty"
        ),
        sa.Column(
            "new_class", sa.String(length=120), nullable=False, comment="of a wrong box; or empty"
        ),
        sa.Column("new_x1", sa.Double(), comment="outline drawn instead of a wrong one"),
        sa.Column("new_y1", sa.Double()),
        sa.Column("new_x2", sa.Double()),
        sa.Column("new_y2", sa.Double()),
        sa.Column("person", sa.String(length=120), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("undoes", NUMBER, comment="the review that this one takes back"),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.CheckConstraint(
            "answer IN ('right', 'wrong', 'unsure', 'missing', 'complete')",
            name=op.f("ck_reviews_answer"),
        ),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name=op.f("fk_reviews_image_id_images")
        ),
        sa.ForeignKeyConstraint(["undoes"], ["reviews.id"], name=op.f("fk_reviews_undoes_reviews")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reviews")),
        sa.UniqueConstraint("key", name=op.f("uq_reviews_key")),
        sa.UniqueConstraint("undoes", name=op.f("uq_reviews_undoes")),
        comment="What people said of boxes and images; it takes precedence over every run.",
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_reviews_image_id"), "reviews", ["image_id"])
    _corrections_become_reviews()
    op.drop_table("corrections")
    _queues()


def _corrections_become_reviews() -> None:
    """A decision of a person becomes the answer that had the same effect."""
    bind, after = op.get_bind(), 0
    answers = {"accept": "right", "reject": "wrong", "unsure": "unsure"}
    page = sa.text(
        "SELECT c.*, images.sha256 FROM corrections c JOIN images ON images.id = c.image_id "
        "WHERE c.id > :after ORDER BY c.id LIMIT 500"
    )
    reviews = sa.table(
        "reviews",
        *map(sa.column, ("key", "image_id", "class_name", "x1", "y1", "x2", "y2", "answer")),
        *map(sa.column, ("reason", "new_class", "person", "note", "created_at")),
    )
    kept: set[bytes] = set()
    while old := bind.execute(page, {"after": after}).all():
        after = old[-1].id
        for row in old:
            answer = answers[row.outcome]
            box = [float(edge) for edge in (row.x1, row.y1, row.x2, row.y2)]
            said = [bytes(row.sha256).hex(), row.class_name, box, answer, row.person]
            said += [float(row.created_at), False]
            key = hashlib.blake2b(json.dumps(said).encode(), digest_size=16).digest()
            if key in kept:  # the same person, box and moment: once is enough
                continue
            kept.add(key)
            corners = dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))
            about = {"image_id": row.image_id, "class_name": row.class_name, **corners}
            who = {"person": row.person, "note": row.note, "created_at": row.created_at}
            empty = {"reason": "", "new_class": ""}
            op.execute(reviews.insert().values(key=key, answer=answer, **about, **who, **empty))


def _queues() -> None:
    op.create_table(
        "review_queues",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("run_id", NUMBER, nullable=False),
        sa.Column("order", sa.String(length=32), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False, comment="JSON: how its items were chosen"),
        sa.Column(
            "complete", sa.Boolean(), nullable=False, comment="false while items are being added"
        ),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("answered", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_review_queues_run_id_runs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_review_queues")),
        sa.UniqueConstraint("name", name=op.f("uq_review_queues_name")),
        comment="Boxes of a run that people are asked about.",
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_review_queues_run_id"), "review_queues", ["run_id"])
    op.create_table(
        "review_items",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("queue_id", NUMBER, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False, comment="in the queue, from 1"),
        sa.Column("decision_id", NUMBER, nullable=False),
        sa.Column("place", sa.Integer(), nullable=False, comment="of the judgement in its result"),
        sa.Column("class_name", sa.String(length=120), nullable=False),
        sa.Column("x1", sa.Double(), nullable=False),
        sa.Column("y1", sa.Double(), nullable=False),
        sa.Column("x2", sa.Double(), nullable=False),
        sa.Column("y2", sa.Double(), nullable=False),
        sa.Column("probability", sa.Double(), nullable=False),
        sa.Column("outcome", sa.String(length=8), nullable=False),
        sa.Column("stratum", sa.String(length=200), nullable=False),
        sa.Column("inclusion", sa.Double(), nullable=False, comment="probability of being drawn"),
        sa.Column("state", sa.SmallInteger(), nullable=False, comment="see reviews.ReviewState"),
        sa.Column("leased_to", sa.String(length=120), nullable=False, comment="person; or empty"),
        sa.Column("lease_until", sa.Double(), nullable=False),
        sa.Column("review_id", NUMBER, comment="its answer"),
        sa.ForeignKeyConstraint(
            ["queue_id"],
            ["review_queues.id"],
            name=op.f("fk_review_items_queue_id_review_queues"),
        ),
        sa.ForeignKeyConstraint(
            ["decision_id"], ["decisions.id"], name=op.f("fk_review_items_decision_id_decisions")
        ),
        sa.ForeignKeyConstraint(
            ["review_id"], ["reviews.id"], name=op.f("fk_review_items_review_id_reviews")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_review_items")),
        comment="One box that a queue asks about.",
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_review_items_queue_id_state_position"),
        "review_items",
        ["queue_id", "state", "position"],
    )
    op.create_index(op.f("ix_review_items_decision_id"), "review_items", ["decision_id"])
    op.create_index(op.f("ix_review_items_review_id"), "review_items", ["review_id"])


def _guarantees() -> None:
    op.create_table(
        "calibrators",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False, comment="sha256 of its content"),
        sa.Column(
            "name",
            sa.String(length=200),
            nullable=False,
            comment="the newest of a name counts; or empty",
        ),
        sa.Column("content", sa.Text(), nullable=False, comment="JSON, see labeling.calibrator"),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_calibrators")),
        sa.UniqueConstraint("digest", name=op.f("uq_calibrators_digest")),
        comment="Calibrators; immutable. The settings of a run name one by its digest.",
    )
    op.create_index(op.f("ix_calibrators_name_id"), "calibrators", ["name", "id"])
    op.create_table(
        "guarantees",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("run_id", NUMBER, nullable=False),
        sa.Column(
            "calibrator",
            sa.String(length=64),
            nullable=False,
            comment="digest; empty: raw probabilities",
        ),
        sa.Column(
            "queue",
            sa.String(length=200),
            nullable=False,
            comment="name of its review queue; or empty",
        ),
        sa.Column(
            "state",
            sa.String(length=16),
            nullable=False,
            comment="see guarantees.GuaranteeState",
        ),
        sa.Column(
            "settings",
            sa.Text(),
            nullable=False,
            comment="JSON: what was asked for, seed, sample",
        ),
        sa.Column(
            "certificate",
            sa.Text(),
            nullable=False,
            comment="JSON; empty until it is certified",
        ),
        sa.Column(
            "monitor",
            sa.Text(),
            nullable=False,
            comment="JSON of its checks; empty before the first",
        ),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_guarantees_run_id_runs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_guarantees")),
        sa.UniqueConstraint("name", name=op.f("uq_guarantees_name")),
        comment="Precision guaranteed for what a run accepts, with its certificate.",
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_guarantees_run_id"), "guarantees", ["run_id"])
    op.create_table(
        "guarantee_events",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("guarantee_id", NUMBER, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("content", sa.Text(), nullable=False, comment="JSON"),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["guarantee_id"],
            ["guarantees.id"],
            name=op.f("fk_guarantee_events_guarantee_id_guarantees"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_guarantee_events")),
        comment="History of guarantees: rows are only added.",
    )
    op.create_index(
        op.f("ix_guarantee_events_guarantee_id_id"), "guarantee_events", ["guarantee_id", "id"]
    )


def _decoys() -> None:
    op.create_table(
        "decoys",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("run_id", NUMBER, nullable=False),
        sa.Column("image_id", NUMBER, nullable=False),
        sa.Column("evidence_id", NUMBER, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False, comment="see core.types.DecoyKind"),
        sa.Column("class_name", sa.String(length=120), nullable=False),
        sa.Column("x1", sa.Double(), nullable=False),
        sa.Column("y1", sa.Double(), nullable=False),
        sa.Column("x2", sa.Double(), nullable=False),
        sa.Column("y2", sa.Double(), nullable=False),
        sa.Column("p_yes", sa.Double(), nullable=True, comment="null: no answer"),
        sa.Column("raw", sa.Text(), nullable=False, comment="the verifier's first words"),
        sa.Column("error", sa.Text(), nullable=False, comment="why there is no answer; or empty"),
        sa.Column(
            "exact", sa.Boolean(), nullable=False, comment="false: p_yes was parsed from words"
        ),
        sa.ForeignKeyConstraint(
            ["evidence_id"], ["evidence.id"], name=op.f("fk_decoys_evidence_id_evidence")
        ),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name=op.f("fk_decoys_image_id_images")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_decoys_run_id_runs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decoys")),
        comment=(
            "Questions whose answer is no, asked with those of the evidence to audit the verifier."
        ),
    )
    for columns in (["run_id", "id"], ["image_id"], ["evidence_id"]):
        op.create_index(op.f(f"ix_decoys_{'_'.join(columns)}"), "decoys", columns)
