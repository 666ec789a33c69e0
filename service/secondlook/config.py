"""Settings: default < file < environment < flag. Each knows its range, and where it came from.

A file is TOML with the names below as keys (``secondlook.toml`` in the working folder, or one
named by ``--config`` or ``SECONDLOOK_CONFIG``); a variable is ``SECONDLOOK_`` and the name in
capitals; a flag is ``--`` and the name with dashes. ``models`` is short for setting ``proposer``
and ``verifier`` alike.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from secondlook.setting_rules import LOG_LEVELS, Rule, check, rules_of, setting
from secondlook.setting_sources import SettingSources

PREFIX = "SECONDLOOK_"
FILE_NAME = "secondlook.toml"
DTYPES = ("auto", "float32", "bfloat16", "float16")
SHORTHANDS = {"models": ("proposer", "verifier")}
"""Names that set several settings at once; a setting given by its own name wins."""
NOT_SETTINGS = frozenset({"TEST_DATA", "OPENAI_API_KEY"})
"""Variables with our prefix that mean something else; so do those of ``secondlook-edge``, EDGE_…"""


@dataclass(frozen=True)
class ModelOptions:
    """What a model plug-in is loaded with. Raises ``BadSetting`` for a value out of range."""

    device: str = setting("auto", "Where models run: auto, cpu, cuda, cuda:1, mps.")
    dtype: str = setting("auto", "Precision of matrix products.", choices=DTYPES)
    batch: int = setting(32, "Pictures or views in one pass of a model.", low=1, high=4096)
    trust_remote_code: bool = setting(False, "Run code that comes with a checkpoint.")
    timeout_s: float = setting(
        60.0, "Seconds that a model backend may take for one call.", low=0.001, high=3600
    )
    concurrency: int = setting(4, "Calls at one time to a model backend.", low=1, high=256)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Settings:
    """Everything that ``serve`` and labelling in process need.

    Raises ``BadSetting`` for a value out of range. The meaning and range of each setting is in
    its ``Rule``; ``rules()`` gives them all.
    """

    proposer: str = setting("demo", "Model that finds boxes: NAME[:ARGUMENT], folder, org/name.")
    verifier: str = setting("demo", "Model that takes the second look, or 'none'.")
    ontology: str = setting("", "YAML file with the classes served by default.")
    cascade: str = setting(
        "",
        "Folder of a student that labels alone what it is certain of, as long as audits agree; or "
        "model:NAME, the promoted version of the server's own models.",
    )
    audit_share: float = setting(
        0.1, "Share of what a trusted student is certain of that is audited.", low=0.02, high=1
    )
    agreement: float = setting(
        0.85, "Mean F1 with the teachers that a student must reach alone.", low=0.1, high=0.99
    )
    device: str = setting("auto", "Where models run: auto, cpu, cuda, cuda:1, mps.")
    dtype: str = setting("auto", "Precision of matrix products.", choices=DTYPES)
    trust_remote_code: bool = setting(False, "Run code that comes with a checkpoint.")
    threads: int = setting(0, "CPU threads of the models; 0 leaves it to torch.", low=0, high=1024)
    timeout_s: float = setting(
        60.0, "Seconds that a model backend may take for one call.", low=0.001, high=3600
    )
    concurrency: int = setting(4, "Calls at one time to a model backend.", low=1, high=256)
    propose_batch: int = setting(8, "Pictures in one call of the proposer.", low=1, high=1024)
    verify_batch: int = setting(
        8, "Pictures whose boxes go to the verifier in one call.", low=1, high=1024
    )
    view_batch: int = setting(32, "Views in one pass of the verifier's model.", low=1, high=4096)
    max_wait_ms: float = setting(
        5.0, "Milliseconds that the first picture of a batch waits for company.", low=0, high=10_000
    )
    max_pictures: int = setting(
        64, "Pictures inside at one time; one more is told to come back.", low=1, high=100_000
    )
    floor: float = setting(0.1, "Proposer scores below this are not kept.", low=0, high=1)
    max_boxes: int = setting(100, "Boxes kept a picture, best first.", low=1, high=10_000)
    max_iou: float = setting(
        0.6, "Boxes of one contrast group that overlap more are one object.", low=0, high=1
    )
    cache_answers: int = setting(
        20_000, "Answers of the verifier remembered; 0 remembers none.", low=0, high=10**8
    )
    max_image_bytes: int = setting(
        64 * 2**20, "Bytes of one encoded picture.", low=1, high=2**31 - 2**16
    )
    max_image_pixels: int = setting(64_000_000, "Pixels of one decoded picture.", low=1, high=10**9)
    max_image_side: int = setting(30_000, "Pixels along one side of a picture.", low=1, high=10**6)
    data: str = setting("", "Folder that everything is kept in; without one, nothing is kept.")
    database_url: str = setting("", "postgresql://… instead of SQLite in the data folder.")
    blob_url: str = setting("", "s3://bucket/prefix for pictures, instead of the data folder.")
    allow_root: str = setting(
        "", f"Folders that jobs may read pictures from, with '{os.pathsep}' between."
    )
    trainings: int = setting(1, "Students trained at one time; 0 trains none.", low=0, high=64)
    host: str = setting("127.0.0.1", "Address to listen on; 0.0.0.0 opens it to the network.")
    port: int = setting(50051, "Port of the service; 0 picks a free one.", low=0, high=65535)
    metrics_port: int | None = setting(
        None,
        "Port of the Prometheus metrics; off by default.",
        kind=int,
        low=0,
        high=65535,
        optional=True,
    )
    grace_s: float = setting(
        30.0, "Seconds a server that is told to stop may take to finish.", low=0, high=86_400
    )
    log_level: str = setting("info", "Least severe messages logged.", choices=LOG_LEVELS)

    def __post_init__(self) -> None:
        check(self)

    @property
    def keeps(self) -> bool:
        """Whether there is a store at all."""
        return bool(self.data or self.database_url)

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders of ``allow_root``."""
        return tuple(Path(part) for part in self.allow_root.split(os.pathsep) if part)

    def model_options(self) -> ModelOptions:
        """The part that model plug-ins are loaded with."""
        return ModelOptions(
            device=self.device,
            dtype=self.dtype,
            batch=self.view_batch,
            trust_remote_code=self.trust_remote_code,
            timeout_s=self.timeout_s,
            concurrency=self.concurrency,
        )


def rules() -> dict[str, Rule]:
    """The rule of every setting, in order: what ``--help`` and the checks are made from."""
    return rules_of(Settings)


def load_settings(
    flags: Mapping[str, object] | None = None,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Settings from all sources; arguments and errors are those of ``SettingSources.read``."""
    sources = SettingSources(rules(), PREFIX, Path(FILE_NAME), SHORTHANDS, _is_foreign)
    return Settings(**sources.read(flags or {}, file, environ))


def _is_foreign(name: str, value: str) -> bool:
    # Kubernetes sets SECONDLOOK_PORT=tcp://… and more in pods beside a service of that name.
    is_service_link = ("://" in value and name.startswith("PORT")) or name.startswith("SERVICE_")
    return is_service_link or name in NOT_SETTINGS or name.startswith("EDGE_")
