"""Uncertainties of judgements, by several methods."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Adds a table and changes none."""
    op.create_table(
        "uncertainties",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("decision_id", NUMBER, nullable=False),
        sa.Column("method", sa.String(length=16), nullable=False),
        sa.Column("source", sa.Text(), nullable=False, comment="models and options, in words"),
        sa.Column(
            "content", sa.LargeBinary(), nullable=False, comment="see uncertainties: JSON, packed"
        ),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["decision_id"], ["decisions.id"], name=op.f("fk_uncertainties_decision_id_decisions")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uncertainties")),
        sa.UniqueConstraint(
            "decision_id", "method", name=op.f("uq_uncertainties_decision_id_method")
        ),
        comment="How uncertain the judgements of a result are, by one method.",
    )
