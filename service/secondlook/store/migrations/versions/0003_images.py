"""The terms of the field: pictures are images, a likeness is a perceptual hash, and so on.

SQLite renames tables and columns by itself, but not constraints: their names are part of the text
of the table, which is edited as section 7 of SQLite's documentation of ALTER TABLE allows.
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TABLES = {
    "pictures": "images",
    "snapshot_pictures": "snapshot_images",
    "trainings": "training_jobs",
}
COLUMNS = (
    ("images", "likeness", "perceptual_hash"),
    ("items", "picture_id", "image_id"),
    ("items", "changed_ns", "mtime_ns"),
    ("items", "tries", "attempts"),
    ("jobs", "changed_at", "updated_at"),
    ("evidence", "picture_id", "image_id"),
    ("evidence", "made_at", "created_at"),
    ("decisions", "picture_id", "image_id"),
    ("decisions", "made_at", "created_at"),
    ("corrections", "picture_id", "image_id"),
    ("corrections", "made_at", "created_at"),
    ("snapshots", "pictures", "images"),
    ("snapshot_images", "picture_id", "image_id"),
    ("model_promotions", "made_at", "created_at"),
    ("training_jobs", "starts", "attempts"),
    ("training_jobs", "changed_at", "updated_at"),
)
SETTINGS = {"floor": "score_floor", "max_iou": "nms_iou"}
"""Keys of the JSON in ``runs.settings``."""
INDEXES = (
    ("ix_items_picture_id", "items", ["image_id"]),
    ("ix_evidence_picture_id", "evidence", ["image_id"]),
    ("ix_decisions_picture_id", "decisions", ["image_id"]),
    ("ix_corrections_picture_id", "corrections", ["image_id"]),
    ("ix_snapshot_pictures_picture_id", "snapshot_images", ["image_id"]),
    ("ix_trainings_state_lease_until", "training_jobs", ["state", "lease_until"]),
)
"""(old name, table, columns)."""
NAMES = (("pictures", "images"), ("picture", "image"), ("trainings", "training_jobs"))
"""Parts of the names of constraints, indexes and sequences, in the order of their replacement."""
TABLE_COMMENTS: dict[str, str] = {
    "images": "One row per distinct content; the bytes are in the blob store under sha256.",
    "model_versions": "Versions of student models; immutable.",
    "ontologies": "Classes with their thresholds; a run refers to one.",
    "snapshots": "Named snapshots of datasets; immutable.",
    "texts": "Model names, shared by millions of rows.",
    "training_jobs": "Trainings of students: queued, running and ended.",
    "corrections": "Corrections of boxes by people; they take precedence over every run.",
    "evidence": "Model outputs for one image: everything that decisions are derived from.",
    "model_files": "Files of model versions; the bytes are in the blob store under sha256.",
    "model_promotions": "Promotions and rollbacks; the last row of a name is its current version.",
    "runs": "One ontology and configuration applied to one set of images.",
    "snapshot_images": "Images of snapshots, which protect them from deletion.",
    "items": "One image of one run: its source and its state.",
    "jobs": "Runs with images to label: folder, upload or capture.",
    "decisions": "Decisions of one run on the evidence of one image.",
}
COLUMN_COMMENTS: dict[tuple[str, str], str] = {
    ("images", "width"): "pixels, upright; 0 until it was decoded",
    ("images", "perceptual_hash"): "difference hash, signed; near duplicates are close",
    ("ontologies", "classes"): "JSON, exactly as they were used",
    ("training_jobs", "model"): "name of the version to be made",
    ("training_jobs", "state"): "see training_jobs.TrainingState",
    ("training_jobs", "progress"): "JSON, the latest; or empty",
    ("training_jobs", "version"): "the version it made; or 0",
    ("training_jobs", "attempts"): "starts without an orderly end",
    ("training_jobs", "owner"): "server that works on it; or empty",
    ("evidence", "content"): "see codec: boxes, scores, verdicts",
    ("model_promotions", "reason"): "figures, or what the caller gave",
    ("runs", "proposer"): "name@digest; empty until an image is done",
    ("runs", "settings"): "JSON: score_floor, max_boxes, nms_iou",
    ("runs", "parent_id"): "run whose evidence it decides again",
    ("items", "name"): "for people; in a folder the relative path",
    ("items", "size"): "bytes of the file when it was listed",
    ("items", "mtime_ns"): "its modification time; or 0",
    ("items", "image_id"): "once its bytes are stored",
    ("items", "attempts"): "failed so far",
    ("items", "not_before"): "time of the next attempt",
    ("items", "reason"): "stable code of the last failure",
    ("jobs", "closed"): "no more items will be added",
    ("jobs", "owner"): "server that works on it; or empty",
    ("decisions", "content"): "see codec: outcomes and reasons",
}


def upgrade() -> None:
    """Rename, rewrite the JSON of snapshots, and move no row."""
    for old, new in TABLES.items():
        op.rename_table(old, new)
    for table, old, new in COLUMNS:
        op.execute(f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}")
    if op.get_bind().dialect.name == "sqlite":
        _rename_in_sqlite()
    else:
        _rename_in_postgresql()
    _rewrite_snapshots()
    for old, new in SETTINGS.items():
        op.execute(f"""UPDATE runs SET settings = replace(settings, '"{old}"', '"{new}"')""")


def _renamed(name: str) -> str:
    for old, new in NAMES:
        name = name.replace(old, new)
    return name


def _rename_in_sqlite() -> None:
    for old, table, columns in INDEXES:
        op.execute(f"DROP INDEX {old}")
        op.create_index(_renamed(old), table, columns)
    version = op.get_bind().execute(sa.text("PRAGMA schema_version")).scalar_one()
    op.execute("PRAGMA writable_schema = ON")
    op.execute(
        "UPDATE sqlite_master SET sql = replace(replace(replace("
        "sql, 'picture_id', 'image_id'), 'pictures', 'images'), 'pk_trainings', 'pk_training_jobs')"
        " WHERE type = 'table' AND (sql LIKE '%CONSTRAINT%picture%' OR sql LIKE '%pk_trainings%')"
    )
    op.execute(f"PRAGMA schema_version = {int(version) + 1}")
    op.execute("PRAGMA writable_schema = OFF")


def _rename_in_postgresql() -> None:
    bind = op.get_bind()
    constraints = sa.text(
        "SELECT c.conname, t.relname FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid"
        " WHERE (c.conname LIKE '%picture%' OR c.conname LIKE '%trainings%')"
        " AND t.relnamespace = current_schema()::regnamespace"
    )
    for name, table in bind.execute(constraints).all():
        op.execute(f"ALTER TABLE {table} RENAME CONSTRAINT {name} TO {_renamed(name)}")
    indexes_and_sequences = sa.text(
        "SELECT relname, relkind FROM pg_class"
        " WHERE (relname LIKE '%picture%' OR relname LIKE '%trainings%')"
        " AND relkind IN ('i', 'S') AND relnamespace = current_schema()::regnamespace"
    )
    for name, kind in bind.execute(indexes_and_sequences).all():
        what = {"i": "INDEX", "S": "SEQUENCE"}[kind if isinstance(kind, str) else kind.decode()]
        op.execute(f"ALTER {what} {name} RENAME TO {_renamed(name)}")
    for table, comment in TABLE_COMMENTS.items():
        op.create_table_comment(table, comment)
    for (table, column), comment in COLUMN_COMMENTS.items():
        op.alter_column(table, column, comment=comment)


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
