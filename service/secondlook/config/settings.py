"""Every setting of the service and of labelling in process; the only place with their defaults.

Each is read from, the later winning: ``secondlook.toml`` in the working folder (or the file named
by ``--config`` or ``SECONDLOOK_CONFIG``) with the names below as keys; a variable, ``SECONDLOOK_``
and the name in capitals; a flag, ``--`` and the name with dashes. ``models`` is short for setting
``proposer`` and ``verifier`` alike. A group is passed whole to what it governs.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secondlook.config.spec import LOG_LEVELS, SettingGroup, SettingSources, setting

PROPOSERS, VERIFIERS = "secondlook.proposers", "secondlook.verifiers"
SEGMENTERS, EMBEDDERS = "secondlook.segmenters", "secondlook.embedders"
"""Groups of entry points that name the models."""
FASTEST = "fastest"
DTYPES = ("auto", "float32", "bfloat16", "float16", FASTEST)


@dataclass(frozen=True)
class ModelSettings(SettingGroup):
    """Which models run, and how: what a model plug-in is loaded with."""

    title = "Models"

    proposer: str = setting(
        "demo",
        "Model that proposes boxes: NAME[:ARGUMENT], a checkpoint's folder, or org/name.",
        unit="model",
        plugins=PROPOSERS,
        common=True,
    )
    verifier: str = setting(
        "demo",
        "Model that verifies each box: as --proposer, or 'none' for no verification.",
        unit="model",
        plugins=VERIFIERS,
        common=True,
    )
    segmenter: str = setting(
        "none",
        "Model that outlines the object of each accepted box with a mask: demo (synthetic scenes "
        "only), NAME[:ARGUMENT], or 'none' for boxes alone.",
        unit="model",
        plugins=SEGMENTERS,
        common=True,
    )
    device: str = setting(
        "auto",
        "Device of the models: auto, cpu, cuda, cuda:1 or mps.",
        unit="device",
        common=True,
    )
    dtype: str = setting(
        "auto",
        "Data type of matrix products; fastest: tried here, if outcomes stay the same.",
        choices=DTYPES,
    )
    trust_remote_code: bool = setting(False, "Run Python code that comes with a checkpoint.")
    threads: int = setting(
        0, "CPU threads of each model; 0: chosen by the library.", low=0, high=1024
    )
    model_batch: int = setting(
        32,
        "Maximum batch size of one forward pass of a model, in images or crops.",
        low=1,
        high=4096,
    )
    backend_timeout_s: float = setting(
        60.0, "Timeout of one request to a remote model.", unit="seconds", low=0.001, high=3600
    )
    backend_concurrency: int = setting(
        4, "Maximum concurrent requests to a remote model.", low=1, high=256
    )
    tile: int = setting(
        0,
        "Show the proposer also overlapping tiles with this side of an image that is larger, for "
        "small objects; takes a pass of the model each. 0: the whole image only.",
        unit="pixels",
        low=0,
        high=30_000,
    )
    tile_overlap: float = setting(
        0.2,
        "Share of a tile that its neighbours show too; objects up to that size lie whole in one.",
        unit="share",
        low=0,
        high=0.75,
    )
    tile_where: str = setting(
        "all",
        "Which tiles are looked at: all, or only those where a pass has small candidates, first "
        "that of the whole image; this takes less and finds less.",
        choices=("all", "small"),
    )


@dataclass(frozen=True)
class PipelineSettings(SettingGroup):
    """What the stages keep of an image."""

    title = "Pipeline"

    score_floor: float = setting(
        0.1, "Proposals with a lower score are dropped.", unit="score", low=0, high=1
    )
    max_boxes: int = setting(
        100, "Maximum proposals per image, the best first.", low=1, high=10_000
    )
    nms_iou: float = setting(
        0.6,
        "IoU above which boxes of one contrast group are duplicates (non-maximum suppression).",
        unit="IoU",
        low=0,
        high=1,
    )
    duplicate_iou: float = setting(
        0.45,
        "After verification: IoU above which two accepted boxes of a class mark one object, of "
        "which the more probable one stays; 1 keeps both.",
        unit="IoU",
        low=0,
        high=1,
    )
    calibrator: str = setting(
        "auto",
        "Calibrator that turns scores and answers into the probability that a label is right: "
        "auto (the embedded one, for the embedded models and their own classes), none, the file "
        "of one, or the name of one in the store.",
        unit="calibrator",
    )
    verify_budget: str = setting(
        "all",
        "Share of the questions that the verifier is asked, as measured on the scenes of the "
        "calibrator's fit: all, auto (as few as cost next to no label there), or a share such as "
        "0.4. The calibrator decides what is certain without an answer.",
        unit="share",
    )
    segment: str = setting(
        "accepted",
        "With a segmenter, which boxes get a mask: accepted ones, or all that were judged, which "
        "takes longer and shows what was rejected too.",
        choices=("accepted", "all"),
    )
    verdict_cache_size: int = setting(
        20_000, "Verdicts cached in memory; 0 disables the cache.", low=0, high=10**8
    )

    reuse_answers: bool = setting(
        False,
        "Reuse the answers about a box for the same place of later images of a job or stream while "
        "it barely changes there, as with a still camera; kept with the label is the image that "
        "was asked about.",
    )
    verify_empty: bool = setting(
        False,
        "Ask the verifier about each image that would be empty, one question for each class, "
        "whether it shows one; only if all answers are no is it verified empty.",
    )
    empty_tiles: int = setting(
        1,
        "With verify_empty, ask about each of this many × this many tiles of the image: small "
        "objects show better, and it takes as many questions.",
        low=1,
        high=8,
    )
    decoys: float = setting(
        0.0,
        "Questions whose answer is known to be no, as a share of the real ones, to audit the "
        "verifier: see `secondlook decoys`. They change no label.",
        low=0,
        high=0.5,
    )

    def recorded(self) -> dict[str, Any]:
        """The settings that shape results, to be kept with each run; plain values by name.

        Those of empty images only where these are verified, the budget only where there is one,
        and that answers are reused only where they are: runs of before had no such settings.
        """
        names = ["score_floor", "max_boxes", "nms_iou", "duplicate_iou"]
        names += ["verify_empty", "empty_tiles"] if self.verify_empty else []
        names += ["verify_budget"] if self.verify_budget != "all" else []
        names += ["reuse_answers"] if self.reuse_answers else []
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class BatchingSettings(SettingGroup):
    """How images of all callers share batches."""

    title = "Batching"

    propose_batch: int = setting(8, "Maximum images per call of the proposer.", low=1, high=1024)
    verify_batch: int = setting(
        8, "Maximum images whose boxes are verified in one call.", low=1, high=1024
    )
    batching_window_ms: float = setting(
        20.0,
        "Batching window: how long the first image of a batch waits for others at most; no longer "
        "than one more batch would cost, and not at all where none came lately or there was "
        "nothing to do.",
        unit="ms",
        low=0,
        high=10_000,
    )
    max_in_flight: int = setting(
        64,
        "Maximum images in flight; more are refused with RESOURCE_EXHAUSTED.",
        low=1,
        high=100_000,
    )
    max_queue_s: float = setting(
        0.0,
        "How long a call may wait beyond the time that keeps batches full, at the measured rate; "
        "more calls are refused with a retry hint. Longer takes bursts of clients that do not "
        "retry, and answers later under load.",
        unit="seconds",
        low=0,
        high=600,
    )


@dataclass(frozen=True)
class CascadeSettings(SettingGroup):
    """Which student labels images in place of the proposer and verifier, and when."""

    title = "Cascade"

    student: str = setting(
        "",
        "Student that labels alone what it is certain of, while audits agree with it: its folder, "
        "or model:NAME for the promoted version of a model of this server.",
        unit="student",
    )
    audit_share: float = setting(
        0.1,
        "Share of the student's certain images that the large models label too, as an audit.",
        low=0.02,
        high=1,
    )
    agreement: float = setting(
        0.85,
        "Mean F1 against the large models that the student must exceed to label alone.",
        unit="F1",
        low=0.1,
        high=0.99,
    )
    shadow_share: float = setting(
        1.0,
        "Share of images on which a student that is not trusted yet runs beside the large models.",
        low=0.01,
        high=1,
    )


@dataclass(frozen=True)
class ImageSettings(SettingGroup):
    """How large an image may be, and what decoding images may take."""

    title = "Images"

    max_image_bytes: int = setting(
        64 * 2**20, "Maximum size of an encoded image.", unit="bytes", low=1, high=2**31 - 2**16
    )
    max_image_pixels: int = setting(
        64_000_000,
        "Maximum width × height of an image; checked before it is decoded.",
        unit="pixels",
        low=1,
        high=10**9,
    )
    max_image_side: int = setting(
        30_000, "Maximum width or height of an image.", unit="pixels", low=1, high=10**6
    )
    max_decoded_bytes: int = setting(
        256 * 2**20,
        "Maximum memory of decoded images; more are refused with RESOURCE_EXHAUSTED, or wait where "
        "they belong to a job. One image is let in whatever its size.",
        unit="bytes",
        low=2**20,
        high=2**40,
    )
    max_decode_s: float = setting(
        10.0,
        "Maximum CPU time to decode one image; it may take four times as long on a busy machine.",
        unit="seconds",
        low=0.1,
        high=3600,
    )


@dataclass(frozen=True)
class StoreSettings(SettingGroup):
    """Where images, labels, jobs, datasets and models are kept."""

    title = "Store"

    data: str = setting(
        "",
        "Folder of the store, which keeps images, results, datasets and models.",
        unit="folder",
        common=True,
    )
    database_url: str = setting(
        "",
        "PostgreSQL database instead of SQLite in --data, as postgresql://USER@HOST/NAME. Of "
        "several hosts with commas between, the one that takes writes.",
        unit="URL",
    )
    blob_url: str = setting(
        "", "Object storage for images instead of --data: s3://bucket/prefix.", unit="URL"
    )

    @property
    def given(self) -> bool:
        """Whether there is a store at all."""
        return bool(self.data or (self.database_url and self.blob_url))


@dataclass(frozen=True)
class ServerSettings(SettingGroup):
    """Where the server listens, and what it does besides labelling."""

    title = "Server"

    host: str = setting(
        "127.0.0.1",
        "Address to listen on; 0.0.0.0 opens it to the network, which takes TLS and tokens.",
        unit="address",
        common=True,
    )
    port: int = setting(
        50051, "Port of the service; 0: any free port.", low=0, high=65535, common=True
    )
    metrics_port: int | None = setting(
        None,
        "Port of the Prometheus metrics; 0: any free port.",
        kind=int,
        low=0,
        high=65535,
        optional=True,
    )
    web_port: int | None = setting(
        None,
        "Port of the web page; 0: any free port.",
        kind=int,
        low=0,
        high=65535,
        optional=True,
    )
    web_host: str = setting(
        "127.0.0.1",
        "Address that the web page listens on; beyond this machine it takes TLS and a token in the "
        "store.",
        unit="address",
    )
    web_names: str = setting(
        "",
        "Names by which the web page is opened from other machines, such as labels.lan, separated "
        "by commas.",
        unit="names",
    )
    image_roots: str = setting(
        "", f"Folders from which jobs may read images, separated by '{os.pathsep}'.", unit="folders"
    )
    max_trainings: int = setting(
        1, "Maximum concurrent trainings of students; 0 disables training.", low=0, high=64
    )
    max_jobs: int = setting(
        64,
        "Maximum jobs that are worked on at a time; others wait until one ends, or for another "
        "server.",
        low=1,
        high=1024,
    )
    encoding_cache_bytes: int = setting(
        256 * 2**20,
        "Maximum memory of cached image encodings, which answer clicks at once.",
        unit="bytes",
        low=2**20,
        high=2**40,
    )
    max_connections: int = setting(
        1000,
        "Maximum open connections, and at most what the limit of open files allows; idle ones make "
        "room for others.",
        low=16,
        high=1_000_000,
    )
    max_request_bytes: int = setting(
        128 * 2**20,
        "Maximum bytes of requests that have not arrived whole, and of those being worked on; at "
        "least one of the largest image fits.",
        unit="bytes",
        low=2**20,
        high=2**40,
    )
    receive_timeout_s: float = setting(
        60.0,
        "Time for a request to arrive whole; at 16 kB a second or faster it may take longer.",
        unit="seconds",
        low=0.1,
        high=86_400,
    )
    metrics_host: str = setting(
        "127.0.0.1",
        "Address that --metrics-port listens on; beyond this machine scrapers need TLS and a token "
        "too.",
        unit="address",
    )
    tls_cert: str = setting(
        "",
        "Certificate chain (PEM) that turns TLS on; read again when it changes.",
        unit="file",
    )
    tls_key: str = setting("", "Key of --tls-cert (PEM, without a password).", unit="file")
    tls_client_ca: str = setting(
        "",
        "Certificates (PEM) of which clients must show one signed by them: mutual TLS.",
        unit="file",
    )
    insecure: bool = setting(
        False, "Listen beyond this machine without TLS, or without any token in the store."
    )
    audit_log: str = setting(
        "",
        "File for one line of JSON per call that changes something, and per refusal; without it "
        "they go to the log, once there are tokens.",
        unit="file",
    )
    model_signing_key: str = setting(
        "",
        "Private key (PEM) of `secondlook models create-key` that signs models when they are added "
        "or promoted.",
        unit="file",
    )
    grace_s: float = setting(
        30.0,
        "Time to finish accepted work after SIGTERM, before it is cancelled.",
        unit="seconds",
        low=0,
        high=86_400,
    )
    log_level: str = setting("info", "Minimum severity of log messages.", choices=LOG_LEVELS)

    @property
    def web_name_set(self) -> frozenset[str]:
        """The names of ``web_names``, in lower case."""
        return frozenset(part.strip().lower() for part in self.web_names.split(",") if part.strip())

    @property
    def image_root_folders(self) -> tuple[Path, ...]:
        """The folders of ``image_roots``."""
        return tuple(Path(part) for part in self.image_roots.split(os.pathsep) if part)


@dataclass(frozen=True)
class OidcSettings(SettingGroup):
    """Whose JWTs are accepted in place of tokens."""

    title = "OpenID Connect"

    oidc_issuer: str = setting(
        "",
        "Issuer (iss) whose JWTs are accepted in place of tokens; from then on every caller needs "
        "one or the other.",
        unit="URL",
    )
    oidc_audience: str = setting("", "Audience (aud) that a JWT must be for.", unit="name")
    oidc_keys: str = setting(
        "",
        "Public keys of the issuer (JWKS): a file, or an https:// address that is read again every "
        "five minutes.",
        unit="file or URL",
    )
    oidc_claim: str = setting(
        "roles",
        "Claim of a JWT, a text or a list, that gives roles; with dots one inside another.",
        unit="name",
    )
    oidc_roles: str = setting(
        "",
        "Roles by value of that claim: VALUE=ROLE, separated by commas; no role, no access.",
        unit="VALUE=ROLE",
    )


@dataclass(frozen=True)
class LimitSettings(SettingGroup):
    """What one client may have under way and use up: a token, or an address without one."""

    title = "Limits of a client"

    client_connections: int = setting(
        0,
        "Maximum connections of one address; more are closed, idle ones first. 0: as many as there "
        "are.",
        low=0,
        high=1_000_000,
    )
    client_streams: int = setting(
        0,
        "Maximum open streams of a client: of a token, or of an address where no token is asked "
        "for. 0: as many as there are places.",
        low=0,
        high=1_000_000,
    )
    client_in_flight: int = setting(
        0,
        "Maximum in-flight images of a client; 0: its fair share, or all that nobody else wants.",
        low=0,
        high=100_000,
    )
    client_bytes: int = setting(
        0,
        "Maximum bytes of a client's requests that are being worked on; one fits whatever its "
        "size. 0: as all together.",
        unit="bytes",
        low=0,
        high=2**40,
    )
    client_images_per_minute: int = setting(
        0, "Maximum images per minute that a client sends; 0: no limit.", low=0, high=10**9
    )
    client_verifier_s_per_day: float = setting(
        0.0,
        "Maximum time of the verifier for a client's images per day (UTC), jobs included, as one "
        "server counts it; more images are refused until midnight. 0: no limit.",
        unit="seconds",
        low=0,
        high=86_400,
    )
    client_stored_bytes: int = setting(
        0,
        "Maximum bytes of images that a token has stored in its jobs and streams; 0: no limit.",
        unit="bytes",
        low=0,
        high=2**60,
    )


@dataclass(frozen=True)
class Settings(SettingGroup):
    """Everything that ``serve`` and labelling in process need."""

    title = "Classes"

    models: ModelSettings = ModelSettings()
    ontology: str = setting(
        "", "YAML file with the classes that are labelled by default.", unit="file", common=True
    )
    pipeline: PipelineSettings = PipelineSettings()
    batching: BatchingSettings = BatchingSettings()
    cascade: CascadeSettings = CascadeSettings()
    images: ImageSettings = ImageSettings()
    store: StoreSettings = StoreSettings()
    server: ServerSettings = ServerSettings()
    limits: LimitSettings = LimitSettings()
    oidc: OidcSettings = OidcSettings()


_OF_CLIENTS = ("TOKEN", "TOKEN_FILE", "CA", "CLIENT_CERT", "CLIENT_KEY", "PLAIN_TOKEN")
"""Variables of ``secondlook_client.channel``."""


def _is_foreign(name: str, value: str) -> bool:
    """Whether SECONDLOOK_``name`` is no setting of the service."""
    # Kubernetes sets SECONDLOOK_PORT=tcp://… and more in pods beside a service of that name.
    if ("://" in value and name.startswith("PORT")) or name.startswith("SERVICE_"):
        return True
    own = ("TEST_DATA", "OPENAI_API_KEY", *_OF_CLIENTS)
    return name in own or name.startswith(("EDGE_", "DISTILL_"))


RENAMED = {"floor": "score_floor", "max_iou": "nms_iou"}
"""Settings that were recorded with runs by other names."""

SOURCES = SettingSources(
    Settings,
    "SECONDLOOK_",
    Path("secondlook.toml"),
    {"models": ("proposer", "verifier")},
    _is_foreign,
)
load_settings = SOURCES.load
"""Settings from all sources; arguments and errors are those of ``SettingSources.load``."""
