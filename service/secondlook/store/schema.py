"""Every table of the store. Rows of images, evidence and decisions are never updated.

Times are seconds since 1970 (UTC) as doubles. Generated ids have 64 bits.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Number = BigInteger().with_variant(Integer, "sqlite")
"""SQLite generates ids for INTEGER PRIMARY KEY only; its integers have 64 bits anyway."""

NEVER_REUSED: dict[str, Any] = {"sqlite_autoincrement": True}
"""For ids that leave the store, in label ids and cursors: the id of a deleted row must not be
given to another one. PostgreSQL never does that."""

CREATED_BY = "name of the token that made it; empty: without tokens, or before them"

texts = Table(
    "texts",
    metadata,
    Column("id", Number, primary_key=True),
    Column("digest", LargeBinary(16), nullable=False, unique=True),
    Column("text", Text, nullable=False),
    comment="Model names, shared by millions of rows.",
)

ontologies = Table(
    "ontologies",
    metadata,
    Column("id", Number, primary_key=True),
    Column("digest", String(16), nullable=False, unique=True),
    Column("classes", Text, nullable=False, comment="JSON, exactly as they were used"),
    comment="Classes with their thresholds; a run refers to one.",
)

images = Table(
    "images",
    metadata,
    Column("id", Number, primary_key=True),
    Column("sha256", LargeBinary(32), nullable=False, unique=True),
    Column("size", BigInteger, nullable=False, comment="bytes"),
    Column("width", Integer, nullable=False, comment="pixels, upright; 0 until it was decoded"),
    Column("height", Integer, nullable=False),
    Column("format", String(16), nullable=False, comment="file suffix, e.g. jpg"),
    Column(
        "perceptual_hash", BigInteger, comment="difference hash, signed; near duplicates are close"
    ),
    Column("added_at", Double, nullable=False),
    **NEVER_REUSED,
    comment="One row per distinct content; the bytes are in the blob store under sha256.",
)

runs = Table(
    "runs",
    metadata,
    Column("id", Number, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("kind", String(16), nullable=False, comment="folder, upload, capture or redecide"),
    Column("ontology_id", Number, ForeignKey("ontologies.id"), nullable=False),
    Column("proposer", Text, nullable=False, comment="name@digest; empty until an image is done"),
    Column("verifier", Text, nullable=False),
    Column("settings", Text, nullable=False, comment="JSON: score_floor, max_boxes, nms_iou"),
    Column(
        "parent_id", Number, ForeignKey("runs.id"), comment="run whose evidence it decides again"
    ),
    Column("created_at", Double, nullable=False),
    Column(
        "created_by", String(128), nullable=False, server_default=text("''"), comment=CREATED_BY
    ),
    **NEVER_REUSED,
    comment="One ontology and configuration applied to one set of images.",
)

jobs = Table(
    "jobs",
    metadata,
    Column("run_id", Number, ForeignKey("runs.id"), primary_key=True),
    Column("state", String(16), nullable=False, comment="see queue.JobState"),
    Column("root", Text, nullable=False, comment="folder that names are relative to; or empty"),
    Column("closed", Boolean, nullable=False, comment="no more items will be added"),
    Column("total", BigInteger, nullable=False),
    Column("done", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("owner", String(64), nullable=False, comment="server that works on it; or empty"),
    Column("lease_until", Double, nullable=False),
    Column("message", Text, nullable=False, comment="what it waits for, or why it failed"),
    Column(
        "device_model",
        String(200),
        nullable=False,
        server_default=text("''"),
        comment="of a captured stream: what its device said it runs; or empty",
    ),
    Column("updated_at", Double, nullable=False),
    Index(None, "state", "lease_until"),
    comment="Runs with images to label: folder, upload or capture.",
)

items = Table(
    "items",
    metadata,
    Column("id", Number, primary_key=True),
    Column("run_id", Number, ForeignKey("runs.id"), nullable=False),
    Column("key", BigInteger, nullable=False, comment="identity in the run, signed"),
    Column("name", Text, nullable=False, comment="for people; in a folder the relative path"),
    Column("size", BigInteger, nullable=False, comment="bytes of the file when it was listed"),
    Column("mtime_ns", BigInteger, nullable=False, comment="its modification time; or 0"),
    Column("image_id", Number, ForeignKey("images.id"), comment="once its bytes are stored"),
    Column("state", SmallInteger, nullable=False, comment="see queue.ItemState"),
    Column("attempts", Integer, nullable=False, comment="failed so far"),
    Column("not_before", Double, nullable=False, comment="time of the next attempt"),
    Column("reason", String(64), nullable=False, comment="stable code of the last failure"),
    Column("message", Text, nullable=False),
    UniqueConstraint("run_id", "key"),
    Index(None, "run_id", "state", "not_before", "id"),
    Index(None, "image_id"),
    **NEVER_REUSED,
    comment="One image of one run: its source and its state.",
)

evidence = Table(
    "evidence",
    metadata,
    Column("id", Number, primary_key=True),
    Column("image_id", Number, ForeignKey("images.id"), nullable=False),
    Column("ontology_id", Number, ForeignKey("ontologies.id"), nullable=False),
    Column("proposer_id", Number, ForeignKey("texts.id"), nullable=False),
    Column("verifier_id", Number, ForeignKey("texts.id"), nullable=False),
    Column("content", LargeBinary, nullable=False, comment="see codec: boxes, scores, verdicts"),
    Column("created_at", Double, nullable=False),
    Index(None, "image_id"),
    **NEVER_REUSED,
    comment="Model outputs for one image: everything that decisions are derived from.",
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", Number, primary_key=True),
    Column("run_id", Number, ForeignKey("runs.id"), nullable=False),
    Column("item_id", Number, ForeignKey("items.id"), nullable=False),
    Column("image_id", Number, ForeignKey("images.id"), nullable=False),
    Column("evidence_id", Number, ForeignKey("evidence.id"), nullable=False),
    Column("accepted", Integer, nullable=False),
    Column("rejected", Integer, nullable=False),
    Column("unsure", Integer, nullable=False),
    Column("content", LargeBinary, nullable=False, comment="see codec: outcomes and reasons"),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("run_id", "item_id"),
    Index(None, "run_id", "id"),
    Index(None, "image_id"),
    Index(None, "evidence_id"),
    **NEVER_REUSED,
    comment="Decisions of one run on the evidence of one image.",
)

reviews = Table(
    "reviews",
    metadata,
    Column("id", Number, primary_key=True),
    Column("key", LargeBinary(16), nullable=False, unique=True, comment="see reviews.review_key"),
    Column("image_id", Number, ForeignKey("images.id"), nullable=False),
    Column("class_name", String(120), nullable=False, comment="empty: of the whole image"),
    Column("x1", Double, comment="box as it was shown, pixels"),
    Column("y1", Double),
    Column("x2", Double),
    Column("y2", Double),
    Column("answer", String(8), nullable=False),
    Column("reason", String(16), nullable=False, comment="why it is wrong; or empty"),
    Column("new_class", String(120), nullable=False, comment="of a wrong box; or empty"),
    Column("new_x1", Double, comment="outline drawn instead of a wrong one"),
    Column("new_y1", Double),
    Column("new_x2", Double),
    Column("new_y2", Double),
    Column("person", String(120), nullable=False),
    Column("note", Text, nullable=False),
    Column("mask", Text, comment="JSON of COCO: size and counts; null where nobody outlined it"),
    Column("seconds", Double, comment="that the person took; null or 0 where nobody measured"),
    Column(
        "undoes",
        Number,
        ForeignKey("reviews.id"),
        unique=True,
        comment="the review that this one takes back",
    ),
    Column("created_at", Double, nullable=False),
    CheckConstraint("answer IN ('right', 'wrong', 'unsure', 'missing', 'complete')", name="answer"),
    Index(None, "image_id"),
    **NEVER_REUSED,
    comment="What people said of boxes and images; it takes precedence over every run.",
)

review_queues = Table(
    "review_queues",
    metadata,
    Column("id", Number, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("run_id", Number, ForeignKey("runs.id"), nullable=False),
    Column("order", String(32), nullable=False),
    Column("settings", Text, nullable=False, comment="JSON: how its items were chosen"),
    Column("complete", Boolean, nullable=False, comment="false while items are being added"),
    Column("total", BigInteger, nullable=False),
    Column("answered", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "run_id"),
    **NEVER_REUSED,
    comment="Boxes of a run that people are asked about.",
)

review_items = Table(
    "review_items",
    metadata,
    Column("id", Number, primary_key=True),
    Column("queue_id", Number, ForeignKey("review_queues.id"), nullable=False),
    Column("position", BigInteger, nullable=False, comment="in the queue, from 1"),
    Column("decision_id", Number, ForeignKey("decisions.id"), nullable=False),
    Column("place", Integer, nullable=False, comment="of the judgement in its result"),
    Column("class_name", String(120), nullable=False),
    Column("x1", Double, nullable=False),
    Column("y1", Double, nullable=False),
    Column("x2", Double, nullable=False),
    Column("y2", Double, nullable=False),
    Column("probability", Double, nullable=False),
    Column("outcome", String(8), nullable=False),
    Column("stratum", String(200), nullable=False),
    Column("inclusion", Double, nullable=False, comment="probability of being drawn"),
    Column("state", SmallInteger, nullable=False, comment="see reviews.ReviewState"),
    Column("leased_to", String(120), nullable=False, comment="person; or empty"),
    Column("lease_until", Double, nullable=False),
    Column("review_id", Number, ForeignKey("reviews.id"), comment="its answer"),
    Index(None, "queue_id", "state", "position"),
    Index(None, "decision_id"),
    Index(None, "review_id"),
    **NEVER_REUSED,
    comment="One box that a queue asks about.",
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("id", Number, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("manifest", String(64), nullable=False, comment="sha256 of the manifest, a blob"),
    Column("query", Text, nullable=False, comment="JSON"),
    Column("statistics", Text, nullable=False, comment="JSON"),
    Column("images", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column(
        "created_by", String(128), nullable=False, server_default=text("''"), comment=CREATED_BY
    ),
    **NEVER_REUSED,
    comment="Named snapshots of datasets; immutable.",
)

snapshot_images = Table(
    "snapshot_images",
    metadata,
    Column("snapshot_id", Number, ForeignKey("snapshots.id"), nullable=False),
    Column("image_id", Number, ForeignKey("images.id"), nullable=False),
    PrimaryKeyConstraint("snapshot_id", "image_id"),
    Index(None, "image_id"),
    comment="Images of snapshots, which protect them from deletion.",
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("id", Number, primary_key=True),
    Column("name", String(200), nullable=False),
    Column("version", Integer, nullable=False, comment="from 1 for each name"),
    Column("digest", String(64), nullable=False, comment="sha256 of the manifest's text"),
    Column("manifest", Text, nullable=False, comment="canonical JSON, see detector.manifest"),
    Column("report", Text, nullable=False, comment="JSON; or empty"),
    Column("snapshot", String(200), nullable=False, comment="manifest hash; or empty"),
    Column("signature", LargeBinary(64), comment="see core.signing; null: without a key"),
    Column("created_at", Double, nullable=False),
    Column(
        "created_by", String(128), nullable=False, server_default=text("''"), comment=CREATED_BY
    ),
    UniqueConstraint("name", "version"),
    UniqueConstraint("name", "digest"),
    **NEVER_REUSED,
    comment="Versions of student models; immutable.",
)

model_files = Table(
    "model_files",
    metadata,
    Column("model_id", Number, ForeignKey("model_versions.id"), nullable=False),
    Column("name", String(100), nullable=False),
    Column("sha256", LargeBinary(32), nullable=False),
    Column("size", BigInteger, nullable=False, comment="bytes"),
    PrimaryKeyConstraint("model_id", "name"),
    Index(None, "sha256"),
    comment="Files of model versions; the bytes are in the blob store under sha256.",
)

model_promotions = Table(
    "model_promotions",
    metadata,
    Column("id", Number, primary_key=True),
    Column("model_id", Number, ForeignKey("model_versions.id"), nullable=False),
    Column("name", String(200), nullable=False, comment="of the model"),
    Column("kind", String(16), nullable=False, comment="promote or rollback"),
    Column("reason", Text, nullable=False, comment="figures, or what the caller gave"),
    Column("created_at", Double, nullable=False),
    Index(None, "name", "id"),
    Index(None, "model_id"),
    comment="Promotions and rollbacks; the last row of a name is its current version.",
)

training_jobs = Table(
    "training_jobs",
    metadata,
    Column("id", Number, primary_key=True),
    Column("model", String(200), nullable=False, comment="name of the version to be made"),
    Column("snapshot", String(200), nullable=False, comment="name"),
    Column("settings", Text, nullable=False, comment="JSON: split, size, steps, seed"),
    Column("state", String(16), nullable=False, comment="see training_jobs.TrainingState"),
    Column("progress", Text, nullable=False, comment="JSON, the latest; or empty"),
    Column("message", Text, nullable=False, comment="what it waits for, or why it failed"),
    Column("version", Integer, nullable=False, comment="the version it made; or 0"),
    Column("attempts", Integer, nullable=False, comment="starts without an orderly end"),
    Column("owner", String(64), nullable=False, comment="server that works on it; or empty"),
    Column("lease_until", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    Column(
        "created_by", String(128), nullable=False, server_default=text("''"), comment=CREATED_BY
    ),
    Column("updated_at", Double, nullable=False),
    Index(None, "state", "lease_until"),
    **NEVER_REUSED,
    comment="Trainings of students: queued, running and ended.",
)

calibrators = Table(
    "calibrators",
    metadata,
    Column("id", Number, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True, comment="sha256 of its content"),
    Column("name", String(200), nullable=False, comment="the newest of a name counts; or empty"),
    Column("content", Text, nullable=False, comment="JSON, see labeling.calibrator"),
    Column("created_at", Double, nullable=False),
    Index(None, "name", "id"),
    comment="Calibrators; immutable. The settings of a run name one by its digest.",
)

guarantees = Table(
    "guarantees",
    metadata,
    Column("id", Number, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("run_id", Number, ForeignKey("runs.id"), nullable=False),
    Column("calibrator", String(64), nullable=False, comment="digest; empty: raw probabilities"),
    Column("queue", String(200), nullable=False, comment="name of its review queue; or empty"),
    Column("state", String(16), nullable=False, comment="see guarantees.GuaranteeState"),
    Column("settings", Text, nullable=False, comment="JSON: what was asked for, seed, sample"),
    Column("certificate", Text, nullable=False, comment="JSON; empty until it is certified"),
    Column("monitor", Text, nullable=False, comment="JSON of its checks; empty before the first"),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Index(None, "run_id"),
    **NEVER_REUSED,
    comment="Precision guaranteed for what a run accepts, with its certificate.",
)

guarantee_events = Table(
    "guarantee_events",
    metadata,
    Column("id", Number, primary_key=True),
    Column("guarantee_id", Number, ForeignKey("guarantees.id"), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("content", Text, nullable=False, comment="JSON"),
    Column("created_at", Double, nullable=False),
    Index(None, "guarantee_id", "id"),
    comment="History of guarantees: rows are only added.",
)

decoys = Table(
    "decoys",
    metadata,
    Column("id", Number, primary_key=True),
    Column("run_id", Number, ForeignKey("runs.id"), nullable=False),
    Column("image_id", Number, ForeignKey("images.id"), nullable=False),
    Column("evidence_id", Number, ForeignKey("evidence.id"), nullable=False),
    Column("kind", String(32), nullable=False, comment="see core.types.DecoyKind"),
    Column("class_name", String(120), nullable=False),
    Column("x1", Double, nullable=False),
    Column("y1", Double, nullable=False),
    Column("x2", Double, nullable=False),
    Column("y2", Double, nullable=False),
    Column("p_yes", Double, comment="null: no answer"),
    Column("raw", Text, nullable=False, comment="the verifier's first words"),
    Column("error", Text, nullable=False, comment="why there is no answer; or empty"),
    Column("exact", Boolean, nullable=False, comment="false: p_yes was parsed from words"),
    Index(None, "run_id", "id"),
    Index(None, "image_id"),
    Index(None, "evidence_id"),
    comment="Questions whose answer is no, asked with those of the evidence to audit the verifier.",
)

uncertainties = Table(
    "uncertainties",
    metadata,
    Column("id", Number, primary_key=True),
    Column("decision_id", Number, ForeignKey("decisions.id"), nullable=False),
    Column("method", String(16), nullable=False),
    Column("source", Text, nullable=False, comment="models and options, in words"),
    Column("content", LargeBinary, nullable=False, comment="see uncertainties: JSON, packed"),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("decision_id", "method"),
    comment="How uncertain the judgements of a result are, by one method.",
)

embeddings = Table(
    "embeddings",
    metadata,
    Column("id", Number, primary_key=True),
    Column("image_id", Number, ForeignKey("images.id"), nullable=False),
    Column("model_id", Number, ForeignKey("texts.id"), nullable=False, comment="name@digest"),
    Column("box", LargeBinary(16), nullable=False, comment="4 float32; empty: the whole image"),
    Column("vector", LargeBinary, nullable=False, comment="of length 1, float16"),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("image_id", "model_id", "box"),
    Index(None, "model_id", "id"),
    comment="What images and boxes look like, as vectors of a model.",
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Number, primary_key=True),
    Column("name", String(128), nullable=False),
    Column("digest", LargeBinary(32), nullable=False, unique=True, comment="SHA-256 of the secret"),
    Column("access", Text, nullable=False, comment="JSON: roles, streams, models"),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, comment="null: never"),
    Column("revoked_at", Double),
    Column("used_at", Double, comment="within some minutes"),
    comment="Who may call the server; the secrets themselves are nowhere.",
    **NEVER_REUSED,
)
