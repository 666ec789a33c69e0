"""Settings of the agent: default < file < environment < flag, as those of the service.

A file is TOML with the names below as keys, named by ``--config`` or ``SECONDLOOK_EDGE_CONFIG``;
a variable is ``SECONDLOOK_EDGE_`` and the name in capitals; a flag is ``--`` and the name with
dashes.
"""

import difflib
import logging
import math
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

from secondlook.edge.choosing import ChoosingRules
from secondlook.edge.opening import PRECISIONS
from secondlook.errors import BadSetting, NotFound
from secondlook.setting_rules import Rule, setting
from secondlook_client.spool import WHEN_FULL

log = logging.getLogger(__name__)

PREFIX = "SECONDLOOK_EDGE_"
LOG_LEVELS = ("debug", "info", "warning", "error")
UNLIMITED = ("none", "unlimited", "inf")


@dataclass(frozen=True)
class EdgeSettings:
    """Everything that ``secondlook-edge run`` needs. Raises ``BadSetting``."""

    source: str = setting("", "Folder of pictures, video file, /dev/video0, rtsp://… or http://…")
    student: str = setting("", "Folder of a student to begin with, or to use without a server.")
    server: str = setting("", "HOST:PORT of the service: frames go there, models come from it.")
    model: str = setting("", "Name of the model on the server that is used and kept up to date.")
    models: str = setting("edge-models", "Folder for models that were fetched.")
    spool: str = setting("edge-spool", "Folder for frames until the server has them.")
    stream: str = setting("", "Name of this device's frames on the server; default: the host's.")
    ontology: str = setting("", "YAML file of classes to label, instead of the student's.")
    precision: str = setting("auto", "Which model of a student runs.", choices=PRECISIONS)
    threads: int = setting(0, "CPU threads of the model; 0: as many as help.", low=0, high=256)
    floor: float = setting(0.05, "Raw scores below this are not looked at.", low=0, high=1)
    fps: float = setting(0.0, "Most frames a second; 0: all of them.", low=0, high=1000)
    follow: bool = setting(False, "Wait for new pictures in the folder.")
    every_s: float = setting(
        0.0, "Seconds between two pictures of a folder when taken; 0: clock.", low=0, high=86_400
    )
    hook: str = setting("", "Function that gets frame and detections: package.module:function.")
    quiet: bool = setting(False, "Print no detections.")
    budget: str = setting("60", "Frames sent an hour: a number, or none for no limit.")
    uncertain_low: float = setting(0.3, "Probabilities from here …", low=0, high=1)
    uncertain_high: float = setting(0.7, "… to here are uncertain.", low=0, high=1)
    novel_bits: int = setting(
        16, "Bits of 64 by which a novel frame differs from those sent.", low=0, high=64
    )
    rare_share: float = setting(
        0.02, "Share of late sightings under which a class is rare.", low=0, high=1
    )
    random_share: float = setting(
        0.001, "Share of all frames that is sent at random.", low=0, high=1
    )
    random_reserve: float = setting(
        0.2, "Part of the budget for random frames alone.", low=0, high=1
    )
    seed: int = setting(0, "Of the random frames.", low=0, high=2**63 - 1)
    spool_mb: int = setting(1024, "Megabytes of frames on disk at most.", low=1, high=10**7)
    when_full: str = setting("drop_oldest", "What a full spool does.", choices=WHEN_FULL[:2])
    sync: bool = setting(True, "Each frame survives a power cut, at the price of slower writes.")
    poll_s: float = setting(
        60.0, "Seconds between two looks for a newer model.", low=0.05, high=86_400
    )
    keep_models: int = setting(3, "Versions of the model kept on disk.", low=2, high=100)
    slower: float = setting(
        3.0, "A new model may take so many times the old one's time; 0: any.", low=0, high=1000
    )
    wait: bool = setting(False, "Without any model yet, wait for the server's.")
    flush_s: float = setting(
        60.0, "Seconds that the end of a source waits for frames to be sent.", low=0, high=86_400
    )
    health: str = setting("", "File that says how the agent is, rewritten every few seconds.")
    health_s: float = setting(5.0, "Seconds between two versions of it.", low=0.05, high=3600)
    health_port: int | None = setting(
        None,
        "Port of /metrics (Prometheus) and /health; off by default.",
        kind=int,
        low=0,
        high=65535,
        optional=True,
    )
    health_host: str = setting("127.0.0.1", "Address of that port.")
    log_level: str = setting("info", "Least severe messages logged.", choices=LOG_LEVELS)

    def __post_init__(self) -> None:
        for f in fields(self):
            read = _rule(f).read(getattr(self, f.name), f"setting '{f.name}'")
            object.__setattr__(self, f.name, read)
        if self.server and ":" not in self.server:
            raise BadSetting(f"server: expected HOST:PORT, got '{self.server}'")
        self.choosing()

    def choosing(self) -> ChoosingRules:
        """What is sent. Raises ``BadSetting``."""
        return ChoosingRules(
            low=self.uncertain_low,
            high=self.uncertain_high,
            novel_bits=self.novel_bits,
            near_bits=min(ChoosingRules.near_bits, self.novel_bits),
            rare_share=self.rare_share,
            random_share=self.random_share,
            budget=_budget(self.budget),
            random_reserve=self.random_reserve,
        )


