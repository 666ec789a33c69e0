"""How long people took for their reviews."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Adds a column, which is empty in the reviews of before."""
    comment = "that the person took; null or 0 where nobody measured"
    op.add_column("reviews", sa.Column("seconds", sa.Double(), comment=comment))
