"""Versions of students, which one is current, and trainings."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Adds tables and changes none."""
    op.create_table(
        "model_versions",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False, comment="from 1 for each name"),
        sa.Column(
            "digest", sa.String(length=64), nullable=False, comment="sha256 of the manifest's text"
        ),
        sa.Column(
            "manifest",
            sa.Text(),
            nullable=False,
            comment="canonical JSON, see detector.manifest",
        ),
        sa.Column("report", sa.Text(), nullable=False, comment="JSON; or empty"),
        sa.Column(
            "snapshot", sa.String(length=200), nullable=False, comment="manifest hash; or empty"
        ),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_versions")),
        sa.UniqueConstraint("name", "version", name=op.f("uq_model_versions_name_version")),
        sa.UniqueConstraint("name", "digest", name=op.f("uq_model_versions_name_digest")),
        comment="Students, which never change.",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "model_files",
        sa.Column("model_id", NUMBER, nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False, comment="bytes"),
        sa.ForeignKeyConstraint(
            ["model_id"], ["model_versions.id"], name=op.f("fk_model_files_model_id_model_versions")
        ),
        sa.PrimaryKeyConstraint("model_id", "name", name=op.f("pk_model_files")),
        comment="What a student is made of; the bytes are in the blob store under sha256.",
    )
    op.create_index(op.f("ix_model_files_sha256"), "model_files", ["sha256"])
    op.create_table(
        "model_promotions",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("model_id", NUMBER, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False, comment="of the model"),
        sa.Column("kind", sa.String(length=16), nullable=False, comment="promote or rollback"),
        sa.Column("reason", sa.Text(), nullable=False, comment="figures, or a person's word"),
        sa.Column("made_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"],
            ["model_versions.id"],
            name=op.f("fk_model_promotions_model_id_model_versions"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_promotions")),
        comment="Which version became the current one; the last row of a name says which is.",
    )
    op.create_index(op.f("ix_model_promotions_name_id"), "model_promotions", ["name", "id"])
    op.create_index(op.f("ix_model_promotions_model_id"), "model_promotions", ["model_id"])
    op.create_table(
        "trainings",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column(
            "model", sa.String(length=200), nullable=False, comment="name of the version to come"
        ),
        sa.Column("snapshot", sa.String(length=200), nullable=False, comment="name"),
        sa.Column("settings", sa.Text(), nullable=False, comment="JSON: split, size, steps, seed"),
        sa.Column(
            "state", sa.String(length=16), nullable=False, comment="see trainings.TrainingState"
        ),
        sa.Column("progress", sa.Text(), nullable=False, comment="JSON, its last line; or empty"),
        sa.Column(
            "message", sa.Text(), nullable=False, comment="what it waits for, or why it failed"
        ),
        sa.Column("version", sa.Integer(), nullable=False, comment="that it made; or 0"),
        sa.Column("starts", sa.Integer(), nullable=False, comment="that did not end in order"),
        sa.Column(
            "owner", sa.String(length=64), nullable=False, comment="server at work on it; or empty"
        ),
        sa.Column("lease_until", sa.Double(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trainings")),
        comment="Students in the making.",
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_trainings_state_lease_until"), "trainings", ["state", "lease_until"])