def rules() -> dict[str, Rule]:
    """The rule of every setting, in order."""
    return {f.name: _rule(f) for f in fields(EdgeSettings)}


def load_settings(
    flags: Mapping[str, object],
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> EdgeSettings:
    """Settings from all sources; ``flags`` maps names to values, None where not given.

    Raises ``BadSetting`` for an unknown name or a value out of range, naming where it came from,
    and ``NotFound`` for a file that is named and missing.
    """
    environ = os.environ if environ is None else environ
    if file is None and environ.get(f"{PREFIX}CONFIG"):
        file = Path(environ[f"{PREFIX}CONFIG"])
    values: dict[str, Any] = {}
    values |= _from_file(file) if file is not None else {}
    values |= _from_environment(environ)
    given = {name: value for name, value in flags.items() if value is not None}
    values |= _read_all(given, lambda name: f"--{name.replace('_', '-')}")
    return EdgeSettings(**values)


def _from_file(path: Path) -> dict[str, object]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        raise NotFound(
            f"there is no settings file '{path}'; check the path given as --config"
        ) from cause
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as cause:
        raise BadSetting(f"'{path}' cannot be read as TOML: {cause}") from cause
    return _read_all(found, lambda name: f"setting '{name}' in '{path}'")


def _from_environment(environ: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for variable, value in environ.items():
        name = variable.removeprefix(PREFIX).lower()
        if not variable.startswith(PREFIX) or name == "config":
            continue
        if name in rules():
            found[name] = value
        else:
            log.warning("%s is not a setting and is ignored%s", variable, _meant(name))
    return _read_all(found, lambda name: f"environment variable {PREFIX}{name.upper()}")


def _read_all(given: Mapping[str, object], what: Callable[[str], str]) -> dict[str, object]:
    known = rules()
    for name in given:
        if name not in known:
            raise BadSetting(f"{what(name)} is unknown{_meant(name)}")
    # A budget may be written as a number, in TOML as well.
    plain = {k: str(v) if k == "budget" else v for k, v in given.items()}
    return {name: known[name].read(value, what(name)) for name, value in plain.items()}


def _budget(text: str) -> float:
    if text.strip().lower() in UNLIMITED:
        return math.inf
    try:
        budget = float(text.strip().removesuffix("/h"))
    except ValueError:
        budget = -1.0
    if not 0 <= budget < math.inf:
        raise BadSetting(f"budget: expected frames an hour or 'none', got '{text}'")
    return budget


def _rule(f: "Field[Any]") -> Rule:
    rule = f.metadata["rule"]
    assert isinstance(rule, Rule)
    return rule


def _meant(name: str) -> str:
    close = difflib.get_close_matches(name, rules(), 1)
    return f"; did you mean '{close[0]}'?" if close else f"; known are {', '.join(rules())}"
