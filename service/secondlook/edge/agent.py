"""The loop of the agent: a frame, what is in it, whom that concerns, and whether it is sent.

    source ─▶ slot (the model in use) ─▶ hooks ─▶ chooser ─▶ sender (spool, server)

Nothing in it waits for a network or a full disk (a folder, whose images run nowhere, waits for a
slow one), and nothing that goes wrong with one frame ends it. Everything is counted.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from secondlook.core.images import perceptual_hash
from secondlook.detector.frames import Detection, Frame, Skipped, certain
from secondlook.edge.health import Health, Rate, resident_bytes, tell_systemd
from secondlook.edge.hooks import Hook
from secondlook.edge.model_trial import Loaded, ModelSlot
from secondlook.edge.sender import Sent
from secondlook.edge.sources import Source
from secondlook.selection.frames import Chooser, Reason

log = logging.getLogger(__name__)

READ_S = 0.5
"""How long the loop waits for a frame before it looks whether it shall stop."""
DISK_S = 5.0
"""How long images of a folder wait for a slow disk; a camera's are dropped at once."""
WATCHDOG_S = 2.0
"""Between two words to systemd's watchdog."""
TOLD_ANEW_S = 60.0
"""After which the same trouble is logged again."""
_NOTHING_SENT = Sent(0, 0, 0, 0, 0, 0, False, "")


class Outlet(Protocol):
    """Where chosen frames go: ``sending.Sender``."""

    @property
    def state(self) -> Sent:
        """Where they are."""

    def offer(self, frame: Frame, reason: str, wait_s: float = 0.0) -> bool:
        """Take one, within this time."""


class Agent:
    """One source, one model at a time. ``health`` is for any thread, the rest for one."""

    def __init__(
        self,
        source: Source,
        slot: ModelSlot,
        hooks: Sequence[Hook] = (),
        chooser: Chooser | None = None,
        outlet: Outlet | None = None,
        *,
        model_changed: Callable[[Loaded], None] = lambda model: None,
        refused_models: Callable[[], Mapping[str, str]] = dict,
        problems: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """Without ``outlet`` nothing is sent. ``model_changed`` hears of each new model in use."""
        self._source = source
        self._slot = slot
        self._hooks = hooks
        self._chooser = chooser
        self._outlet = outlet
        self._model_changed = model_changed
        self._refused_models = refused_models
        self._problems = problems
        self._model: Loaded | None = None
        self._began = time.monotonic()
        self._counts: Counter[str] = Counter()
        self._chosen = Counter({reason.value: 0 for reason in Reason})
        self._rate = Rate()
        self._ms = 0.0
        self._error, self._error_at = "", 0.0
        self._logged: dict[str, float] = {}
        self._fed_at = 0.0

    def run(self, stopped: Callable[[], bool], most: int = 0) -> None:
        """Look at frames until ``stopped()``, the end of the source, or ``most`` frames (0: all).

        Raises ``BrokenPipeError`` when nobody reads what is printed any more.
        """
        tell_systemd("READY=1")
        read = 0
        while not stopped() and not self._source.ended and (not most or read < most):
            self._feed_watchdog()
            frame = self._source.read(READ_S)
            if isinstance(frame, Skipped):
                self._counts["damaged"] += 1
                self._trouble("frame", f"{frame.name}: {frame.reason}")
            elif frame is not None:
                self._one(frame)
            read += frame is not None
        tell_systemd("STOPPING=1")

    def health(self) -> Health:
        """How everything is now."""
        sent = self._outlet.state if self._outlet is not None else _NOTHING_SENT
        model, counts = self._model, self._counts
        problems = {k: v for k, v in {"sending": sent.problem, **self._problems()}.items() if v}
        return Health(
            uptime_s=round(time.monotonic() - self._began, 1),
            at=round(time.time(), 1),
            frames=counts["frames"],
            fps=round(self._rate.a_second, 2),
            detect_ms=round(self._ms, 2),
            detections=counts["detections"],
            damaged=counts["damaged"],
            overtaken=self._source.overtaken,
            unseen=counts["unseen"],
            hook_failures=counts["hook_failures"],
            model=model.detector.manifest.name if model else "",
            model_version=model.version if model else 0,
            model_digest=model.digest if model else "",
            swaps=self._slot.swaps,
            went_back=self._slot.went_back,
            refused_models=dict(self._refused_models()),
            chosen=dict(self._chosen),
            sent=sent.spooled,
            spooled=sent.pending,
            spooled_bytes=sent.pending_bytes,
            acknowledged=sent.acknowledged,
            dropped=sent.dropped,
            refused_frames=sent.refused,
            connected=sent.connected,
            last_error=self._error,
            last_error_at=round(self._error_at, 1),
            problems=problems,
            rss_bytes=resident_bytes(),
        )

    def _one(self, frame: Frame) -> None:
        found = self._looked(frame)
        if found is None:
            return
        for hook in self._hooks:
            try:
                hook(frame, certain(found))
            except BrokenPipeError:
                raise
            except Exception as cause:  # the user's code; their log shows it, the loop goes on
                self._counts["hook_failures"] += 1
                self._trouble("hook", f"the hook failed: {type(cause).__name__}: {cause}")
        if self._chooser is not None and self._outlet is not None:
            reason = self._chooser.choose(found, perceptual_hash(frame.pixels), frame.monotonic)
            if reason is not None:
                self._chosen[reason.value] += 1
                self._outlet.offer(frame, reason.value, 0 if self._source.live else DISK_S)

    def _looked(self, frame: Frame) -> tuple[Detection, ...] | None:
        """What the model finds; None when there is none, or it fails on this frame."""
        try:
            seen = self._slot.look(frame.pixels)
        except Exception as cause:  # of a model that has worked: the next frame may be better
            self._counts["unseen"] += 1
            self._trouble("model", f"the model failed on {frame.name}: {cause}")
            return None
        if self._slot.current is not None and self._slot.current is not self._model:
            self._model = self._slot.current
            self._model_changed(self._model)
        if seen is None:
            self._counts["unseen"] += 1
            return None
        self._rate.count()
        self._counts["frames"] += 1
        self._counts["detections"] += sum(d.certain for d in seen.found)
        self._ms = seen.ms if not self._ms else 0.95 * self._ms + 0.05 * seen.ms
        return seen.found

    def _trouble(self, kind: str, told: str) -> None:
        """Remember the last error; log each kind at most once a minute."""
        self._error, self._error_at = told, time.time()
        now = time.monotonic()
        if now - self._logged.get(kind, -TOLD_ANEW_S) >= TOLD_ANEW_S:
            self._logged[kind] = now
            log.warning("%s", told)

    def _feed_watchdog(self) -> None:
        now = time.monotonic()
        if now - self._fed_at >= WATCHDOG_S:
            self._fed_at = now
            tell_systemd("WATCHDOG=1")
