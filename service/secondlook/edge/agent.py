"""The agent's loop: read a frame, detect, call the hooks, select, hand over to the sender.

    FrameSource ─▶ ModelRunner ─▶ hooks ─▶ FrameSelector ─▶ Sender (spool, server)

Nothing in it waits for a network or a full disk (images of a folder, which are not lost meanwhile,
wait for a slow one), and nothing that goes wrong with one frame ends it. Everything is counted.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from secondlook.core.perceptual_hash import perceptual_hash
from secondlook.detector.frames import Detection, SkippedFrame, SourceFrame, certain
from secondlook.edge.health import FrameRate, Health, notify_systemd, resident_bytes
from secondlook.edge.hooks import Hook
from secondlook.edge.model_trial import LoadedModel, ModelRunner
from secondlook.edge.sender import SenderState
from secondlook.edge.sources import FrameSource
from secondlook.selection.frames import FrameSelector, SelectionReason

log = logging.getLogger(__name__)

READ_S = 0.5
"""How long the loop waits for a frame before it checks whether to stop."""
DISK_S = 5.0
"""How long images of a folder wait for a slow disk; a camera's are dropped at once."""
WATCHDOG_S = 2.0
"""Between two notifications of systemd's watchdog."""
LOG_AGAIN_S = 60.0
"""After which the same kind of error is logged again."""
_NOTHING_SENT = SenderState(0, 0, 0, 0, 0, 0, False, "")


class FrameSink(Protocol):
    """Where selected frames go: ``sender.Sender``."""

    @property
    def state(self) -> SenderState:
        """What became of them."""

    def offer(self, frame: SourceFrame, reason: str, wait_s: float = 0.0) -> bool:
        """Take one, within this time."""


class Agent:
    """One source, one model at a time. ``health`` is for any thread, the rest for one."""

    def __init__(
        self,
        source: FrameSource,
        runner: ModelRunner,
        hooks: Sequence[Hook] = (),
        selector: FrameSelector | None = None,
        sink: FrameSink | None = None,
        *,
        on_model: Callable[[LoadedModel], None] = lambda model: None,
        refused_models: Callable[[], Mapping[str, str]] = dict,
        problems: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """Without ``sink`` nothing is sent. ``on_model`` is called with each new model in use."""
        self._source = source
        self._runner = runner
        self._hooks = hooks
        self._selector = selector
        self._sink = sink
        self._on_model = on_model
        self._refused_models = refused_models
        self._problems = problems
        self._model: LoadedModel | None = None
        self._began = time.monotonic()
        self._counts: Counter[str] = Counter()
        self._selected = Counter({reason.value: 0 for reason in SelectionReason})
        self._rate = FrameRate()
        self._ms = 0.0
        self._error, self._error_at = "", 0.0
        self._logged: dict[str, float] = {}
        self._notified_at = 0.0

    def run(self, stopped: Callable[[], bool], max_frames: int = 0) -> None:
        """Process frames until ``stopped()``, the end of the source, or ``max_frames`` (0: all).

        Raises ``BrokenPipeError`` when the reader of standard output is gone.
        """
        notify_systemd("READY=1")
        read = 0
        while not stopped() and not self._source.ended and (not max_frames or read < max_frames):
            self._notify_watchdog()
            frame = self._source.read(READ_S)
            if isinstance(frame, SkippedFrame):
                self._counts["unreadable"] += 1
                self._record_error("frame", f"{frame.name}: {frame.reason}")
            elif frame is not None:
                self._process(frame)
            read += frame is not None
        notify_systemd("STOPPING=1")

    def health(self) -> Health:
        """The present state."""
        sent = self._sink.state if self._sink is not None else _NOTHING_SENT
        model, counts = self._model, self._counts
        problems = {k: v for k, v in {"sending": sent.problem, **self._problems()}.items() if v}
        return Health(
            uptime_s=round(time.monotonic() - self._began, 1),
            timestamp=round(time.time(), 1),
            frames=counts["frames"],
            fps=round(self._rate.per_second, 2),
            detect_ms=round(self._ms, 2),
            detections=counts["detections"],
            unreadable=counts["unreadable"],
            superseded=self._source.superseded,
            not_processed=counts["not_processed"],
            hook_failures=counts["hook_failures"],
            model=model.detector.manifest.name if model else "",
            model_version=model.version if model else 0,
            model_digest=model.digest if model else "",
            swaps=self._runner.swaps,
            failed_trials=self._runner.failed_trials,
            refused_models=dict(self._refused_models()),
            selected=dict(self._selected),
            spooled=sent.spooled,
            pending=sent.pending,
            pending_bytes=sent.pending_bytes,
            acknowledged=sent.acknowledged,
            dropped=sent.dropped,
            refused_frames=sent.refused,
            connected=sent.connected,
            last_error=self._error,
            last_error_at=round(self._error_at, 1),
            problems=problems,
            rss_bytes=resident_bytes(),
        )

    def _process(self, frame: SourceFrame) -> None:
        found = self._detect(frame)
        if found is None:
            return
        for hook in self._hooks:
            try:
                hook(frame, certain(found))
            except BrokenPipeError:
                raise
            except Exception as cause:  # the user's code; the log shows it, the loop goes on
                self._counts["hook_failures"] += 1
                self._record_error("hook", f"the hook failed: {type(cause).__name__}: {cause}")
        if self._selector is not None and self._sink is not None:
            reason = self._selector.select(found, perceptual_hash(frame.pixels), frame.monotonic)
            if reason is not None:
                self._selected[reason.value] += 1
                self._sink.offer(frame, reason.value, 0 if self._source.live else DISK_S)

    def _detect(self, frame: SourceFrame) -> tuple[Detection, ...] | None:
        """What the model finds; None when there is none, or it fails on this frame."""
        try:
            detections = self._runner.detect(frame.pixels)
        except Exception as cause:  # of a model that has worked: the next frame may be fine
            self._counts["not_processed"] += 1
            self._record_error("model", f"the model failed on {frame.name}: {cause}")
            return None
        if self._runner.current is not None and self._runner.current is not self._model:
            self._model = self._runner.current
            self._on_model(self._model)
        if detections is None:
            self._counts["not_processed"] += 1
            return None
        self._rate.count()
        self._counts["frames"] += 1
        self._counts["detections"] += sum(d.certain for d in detections.found)
        self._ms = detections.ms if not self._ms else 0.95 * self._ms + 0.05 * detections.ms
        return detections.found

    def _record_error(self, kind: str, message: str) -> None:
        """Remember the last error; log each kind at most once a minute."""
        self._error, self._error_at = message, time.time()
        now = time.monotonic()
        if now - self._logged.get(kind, -LOG_AGAIN_S) >= LOG_AGAIN_S:
            self._logged[kind] = now
            log.warning("%s", message)

    def _notify_watchdog(self) -> None:
        now = time.monotonic()
        if now - self._notified_at >= WATCHDOG_S:
            self._notified_at = now
            notify_systemd("WATCHDOG=1")
