"""Whose token made jobs, streams, runs, snapshots, models and trainings; signatures of models."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

COMMENT = "name of the token that made it; empty: without tokens, or before them"


def upgrade() -> None:
    """Adds columns, which are empty in the rows of before."""
    op.add_column(
        "model_versions",
        sa.Column(
            "signature",
            sa.LargeBinary(length=64),
            comment="see core.signing; null: without a key",
        ),
    )
    for table in ("runs", "snapshots", "model_versions", "training_jobs"):
        made_by = sa.String(length=128)
        op.add_column(
            table,
            sa.Column("created_by", made_by, nullable=False, server_default="", comment=COMMENT),
        )
