"""Settings of the agent: default < file < environment < flag, as those of the service.

A file is TOML with the names below as keys, named by ``--config`` or ``SECONDLOOK_EDGE_CONFIG``;
a variable is ``SECONDLOOK_EDGE_`` and the name in capitals; a flag is ``--`` and the name with
dashes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from secondlook.config.settings import LOG_LEVELS, Rule, SettingSources, check, rules_of, setting
from secondlook.core.errors import BadSetting
from secondlook.detector.runtime import PRECISIONS
from secondlook.selection.frames import ChoosingRules
from secondlook_client.spool import WHEN_FULL

PREFIX = "SECONDLOOK_EDGE_"
UNLIMITED = ("none", "unlimited", "inf")


@dataclass(frozen=True)
class EdgeSettings:
    """Everything that ``secondlook-edge run`` needs. Raises ``BadSetting``."""

    source: str = setting("", "Folder of images, video file, /dev/video0, rtsp://… or http://…")
    student: str = setting("", "Folder of a student to begin with, or to use without a server.")
    server: str = setting("", "HOST:PORT of the service: frames go there, models come from it.")
    model: str = setting("", "Name of the model on the server that is used and kept up to date.")
    models: str = setting("edge-models", "Folder for models that were fetched.")
    spool: str = setting("edge-spool", "Folder for frames until the server has them.")
    stream: str = setting("", "Name of this device's frames on the server; default: the host's.")
    ontology: str = setting("", "YAML file of classes to label, instead of the student's.")
    precision: str = setting(
        "auto", "Model of a student that runs; auto: the quicker one.", choices=PRECISIONS
    )
    threads: int = setting(0, "CPU threads of the model; 0: as many as help.", low=0, high=256)
    floor: float = setting(0.05, "Raw scores below this are not looked at.", low=0, high=1)
    fps: float = setting(0.0, "Most frames a second; 0: all of them.", low=0, high=1000)
    follow: bool = setting(False, "Wait for new images in the folder.")
    every_s: float = setting(
        0.0, "Seconds between two images of a folder when taken; 0: clock.", low=0, high=86_400
    )
    hook: str = setting("", "Function that gets frame and detections: package.module:function.")
    quiet: bool = setting(False, "Print no detections.")
    budget: str = setting(
        "60", "Frames sent an hour: a number, or none for no limit.", as_text=True
    )
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
        check(self)
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
    return rules_of(EdgeSettings)


def load_settings(
    flags: Mapping[str, object],
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> EdgeSettings:
    """Settings from all sources; arguments and errors are those of ``SettingSources.read``."""
    return EdgeSettings(**SettingSources(rules(), PREFIX).read(flags, file, environ))


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
