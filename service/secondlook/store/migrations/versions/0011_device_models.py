"""Which model a device runs, as it says when it connects."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Adds a column to the jobs, which is empty in the rows of before."""
    column = sa.Column(
        "device_model",
        sa.String(length=200),
        nullable=False,
        server_default="",
        comment="of a captured stream: what its device said it runs; or empty",
    )
    op.add_column("jobs", column)
