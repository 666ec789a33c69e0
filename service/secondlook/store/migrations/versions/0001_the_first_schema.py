"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """The first schema."""
    op.create_table(
        "ontologies",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("digest", sa.String(length=16), nullable=False),
        sa.Column("classes", sa.Text(), nullable=False, comment="JSON, exactly as they were"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ontologies")),
        sa.UniqueConstraint("digest", name=op.f("uq_ontologies_digest")),
        comment="Classes with the thresholds in force; a run names one.",
    )
    op.create_table(
        "pictures",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False, comment="bytes"),
        sa.Column(
            "width",
            sa.Integer(),
            nullable=False,
            comment="pixels, upright; 0 before it was decoded",
        ),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("format", sa.String(length=16), nullable=False, comment="file suffix, e.g. jpg"),
        sa.Column(
            "likeness",
            sa.BigInteger(),
            nullable=True,
            comment="difference hash, signed; near duplicates are near",
        ),
        sa.Column("added_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pictures")),
        sa.UniqueConstraint("sha256", name=op.f("uq_pictures_sha256")),
        comment="One row a content; the bytes are in the blob store under sha256.",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "snapshots",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column(
            "manifest",
            sa.String(length=64),
            nullable=False,
            comment="sha256 of the manifest, a blob",
        ),
        sa.Column("query", sa.Text(), nullable=False, comment="JSON"),
        sa.Column("statistics", sa.Text(), nullable=False, comment="JSON"),
        sa.Column("pictures", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshots")),
        sa.UniqueConstraint("name", name=op.f("uq_snapshots_name")),
        comment="A name for a manifest, which never changes.",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "texts",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("digest", sa.LargeBinary(length=16), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_texts")),
        sa.UniqueConstraint("digest", name=op.f("uq_texts_digest")),
        comment="Questions and model names, which millions of rows share.",
    )
    op.create_table(
        "corrections",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("picture_id", NUMBER, nullable=False),
        sa.Column("class_name", sa.String(length=120), nullable=False),
        sa.Column("x1", sa.Double(), nullable=False),
        sa.Column("y1", sa.Double(), nullable=False),
        sa.Column("x2", sa.Double(), nullable=False),
        sa.Column("y2", sa.Double(), nullable=False),
        sa.Column("outcome", sa.String(length=8), nullable=False),
        sa.Column("person", sa.String(length=120), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("made_at", sa.Double(), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('accept', 'reject', 'unsure')", name=op.f("ck_corrections_outcome")
        ),
        sa.ForeignKeyConstraint(
            ["picture_id"], ["pictures.id"], name=op.f("fk_corrections_picture_id_pictures")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_corrections")),
        comment="What a person said of a box; outranks every run, earlier or later.",
    )
    op.create_index(op.f("ix_corrections_picture_id"), "corrections", ["picture_id"])
    op.create_table(
        "evidence",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("picture_id", NUMBER, nullable=False),
        sa.Column("ontology_id", NUMBER, nullable=False),
        sa.Column("proposer_id", NUMBER, nullable=False),
        sa.Column("verifier_id", NUMBER, nullable=False),
        sa.Column(
            "content",
            sa.LargeBinary(),
            nullable=False,
            comment="see packing: boxes, scores, verdicts",
        ),
        sa.Column("made_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["ontology_id"], ["ontologies.id"], name=op.f("fk_evidence_ontology_id_ontologies")
        ),
        sa.ForeignKeyConstraint(
            ["picture_id"], ["pictures.id"], name=op.f("fk_evidence_picture_id_pictures")
        ),
        sa.ForeignKeyConstraint(
            ["proposer_id"], ["texts.id"], name=op.f("fk_evidence_proposer_id_texts")
        ),
        sa.ForeignKeyConstraint(
            ["verifier_id"], ["texts.id"], name=op.f("fk_evidence_verifier_id_texts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evidence")),
        comment="What the models said of one picture: everything a decision may be made from.",
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_evidence_picture_id"), "evidence", ["picture_id"])
    op.create_table(
        "runs",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column(
            "kind",
            sa.String(length=16),
            nullable=False,
            comment="folder, upload, capture or redecide",
        ),
        sa.Column("ontology_id", NUMBER, nullable=False),
        sa.Column(
            "proposer",
            sa.Text(),
            nullable=False,
            comment="name@digest; empty until a picture is done",
        ),
        sa.Column("verifier", sa.Text(), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False, comment="JSON: floor, max_boxes, max_iou"),
        sa.Column("parent_id", NUMBER, nullable=True, comment="whose evidence a redecide run uses"),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["ontology_id"], ["ontologies.id"], name=op.f("fk_runs_ontology_id_ontologies")
        ),
        sa.ForeignKeyConstraint(["parent_id"], ["runs.id"], name=op.f("fk_runs_parent_id_runs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sa.UniqueConstraint("name", name=op.f("uq_runs_name")),
        comment="One way of deciding over one set of pictures.",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "snapshot_pictures",
        sa.Column("snapshot_id", NUMBER, nullable=False),
        sa.Column("picture_id", NUMBER, nullable=False),
        sa.ForeignKeyConstraint(
            ["picture_id"], ["pictures.id"], name=op.f("fk_snapshot_pictures_picture_id_pictures")
        ),
        sa.ForeignKeyConstraint(
            ["snapshot_id"],
            ["snapshots.id"],
            name=op.f("fk_snapshot_pictures_snapshot_id_snapshots"),
        ),
        sa.PrimaryKeyConstraint("snapshot_id", "picture_id", name=op.f("pk_snapshot_pictures")),
        comment="What a snapshot holds on to, whatever is forgotten elsewhere.",
    )
    op.create_index(op.f("ix_snapshot_pictures_picture_id"), "snapshot_pictures", ["picture_id"])
    op.create_table(
        "items",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("run_id", NUMBER, nullable=False),
        sa.Column("key", sa.BigInteger(), nullable=False, comment="identity in the run, signed"),
        sa.Column(
            "name", sa.Text(), nullable=False, comment="for people, and relative path in a folder"
        ),
        sa.Column(
            "size", sa.BigInteger(), nullable=False, comment="bytes of the file when it was found"
        ),
        sa.Column(
            "changed_ns", sa.BigInteger(), nullable=False, comment="its time of change; or 0"
        ),
        sa.Column("picture_id", NUMBER, nullable=True, comment="once its bytes are kept"),
        sa.Column("state", sa.SmallInteger(), nullable=False, comment="see queue.ItemState"),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.Column(
            "reason",
            sa.String(length=64),
            nullable=False,
            comment="stable word of the last failure",
        ),
        sa.Column("message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["picture_id"], ["pictures.id"], name=op.f("fk_items_picture_id_pictures")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_items_run_id_runs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_items")),
        sa.UniqueConstraint("run_id", "key", name=op.f("uq_items_run_id_key")),
        comment="One picture of one run: where a picture came from, and what is left to do.",
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_items_picture_id"), "items", ["picture_id"])
    op.create_index(
        op.f("ix_items_run_id_state_not_before_id"),
        "items",
        ["run_id", "state", "not_before", "id"],
    )
    op.create_table(
        "jobs",
        sa.Column("run_id", NUMBER, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False, comment="see queue.JobState"),
        sa.Column(
            "root", sa.Text(), nullable=False, comment="folder that names are relative to; or empty"
        ),
        sa.Column("closed", sa.Boolean(), nullable=False, comment="no more items will come"),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column(
            "owner", sa.String(length=64), nullable=False, comment="server at work on it; or empty"
        ),
        sa.Column("lease_until", sa.Double(), nullable=False),
        sa.Column(
            "message", sa.Text(), nullable=False, comment="what it waits for, or why it failed"
        ),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_jobs_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_jobs")),
        comment="A run that has pictures to label: folder, upload or capture.",
    )
    op.create_index(op.f("ix_jobs_state_lease_until"), "jobs", ["state", "lease_until"])
    op.create_table(
        "decisions",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("run_id", NUMBER, nullable=False),
        sa.Column("item_id", NUMBER, nullable=False),
        sa.Column("picture_id", NUMBER, nullable=False),
        sa.Column("evidence_id", NUMBER, nullable=False),
        sa.Column("accepted", sa.Integer(), nullable=False),
        sa.Column("rejected", sa.Integer(), nullable=False),
        sa.Column("unsure", sa.Integer(), nullable=False),
        sa.Column(
            "content", sa.LargeBinary(), nullable=False, comment="see packing: outcomes and reasons"
        ),
        sa.Column("made_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["evidence_id"], ["evidence.id"], name=op.f("fk_decisions_evidence_id_evidence")
        ),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name=op.f("fk_decisions_item_id_items")),
        sa.ForeignKeyConstraint(
            ["picture_id"], ["pictures.id"], name=op.f("fk_decisions_picture_id_pictures")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_decisions_run_id_runs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decisions")),
        sa.UniqueConstraint("run_id", "item_id", name=op.f("uq_decisions_run_id_item_id")),
        comment="What one run made of the evidence of one picture.",
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_decisions_evidence_id"), "decisions", ["evidence_id"])
    op.create_index(op.f("ix_decisions_picture_id"), "decisions", ["picture_id"])
    op.create_index(op.f("ix_decisions_run_id_id"), "decisions", ["run_id", "id"])
