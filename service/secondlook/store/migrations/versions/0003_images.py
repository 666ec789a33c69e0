"""Pictures are called images, and their likeness a perceptual hash.

SQLite renames tables and columns by itself, but not constraints: their names stand in the text of
the table, which is edited as SQLite's documentation of ALTER TABLE says it may be (section 7).
"""

import json
import re
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TABLES = {"pictures": "images", "snapshot_pictures": "snapshot_images"}
COLUMNS = (
    ("images", "likeness", "perceptual_hash"),
    ("items", "picture_id", "image_id"),
    ("evidence", "picture_id", "image_id"),
    ("decisions", "picture_id", "image_id"),
    ("corrections", "picture_id", "image_id"),
    ("snapshots", "pictures", "images"),
    ("snapshot_images", "picture_id", "image_id"),
)
INDEXED = ("items", "evidence", "decisions", "corrections", "snapshot_images")
"""Tables with an index over ``image_id``."""


def upgrade() -> None:
    """Renames, rewrites the counts of snapshots, and moves no row."""
    for old, new in TABLES.items():
        op.rename_table(old, new)
    for table, old, new in COLUMNS:
        op.execute(f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}")
    if op.get_bind().dialect.name == "sqlite":
        _rename_in_sqlite()
    else:
        _rename_in_postgresql()
    _rewrite_snapshots()


def _renamed(text: str) -> str:
    text = text.replace("pictures", "images").replace("picture", "image")
    return re.sub(r"\ba image", "an image", text).replace("see packing", "see codec")


def _rename_in_sqlite() -> None:
    for table in INDEXED:
        before = next((old for old, new in TABLES.items() if new == table), table)
        op.execute(f"DROP INDEX ix_{before}_picture_id")
        op.create_index(f"ix_{table}_image_id", table, ["image_id"])
    version = op.get_bind().execute(sa.text("PRAGMA schema_version")).scalar_one()
    op.execute("PRAGMA writable_schema = ON")
    op.execute(
        "UPDATE sqlite_master SET sql = "
        "replace(replace(sql, 'picture_id', 'image_id'), 'pictures', 'images') "
        "WHERE type = 'table' AND sql LIKE '%CONSTRAINT%picture%'"
    )
    op.execute(f"PRAGMA schema_version = {int(version) + 1}")
    op.execute("PRAGMA writable_schema = OFF")


def _rename_in_postgresql() -> None:
    bind = op.get_bind()
    rows = bind.execute(
        sa.text(
            "SELECT c.conname, t.relname FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid"
            " WHERE c.conname LIKE '%picture%' AND t.relnamespace = current_schema()::regnamespace"
        )
    ).all()
    for name, table in rows:
        op.execute(f"ALTER TABLE {table} RENAME CONSTRAINT {name} TO {_renamed(name)}")
    rows = bind.execute(
        sa.text(
            "SELECT relname, relkind FROM pg_class WHERE relname LIKE '%picture%'"
            " AND relkind IN ('i', 'S') AND relnamespace = current_schema()::regnamespace"
        )
    ).all()
    for name, kind in rows:
        what = {"i": "INDEX", "S": "SEQUENCE"}[kind if isinstance(kind, str) else kind.decode()]
        op.execute(f"ALTER {what} {name} RENAME TO {_renamed(name)}")
    _rewrite_comments(sa.inspect(bind))


def _rewrite_comments(found: Any) -> None:
    for table in found.get_table_names():
        comment = found.get_table_comment(table)["text"] or ""
        if _renamed(comment) != comment:
            op.create_table_comment(table, _renamed(comment))
        for column in found.get_columns(table):
            comment = column["comment"] or ""
            if _renamed(comment) != comment:
                op.alter_column(table, column["name"], comment=_renamed(comment))


def _rewrite_snapshots() -> None:
    """Counts of images in the statistics; what a split was grouped by in the query."""
    bind = op.get_bind()
    for row in bind.execute(sa.text("SELECT id, statistics, query FROM snapshots")).all():
        statistics, query = json.loads(row.statistics), json.loads(row.query)
        for counts in (statistics, *statistics.get("splits", {}).values()):
            if "pictures" in counts:
                counts["images"] = counts.pop("pictures")
        if query.get("group_by") == "likeness":
            query["group_by"] = "similarity"
        bind.execute(
            sa.text("UPDATE snapshots SET statistics = :statistics, query = :query WHERE id = :id"),
            {
                "statistics": json.dumps(statistics, sort_keys=True),
                "query": json.dumps(query, sort_keys=True),
                "id": row.id,
            },
        )
