"""Settings: default < file < environment < flag. Each knows its range, and where it came from.

A file is TOML with the names below as keys (``secondlook.toml`` in the working folder, or one
named by ``--config`` or ``SECONDLOOK_CONFIG``); a variable is ``SECONDLOOK_`` and the name in
capitals; a flag is ``--`` and the name with dashes. ``models`` is short for setting ``proposer``
and ``verifier`` alike.
"""

import difflib
import logging
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

from secondlook.errors import BadSetting, NotFound
from secondlook.setting_rules import Rule, setting

log = logging.getLogger(__name__)

PREFIX = "SECONDLOOK_"
FILE_NAME = "secondlook.toml"
DTYPES = ("auto", "float32", "bfloat16", "float16")
LOG_LEVELS = ("debug", "info", "warning", "error")
SHORTHANDS = {"models": ("proposer", "verifier")}
"""Names that set several settings at once; a setting given by its own name wins."""
NOT_SETTINGS = frozenset({"CONFIG", "TEST_DATA", "OPENAI_API_KEY"})
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
        _check(self)


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
        "", "Folder of a student that labels alone what it is certain of, as long as audits agree."
    )
    audit_share: float = setting(
        0.1, "Share of what a trusted student is certain of that is audited.", low=0.02, high=1
    )
    agreement: float = setting(
        0.9, "Mean F1 with the teachers above which a student is trusted.", low=0.1, high=0.99
    )
    certain: float = setting(
        0.9, "Probability from which a student is certain of a box.", low=0.5, high=1
    )
    doubt: float = setting(
        0.1, "Probability below which it is certain that there is none.", low=0.001, high=0.49
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
        _check(self)

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
    return {f.name: _rule(f) for f in fields(Settings)}


def load_settings(
    flags: Mapping[str, object] | None = None,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Settings from all sources: default < file < environment < flag.

    ``flags`` maps names to values; None means that the flag was not given. ``environ`` is the
    process's environment unless given. Raises ``BadSetting`` for an unknown name or a value out
    of range, naming where it came from, and ``NotFound`` for a file that is named and missing.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, object] = {}
    for source in (
        _from_file(_config_file(file, environ)),
        _from_environment(environ),
        _from_flags(flags or {}),
    ):
        values.update(source)
    return Settings(**values)  # type: ignore[arg-type]  # each was read by its own rule


def _check(values: "Settings | ModelOptions") -> None:
    """Values may also be given in code, so they are checked where they come to rest."""
    for f in fields(values):
        read = _rule(f).read(getattr(values, f.name), f"setting '{f.name}'")
        object.__setattr__(values, f.name, read)


def _rule(f: "Field[Any]") -> Rule:
    rule = f.metadata["rule"]
    assert isinstance(rule, Rule)
    return rule


def _config_file(named: Path | None, environ: Mapping[str, str]) -> Path | None:
    if named is None and environ.get(f"{PREFIX}CONFIG"):
        named = Path(environ[f"{PREFIX}CONFIG"])
    if named is None:
        return Path(FILE_NAME) if Path(FILE_NAME).is_file() else None
    if not named.is_file():
        raise NotFound(f"there is no settings file '{named}'; check the path given as --config")
    return named


def _from_file(path: Path | None) -> dict[str, object]:
    if path is None:
        return {}
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as cause:
        raise BadSetting(f"'{path}' cannot be read as TOML: {cause}") from cause
    return _read_all(found, lambda name: f"setting '{name}' in '{path}'")


def _from_environment(environ: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for variable, value in environ.items():
        name = variable.removeprefix(PREFIX)
        if name == variable or name in NOT_SETTINGS or name.startswith("EDGE_"):
            continue
        if _is_service_link(name, value):
            continue
        if name.lower() in rules() or name.lower() in SHORTHANDS:
            found[name.lower()] = value
        else:  # others may use the prefix too, so this is no error
            log.warning("%s is not a setting and is ignored%s", variable, _meant(name.lower()))
    return _read_all(found, lambda name: f"environment variable {PREFIX}{name.upper()}")


def _is_service_link(name: str, value: str) -> bool:
    """Kubernetes sets SECONDLOOK_PORT=tcp://… and more in pods beside a service of that name."""
    return ("://" in value and name.startswith("PORT")) or name.startswith("SERVICE_")


def _from_flags(flags: Mapping[str, object]) -> dict[str, object]:
    given = {name: value for name, value in flags.items() if value is not None}
    return _read_all(given, lambda name: f"--{name.replace('_', '-')}")


def _read_all(given: Mapping[str, object], what: Callable[[str], str]) -> dict[str, object]:
    """One source's values, each read by its rule, shorthands spelled out."""
    known = rules()
    spelled: dict[str, object] = {}
    for name, value in given.items():
        if name not in known and name not in SHORTHANDS:
            raise BadSetting(f"{what(name)} is unknown{_meant(name)}")
        for target in SHORTHANDS.get(name, ()):
            if target not in given:
                spelled[target] = known[target].read(value, what(name))
        if name in known:
            spelled[name] = known[name].read(value, what(name))
    return spelled


def _meant(name: str) -> str:
    names = [*rules(), *SHORTHANDS]
    close = difflib.get_close_matches(name, names, 1)
    return f"; did you mean '{close[0]}'?" if close else f"; known are {', '.join(names)}"
