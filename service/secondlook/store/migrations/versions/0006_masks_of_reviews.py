"""Masks that people made, with their reviews."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Adds a column, which is empty in the reviews of before."""
    comment = "JSON of COCO: size and counts; null where nobody outlined it"
    op.add_column("reviews", sa.Column("mask", sa.Text(), comment=comment))
