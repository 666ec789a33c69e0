"""Embeddings of images and boxes, by any number of models."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Adds a table and changes none."""
    op.create_table(
        "embeddings",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("image_id", NUMBER, nullable=False),
        sa.Column("model_id", NUMBER, nullable=False, comment="name@digest"),
        sa.Column(
            "box",
            sa.LargeBinary(length=16),
            nullable=False,
            comment="4 float32; empty: the whole image",
        ),
        sa.Column("vector", sa.LargeBinary(), nullable=False, comment="of length 1, float16"),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name=op.f("fk_embeddings_image_id_images")
        ),
        sa.ForeignKeyConstraint(
            ["model_id"], ["texts.id"], name=op.f("fk_embeddings_model_id_texts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_embeddings")),
        sa.UniqueConstraint(
            "image_id", "model_id", "box", name=op.f("uq_embeddings_image_id_model_id_box")
        ),
        comment="What images and boxes look like, as vectors of a model.",
    )
    op.create_index(op.f("ix_embeddings_model_id_id"), "embeddings", ["model_id", "id"])
