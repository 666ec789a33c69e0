"""The agent's health: a JSON file, a port for Prometheus, and notifications to systemd.

All of it is made from one flat ``Health`` value, so nothing here grows with time.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from secondlook.core.files import replacing
from secondlook_client.errors import BadSetting, SecondlookError

log = logging.getLogger(__name__)

REQUEST_S = 5.0
"""For one request to the port; there is one thread for all of them."""


@dataclass(frozen=True)
class Health:
    """The agent's state at one moment. Counts are since its start."""

    uptime_s: float = 0.0
    timestamp: float = 0.0
    """Seconds since 1970 by the device's clock."""
    frames: int = 0
    """Processed by a model."""
    fps: float = 0.0
    """Over the last seconds."""
    detect_ms: float = 0.0
    """The model's time per frame, a moving average."""
    detections: int = 0
    unreadable: int = 0
    """Frames of the source that could not be read."""
    superseded: int = 0
    """Frames of a camera that a newer one replaced before they were processed."""
    not_processed: int = 0
    """Frames without detections because there was no model, or it failed."""
    hook_failures: int = 0
    model: str = ""
    model_version: int = 0
    """0: a folder given by hand, or none yet."""
    model_digest: str = ""
    swaps: int = 0
    failed_trials: int = 0
    refused_models: Mapping[str, str] = field(default_factory=dict)
    """Reason by digest."""
    selected: Mapping[str, int] = field(default_factory=dict)
    """Frames by reason."""
    spooled: int = 0
    """Selected frames put into the spool."""
    pending: int = 0
    """In the spool now, not acknowledged yet."""
    pending_bytes: int = 0
    acknowledged: int = 0
    dropped: int = 0
    refused_frames: int = 0
    connected: bool = False
    last_error: str = ""
    last_error_at: float = 0.0
    problems: Mapping[str, str] = field(default_factory=dict)
    """What does not work at this moment: ``sending``, ``models``, ``classes``."""
    rss_bytes: int = 0


def write_health(path: Path, health: Health) -> None:
    """Replace the file. Raises ``OSError`` and ``SecondlookError``, as on a full disk."""
    with replacing(path) as part:
        part.write_text(json.dumps(asdict(health), indent=1) + "\n", encoding="utf-8")


def prometheus(health: Health) -> str:
    """The numbers in Prometheus's text format; texts are in the health file only."""
    lines = []
    for name, value in asdict(health).items():
        if isinstance(value, bool | int | float):
            lines.append(f"secondlook_edge_{name} {float(value):.10g}")
    lines += [
        f'secondlook_edge_selected{{reason="{reason}"}} {count}'
        for reason, count in sorted(health.selected.items())
    ]
    lines.append(f"secondlook_edge_refused_models {len(health.refused_models)}")
    return "\n".join(lines) + "\n"


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def notify_systemd(state: str) -> None:
    """Send ``READY=1``, ``WATCHDOG=1`` or ``STOPPING=1``, where systemd asks for that."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket of Linux
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.setblocking(False)
        out.sendto(state.encode(), address)


class HealthServer:
    """Serves ``/metrics`` for Prometheus and ``/health`` as JSON from a thread of its own."""

    def __init__(self, host: str, port: int, health: Callable[[], Health]) -> None:
        """``health`` is called at each request. Raises ``BadSetting`` when the port is not free."""
        handler = _handler(health)
        try:
            self._httpd = HTTPServer((host, port), handler)
        except OSError as cause:
            raise BadSetting(
                f"health cannot be served on {host}:{port} ({cause.strerror or cause}); choose "
                "another --health-port or leave it out"
            ) from cause
        self.port: int = self._httpd.server_port
        threading.Thread(
            target=self._httpd.serve_forever, name="health-server", daemon=True, args=(0.2,)
        ).start()

    def close(self) -> None:
        """Stop answering."""
        self._httpd.shutdown()
        self._httpd.server_close()


def _handler(health: Callable[[], Health]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_S

        def do_GET(self) -> None:
            if self.path == "/metrics":
                kind, body = "text/plain; version=0.0.4", prometheus(health())
            elif self.path in ("/", "/health"):
                kind, body = "application/json", json.dumps(asdict(health()), indent=1) + "\n"
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            log.debug(format, *args)

    return Handler


class HealthFile:
    """Writes the file every few seconds from a thread of its own: a slow disk stops no camera."""

    def __init__(self, path: Path, health: Callable[[], Health], every_s: float) -> None:
        self._path = path
        self._health = health
        self._every_s = every_s
        self._ended = threading.Event()
        self._problem = ""
        self._thread = threading.Thread(target=self._run, name="health-file", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write it a last time, and stop."""
        self._ended.set()
        self._thread.join(REQUEST_S)

    def _run(self) -> None:
        while True:
            ended = self._ended.wait(self._every_s)
            try:
                write_health(self._path, self._health())
                self._problem = ""
            except (OSError, SecondlookError) as cause:
                if str(cause) != self._problem:
                    log.warning("the health file cannot be written: %s", cause)
                self._problem = str(cause)
            if ended:
                return


class FrameRate:
    """Recent frames per second: the mean over a window that restarts every ten seconds."""

    WINDOW_S = 10.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since, self._count, self._last = clock(), 0, 0.0

    def count(self) -> None:
        """Count one frame."""
        self._count += 1
        passed = self._clock() - self._since
        if passed >= self.WINDOW_S:
            self._last = self._count / passed
            self._since, self._count = self._clock(), 0

    @property
    def per_second(self) -> float:
        """Over the last whole window, or the present one where there is no other."""
        passed = self._clock() - self._since
        if passed >= 2 * self.WINDOW_S or not self._last:
            return self._count / passed if passed > 0 else 0.0
        return self._last
