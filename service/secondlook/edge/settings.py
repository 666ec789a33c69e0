"""Every setting of the agent; the only place with their defaults, besides ``selection.frames``.

A file is TOML with the names below as keys, named by ``--config`` or ``SECONDLOOK_EDGE_CONFIG``;
a variable is ``SECONDLOOK_EDGE_`` and the name in capitals; a flag is ``--`` and the name with
dashes. The later wins: default, file, environment, flag.
"""

from dataclasses import dataclass

from secondlook.config.spec import LOG_LEVELS, SettingGroup, SettingSources, setting
from secondlook.detector.runtime import PRECISIONS
from secondlook.selection.frames import SelectionSettings
from secondlook_client.errors import BadSetting
from secondlook_client.spool import WHEN_FULL


@dataclass(frozen=True)
class FrameSettings(SettingGroup):
    """Where frames come from, and what becomes of what is found in them."""

    title = "Frames"

    source: str = setting(
        "",
        "Where frames come from: a folder of images, video file, /dev/video0, rtsp:// or http://.",
        unit="source",
        common=True,
    )
    fps: float = setting(
        0.0, "Maximum frames per second; 0: no limit.", low=0, high=1000, common=True
    )
    follow: bool = setting(False, "Keep watching the folder for new images.")
    frame_interval_s: float = setting(
        0.0,
        "Time between two images of a folder when they were taken; 0: the time they are read.",
        unit="seconds",
        low=0,
        high=86_400,
    )
    hook: str = setting(
        "",
        "Python function called with each frame and its detections: package.module:function.",
        unit="function",
        common=True,
    )
    quiet: bool = setting(False, "Print no detections.")


@dataclass(frozen=True)
class DetectorSettings(SettingGroup):
    """How the student runs."""

    title = "Detector"

    student: str = setting(
        "",
        "Folder of the student to start with, or to use without a server.",
        unit="folder",
        common=True,
    )
    precision: str = setting(
        "auto",
        "Which model of the student runs; auto: the fastest here.",
        choices=PRECISIONS,
        common=True,
    )
    threads: int = setting(
        0, "CPU threads of the model; 0: chosen for this machine.", low=0, high=256
    )
    score_floor: float = setting(
        0.05, "Detections with a lower raw score are dropped.", unit="score", low=0, high=1
    )
    ontology: str = setting(
        "", "YAML file of the classes to label, instead of the student's.", unit="file"
    )


@dataclass(frozen=True)
class ModelUpdateSettings(SettingGroup):
    """Which student to fetch, and what a new one must pass."""

    title = "Models from the server"

    server: str = setting(
        "",
        "HOST:PORT of the service that gets the selected frames and has the models; with TLS "
        "tls://HOST:PORT.",
        unit="HOST:PORT",
        common=True,
    )
    token_file: str = setting(
        "",
        "File with the secret of this device's token; SECONDLOOK_TOKEN stands in for it.",
        unit="file",
    )
    ca: str = setting(
        "", "Certificates (PEM) that the service's own is checked against.", unit="file"
    )
    client_cert: str = setting(
        "", "Certificate of this device (PEM), where the service asks for one.", unit="file"
    )
    client_key: str = setting("", "Key of --client-cert (PEM).", unit="file")
    model: str = setting(
        "", "Name of the model on the server to use and keep up to date.", unit="name", common=True
    )
    model_public_key: str = setting(
        "",
        "Public key (PEM) of `secondlook models create-key`; models from the server are used only "
        "with its signature.",
        unit="file",
    )
    models: str = setting("edge-models", "Folder for downloaded models.", unit="folder")
    poll_s: float = setting(
        60.0,
        "Time between two checks for a newer model.",
        unit="seconds",
        low=0.05,
        high=86_400,
    )
    keep_models: int = setting(3, "Model versions kept on disk.", low=2, high=100)
    wait_for_model: bool = setting(
        False, "Start without any model, and wait until the server has one."
    )
    max_slowdown: float = setting(
        3.0,
        "A new model that takes more than this many times the old one's time is refused; 0: never.",
        unit="times",
        low=0,
        high=1000,
    )
    max_trial_s: float = setting(
        60.0,
        "CPU time in which a new model must open and find objects in a few images, or is refused.",
        unit="seconds",
        low=1,
        high=3600,
    )
    max_model_mb: int = setting(
        1024,
        "Memory that a new model may take; one that wants more is refused.",
        unit="megabytes",
        low=64,
        high=10**6,
    )


@dataclass(frozen=True)
class SendingSettings(SettingGroup):
    """Which frames are sent for labelling."""

    title = "Frames to send"

    stream: str = setting(
        "",
        "Name of this device's stream on the server; without one, the host's name.",
        unit="name",
        common=True,
    )
    selection: SelectionSettings = SelectionSettings()  # noqa: RUF009 (frozen)
    seed: int = setting(0, "Random seed of the random frames.", low=0, high=2**63 - 1)


@dataclass(frozen=True)
class SpoolSettings(SettingGroup):
    """Where frames wait until the server has them."""

    title = "Spool"

    spool: str = setting(
        "edge-spool",
        "Folder for frames that the server does not have yet.",
        unit="folder",
        common=True,
    )
    spool_mb: int = setting(1024, "Maximum size of the spool.", unit="megabytes", low=1, high=10**7)
    when_full: str = setting(
        "drop_oldest", "What to do with new frames when the spool is full.", choices=WHEN_FULL[:2]
    )
    sync: bool = setting(
        True, "Flush each frame to disk, so that none is lost in a power cut; slower."
    )
    flush_s: float = setting(
        60.0,
        "Time that the end of the source waits until all selected frames are sent.",
        unit="seconds",
        low=0,
        high=86_400,
    )


@dataclass(frozen=True)
class HealthSettings(SettingGroup):
    """What the agent tells of itself."""

    title = "Health and logs"

    health_file: str = setting(
        "", "JSON file with the agent's state, rewritten regularly.", unit="file", common=True
    )
    health_interval_s: float = setting(
        5.0, "Time between two writes of --health-file.", unit="seconds", low=0.05, high=3600
    )
    health_port: int | None = setting(
        None,
        "Port of /metrics (Prometheus) and /health; 0: any free port.",
        kind=int,
        low=0,
        high=65535,
        optional=True,
    )
    health_host: str = setting(
        "127.0.0.1", "Address that --health-port listens on.", unit="address"
    )
    log_level: str = setting("info", "Minimum severity of log messages.", choices=LOG_LEVELS)


@dataclass(frozen=True)
class EdgeSettings(
    HealthSettings,
    SpoolSettings,
    SendingSettings,
    ModelUpdateSettings,
    DetectorSettings,
    FrameSettings,
):
    """Everything that ``secondlook-edge run`` needs. Raises ``BadSetting``.

    The groups stand in ``--help`` from the last to the first, as dataclasses inherit fields.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.server and ":" not in self.server:
            raise BadSetting(f"server: expected HOST:PORT, got '{self.server}'")


load_settings = SettingSources(EdgeSettings, "SECONDLOOK_EDGE_").load
"""Settings from all sources; arguments and errors are those of ``SettingSources.load``."""
