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
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from secondlook.core.errors import BadSetting, NotFound

# What one setting means, which values it takes, and how text becomes one of them.

LOG_LEVELS = ("debug", "info", "warning", "error")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Rule:
    """What one setting means and which values it takes."""

    default: Any
    help: str
    """One line for a person, with the unit."""
    kind: type
    """``str``, ``int``, ``float`` or ``bool``."""
    low: float | None = None
    """Least value allowed."""
    high: float | None = None
    """Greatest value allowed."""
    choices: tuple[str, ...] = ()
    optional: bool = False
    """None is allowed and means "off"."""
    as_text: bool = False
    """Whatever is given is taken as its text, such as a number in TOML."""

    def read(self, value: object, what: str) -> Any:
        """``value``, of the right type and in range; text is parsed.

        Raises ``BadSetting``; ``what`` names the setting and where the value came from.
        """
        if value is None and self.optional:
            return None
        converted = _convert(str(value) if self.as_text else value, self.kind)
        if converted is None or not self._allows(converted):
            raise BadSetting(f"{what}: expected {self.expected}, got {value!r}")
        return converted

    def _allows(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        low, high = self.low, self.high
        return (low is None or value >= low) and (high is None or value <= high)

    @property
    def expected(self) -> str:
        """The values allowed, in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        word = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
        if self.low is not None and self.high is not None:
            return f"{word[self.kind]} from {self.low:g} to {self.high:g}"
        return word[self.kind] + (f" of at least {self.low:g}" if self.low is not None else "")

    @property
    def metavar(self) -> str:
        """What stands for a value in ``--help``."""
        return {int: "N", float: "X"}.get(self.kind, "TEXT")

    @property
    def help_line(self) -> str:
        """The meaning, the values allowed and the default, for ``--help``."""
        allowed = ""
        if self.choices:
            allowed = f"{', '.join(self.choices)}; "
        elif self.low is not None and self.high is not None:
            allowed = f"{self.low:g} to {self.high:g}; "
        default = "off" if self.default is None else str(self.default) or "none"
        return f"{self.help}  [{allowed}default: {default}]"


def setting(default: Any, help: str, **rule: Any) -> Any:
    """A dataclass field that carries its ``Rule``."""
    kind = rule.pop("kind", type(default))
    return field(default=default, metadata={"rule": Rule(default, help, kind, **rule)})


def rules_of(settings: Any) -> dict[str, Rule]:
    """The rule of every setting of a dataclass, in order."""
    return {f.name: f.metadata["rule"] for f in fields(settings)}


def check(settings: Any) -> None:
    """Read every value of a dataclass by its rule; for values that are given in code.

    Raises ``BadSetting``.
    """
    for name, rule in rules_of(settings).items():
        read = rule.read(getattr(settings, name), f"setting '{name}'")
        object.__setattr__(settings, name, read)


def _convert(value: object, kind: type) -> Any:
    """``value`` as ``kind``, or None when it is none; True is no number and 1.5 no count."""
    if isinstance(value, str) and kind is not str:
        return _parse(value.strip(), kind)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) and kind is not bool:
        return None
    return value if isinstance(value, kind) else None


def _parse(text: str, kind: type) -> Any:
    if kind is bool:
        return {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}.get(text.lower())
    try:
        return kind(text)
    except ValueError:
        return None


# Where settings come from: default < file < environment < flag.
#
# A file is TOML with the settings' names as keys; a variable is a prefix and the name in capitals;
# a flag is ``--`` and the name with dashes.

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SettingSources:
    """The places in which one program looks for its settings."""

    rules: Mapping[str, Rule]
    prefix: str
    """Of its environment variables; with CONFIG behind it, the one that names the file."""
    usual_file: Path | None = None
    """Read where no other is named, if it is there."""
    shorthands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names that set several settings at once; a setting given by its own name wins."""
    foreign: Callable[[str, str], bool] = lambda name, value: False
    """Whether a variable with our prefix, by its name behind that and its value, is no setting."""

    def read(
        self,
        flags: Mapping[str, object],
        file: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The values given, the last source's of each; each was read by its rule.

        ``flags`` maps names to values, None where not given; ``environ`` is the process's
        environment unless given. Raises ``BadSetting`` for an unknown name or a value out of
        range, naming where it came from, and ``NotFound`` for a file that is named and missing.
        """
        environ = os.environ if environ is None else environ
        given = {name: value for name, value in flags.items() if value is not None}
        return {
            **self._from_file(file or self._file(environ)),
            **self._from_environment(environ),
            **self._read_all(given, lambda name: f"--{name.replace('_', '-')}"),
        }

    def _file(self, environ: Mapping[str, str]) -> Path | None:
        if named := environ.get(f"{self.prefix}CONFIG"):
            return Path(named)
        return self.usual_file if self.usual_file and self.usual_file.is_file() else None

    def _from_file(self, path: Path | None) -> dict[str, Any]:
        if path is None:
            return {}
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as cause:
            raise NotFound(
                f"there is no settings file '{path}'; check the path given as --config"
            ) from cause
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as cause:
            raise BadSetting(f"'{path}' cannot be read as TOML: {cause}") from cause
        return self._read_all(found, lambda name: f"setting '{name}' in '{path}'")

    def _from_environment(self, environ: Mapping[str, str]) -> dict[str, Any]:
        found: dict[str, object] = {}
        for variable, value in environ.items():
            name = variable.removeprefix(self.prefix)
            if name in (variable, "CONFIG") or self.foreign(name, value):
                continue
            if name.lower() in self._names:
                found[name.lower()] = value
            else:  # others may use the prefix too, so this is no error
                meant = self._meant(name.lower())
                log.warning("%s is not a setting and is ignored%s", variable, meant)
        return self._read_all(
            found, lambda name: f"environment variable {self.prefix}{name.upper()}"
        )

    def _read_all(self, given: Mapping[str, object], what: Callable[[str], str]) -> dict[str, Any]:
        """One source's values, each read by its rule, shorthands spelled out."""
        spelled: dict[str, Any] = {}
        for name, value in given.items():
            if name not in self._names:
                raise BadSetting(f"{what(name)} is unknown{self._meant(name)}")
            for target in self.shorthands.get(name, (name,)):
                if target == name or target not in given:
                    spelled[target] = self.rules[target].read(value, what(name))
        return spelled

    @property
    def _names(self) -> list[str]:
        return [*self.rules, *self.shorthands]

    def _meant(self, name: str) -> str:
        close = difflib.get_close_matches(name, self._names, 1)
        return f"; did you mean '{close[0]}'?" if close else f"; known are {', '.join(self._names)}"


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
    batch: int = setting(32, "Images or views in one pass of a model.", low=1, high=4096)
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
    propose_batch: int = setting(8, "Images in one call of the proposer.", low=1, high=1024)
    verify_batch: int = setting(
        8, "Images whose boxes go to the verifier in one call.", low=1, high=1024
    )
    view_batch: int = setting(32, "Views in one pass of the verifier's model.", low=1, high=4096)
    max_wait_ms: float = setting(
        5.0, "Milliseconds that the first image of a batch waits for company.", low=0, high=10_000
    )
    max_images: int = setting(
        64, "Images inside at one time; one more is told to come back.", low=1, high=100_000
    )
    floor: float = setting(0.1, "Proposer scores below this are not kept.", low=0, high=1)
    max_boxes: int = setting(100, "Boxes kept an image, best first.", low=1, high=10_000)
    max_iou: float = setting(
        0.6, "Boxes of one contrast group that overlap more are one object.", low=0, high=1
    )
    cache_answers: int = setting(
        20_000, "Answers of the verifier remembered; 0 remembers none.", low=0, high=10**8
    )
    max_image_bytes: int = setting(
        64 * 2**20, "Bytes of one encoded image.", low=1, high=2**31 - 2**16
    )
    max_image_pixels: int = setting(64_000_000, "Pixels of one decoded image.", low=1, high=10**9)
    max_image_side: int = setting(30_000, "Pixels along one side of an image.", low=1, high=10**6)
    data: str = setting("", "Folder that everything is kept in; without one, nothing is kept.")
    database_url: str = setting("", "postgresql://… instead of SQLite in the data folder.")
    blob_url: str = setting("", "s3://bucket/prefix for images, instead of the data folder.")
    allow_root: str = setting(
        "", f"Folders that jobs may read images from, with '{os.pathsep}' between."
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
