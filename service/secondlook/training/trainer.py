"""A training: from a start to the weights that find most on the held-out images.

``TrainingRun.step`` is one step from the rate to the averaged weights; around it stand the loop
with its validations, and below it the optimiser, the schedule, the average and the device.
"""

import copy
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, broadcast
from torch import Tensor, nn

from secondlook.config.settings import ModelSettings
from secondlook.core.files import replacing
from secondlook.datasets.bad_images import BadImageCount
from secondlook.datasets.samples import Sample, TrainingSet
from secondlook.models.loading import choose_placement
from secondlook.training.checkpoints import Checkpoints
from secondlook.training.data import Batch, loader, workers_for
from secondlook.training.finished import has_ended, identity_of
from secondlook.training.loss import attach_loss, class_weights
from secondlook.training.model import StudentStart, build_student, save_student
from secondlook.training.predict import Validator, to_pixel_values
from secondlook.training.progress import (
    POINTS,
    TORCH,
    CurvePoint,
    Progress,
    ProgressCallback,
    TrainingRecord,
    write_record,
)
from secondlook.training.settings import TrainingSettings
from secondlook_client.errors import BadSetting, Cancelled, InvalidInput, OutputExists

OWN_RATE, CHECKPOINT_RATE = 1e-3, 4e-4
"""Highest rates: of our own shapes, and of checkpoints with COCO weights, which forget quickly."""
WARMUP = 0.04
"""Share of the steps in which the rate rises."""
BACKBONE_SHARE = 0.3
"""Of the rate, for the backbone of a student that begins from other weights."""
_BACKBONE = re.compile(r"(^|\.)(backbone|conv_encoder)\.")
"""What D-FINE and DEIMv2 call theirs."""
WEIGHT_DECAY, BETAS, MAX_GRADIENT_NORM = 1e-4, (0.9, 0.999), 1.0
MAX_DECAY = 0.998
"""Share of the averaged weights that stays at a step, once there were steps enough."""
MIN_IMPROVEMENT = 0.001
"""Of mAP50, from which a validation counts as better."""
SAVE_EVERY_S = 30.0
MAX_STEPS = 10**7
"""More than any training has: the seeds of two trainings never meet."""

ShouldStop = Callable[[], bool]


def train(
    data: TrainingSet,
    settings: TrainingSettings,
    out: Path,
    tell: ProgressCallback = lambda progress: None,
    stop: ShouldStop = lambda: False,
) -> Path:
    """Train a student on ``data`` into ``out / "torch"``, which is returned: config.json,
    model.safetensors and training.json.

    Goes on from ``out / "checkpoints"`` where that holds the same training; the folder stays for
    the caller to remove. Without it a training that has ended is left as it is. ``tell`` is called
    at every step. When ``stop`` says yes the state is saved and ``Cancelled`` raised; a kill or
    ``KeyboardInterrupt`` costs what came after the last save, half a minute at most. Raises
    ``OutputExists`` where ``out`` holds another training, ``BadSetting`` for a device or start that
    does not exist or a rate that is too high, and ``InvalidInput`` when more images cannot be read
    than ``settings.max_bad_images``; fewer are left out and told.
    """
    out.mkdir(parents=True, exist_ok=True)
    folder, identity = out / TORCH, identity_of(data, settings)
    if has_ended(out, identity):
        return folder
    checkpoints = Checkpoints(out, identity)
    state = checkpoints.load()
    start = build_student(
        settings.size, data.classes, settings.start, settings.input_size, settings.seed
    )
    first = os.environ.get("RANK", "0") == "0"
    bad = BadImageCount(data, settings.max_bad_images, out if first else None)
    run = TrainingRun(data, settings, start, checkpoints, tell, bad)
    if state is not None:
        run.resume(state)
    run.fit(stop)
    return run.finish(folder)


class TrainingRun:
    """A training in progress."""

    def __init__(
        self,
        data: TrainingSet,
        settings: TrainingSettings,
        start: StudentStart,
        checkpoints: Checkpoints,
        tell: ProgressCallback,
        bad_images: BadImageCount,
    ) -> None:
        self._data, self._settings, self._start = data, settings, start
        self._checkpoints, self._tell, self._bad_images = checkpoints, tell, bad_images
        self._accelerator = accelerator_for(settings)
        device = self._accelerator.device
        # Channels last, here and of the images, takes a third off a step on a CPU.
        model = start.model.to(device).to(memory_format=torch.channels_last).train()
        self._ema = EMA(model)
        labels = (sample.classes for sample in data.train)
        weights = class_weights(labels, len(data.classes), settings.balance)
        attach_loss(model, settings.hard_negative_weight, weights)
        own = start.source in ("nothing", "embedded start")
        self._rate = settings.learning_rate or (OWN_RATE if own else CHECKPOINT_RATE)
        share = 1.0 if start.source == "nothing" else BACKBONE_SHARE
        optimiser = optimiser_for(model, self._rate, share)
        self._model, self._optimiser = self._accelerator.prepare(model, optimiser)
        self._steps = settings.steps_for(len(data.train), from_nothing=start.source == "nothing")
        self._validate_every = settings.validation_interval(self._steps)
        self._validator = Validator(
            data.held_out, data.classes, data.groups, start.input_size, on_bad=self._leave_out
        )
        self._step, self._seconds = 0, 0.0
        self._map50: float | None = None
        self._best: float | None = None
        self._without_progress = 0
        """Validations since the best one."""
        self._curve: list[CurvePoint] = []
        self._losses: list[float] = []
        self._saved_at = time.monotonic()

    def resume(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was saved; images and noise are functions of seed and step.

        Raises ``OutputExists`` when that training began from something else, as ``auto`` may.
        """
        if state["start"] != self._start.source:
            raise OutputExists(
                f"the training there began from {state['start']}, this one would from "
                f"{self._start.source}; name that with --start, or give another --out"
            )
        self._plain_model.load_state_dict(state["model"])
        self._ema.model.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        if self._accelerator.scaler is not None and state["scaler"]:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        self._step, self._seconds = state["step"], state["seconds"]
        self._map50, self._best = state["map50"], state["best"]
        self._without_progress = state["looks_in_vain"]
        self._curve = [CurvePoint(*point) for point in state["curve"]]
        self._report(note=f"going on from step {self._step}")

    def fit(self, stop: ShouldStop) -> None:
        """Train until the steps or the minutes are over or nothing gets better."""
        if self._done:
            return
        batches = loader(
            self._data.train,
            len(self._data.classes),
            self._start.input_size,
            self._settings,
            steps=range(self._step, self._steps),
            workers=workers_for(
                self._settings.workers, self._device.type, self._accelerator.num_processes
            ),
            part=(self._accelerator.process_index, self._accelerator.num_processes),
            pin=self._device.type == "cuda",
        )
        try:
            while not self._done:
                self._stop_if(stop())
                self.step(batches)
                if self._step % self._validate_every == 0 or self._over:
                    self._validate()
                elif time.monotonic() - self._saved_at > SAVE_EVERY_S:
                    self._save()
        except KeyboardInterrupt:
            # Raised anywhere, perhaps between the weights of one step and the next: the state of
            # the last save is whole, this one may not be.
            raise Cancelled(self._stopped_message) from None

    def step(self, batches: Iterator[Batch]) -> None:
        """One step, on the next batch.

        A batch whose gradients are not finite changes no weight. Raises ``BadSetting`` when the
        loss itself is not.
        """
        began = time.monotonic()
        model, optimiser, accelerator = self._model, self._optimiser, self._accelerator
        # By the share that is done, so that the rate also falls when the minutes are the bound.
        rate = self._rate * warmup_cosine(round(self._share * self._steps), self._steps, WARMUP)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["share"]
        # The noise of the denoising queries too is a function of seed and step.
        torch.manual_seed(self._settings.seed * MAX_STEPS + self._step)
        images, targets, bad = next(batches)
        for row, cause in bad.items():
            self._leave_out(self._data.train[row], cause)
        labels = [{name: part.to(self._device) for name, part in t.items()} for t in targets]
        try:
            output = model(pixel_values=to_pixel_values(images.to(self._device)), labels=labels)
        except ValueError as cause:
            if "corner" not in str(cause):
                raise
            raise self._diverged("not a number") from cause  # the matcher meets it first
        loss: Tensor = output.loss
        losses = {"loss": float(loss.detach()), **_by_kind(output.loss_dict)}
        if not math.isfinite(losses["loss"]):
            raise self._diverged(str(losses["loss"]))
        optimiser.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        # With fp16 the scaler itself leaves out steps whose gradients overflowed.
        if accelerator.scaler is not None or torch.isfinite(norm):
            optimiser.step()
        self._step += 1
        self._ema.update(self._step)
        self._seconds = self._agreed(self._seconds + time.monotonic() - began)
        self._losses.append(losses["loss"])
        if self._step % max(1, self._steps // POINTS) == 0:
            self._curve.append(CurvePoint(self._step, sum(self._losses) / len(self._losses)))
            self._losses = []
        self._report(losses, optimiser.param_groups[-1]["lr"])

    def finish(self, folder: Path) -> Path:
        """Write the best weights as a student of transformers."""
        if self._accelerator.is_main_process:
            self._ema.model.load_state_dict(self._checkpoints.load_best())
            with replacing(folder) as part:
                save_student(self._ema.model.float(), part)
                write_record(part, self._record())
        self._accelerator.wait_for_everyone()
        return folder

    def _validate(self) -> None:
        """Measure the averaged weights, keep them if they are the best, and decide on the end."""
        first = self._accelerator.is_main_process
        self._map50 = self._agreed(self._validator.map50(self._ema.model) if first else 0.0)
        self._curve.append(CurvePoint(self._step, map50=self._map50))
        better = self._best is None or self._map50 > self._best + MIN_IMPROVEMENT
        self._without_progress = 0 if better else self._without_progress + 1
        if better:
            self._best = self._map50
            if first:
                self._checkpoints.save_best(self._ema.model.state_dict())
        note = ""
        if self._out_of_patience and not self._over:
            note = f"no progress in {self._without_progress} validations"
        self._save()
        self._report(note=note)

    def _leave_out(self, sample: Sample, cause: str) -> None:
        """Tell of an image that cannot be read any more; too many end the training."""
        try:
            note = self._bad_images.add(sample, cause)
        except InvalidInput:
            self._save()
            raise
        if note:
            self._report(note=note)

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        if not self._accelerator.is_main_process:
            return
        scaler = self._accelerator.scaler
        self._checkpoints.save(
            {
                "model": self._plain_model.state_dict(),
                "average": self._ema.model.state_dict(),
                "optimiser": self._optimiser.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else {},
                "start": self._start.source,
                "step": self._step,
                "seconds": self._seconds,
                "looks_in_vain": self._without_progress,
                "map50": self._map50,
                "best": self._best,
                "curve": [astuple(point) for point in self._curve],
            }
        )

    def _report(
        self, losses: Mapping[str, float] | None = None, rate: float | None = None, note: str = ""
    ) -> None:
        if not self._accelerator.is_main_process:
            return
        self._tell(
            Progress(
                "train",
                self._step,
                self._steps,
                losses or {},
                rate,
                self._map50,
                self._best,
                steps_a_second=self._step / self._seconds if self._seconds else None,
                seconds_left=self._seconds * (1 / self._share - 1) if self._share else None,
                note=note,
            )
        )

    def _record(self) -> TrainingRecord:
        accelerator = self._accelerator
        name = self._device.type
        if name == "cuda":
            name = torch.cuda.get_device_name(self._device)
        precision = accelerator.mixed_precision
        precision = "fp32" if precision == "no" else precision
        return TrainingRecord(
            identity=identity_of(self._data, self._settings),
            start=self._start.source,
            steps=self._step,
            of=self._steps,
            seconds=round(self._seconds, 1),
            device=f"{accelerator.num_processes} × {name}, {precision}",
            best_map50=self._best or 0.0,
            curve=self._curve,
        )

    @property
    def _device(self) -> torch.device:
        device = self._accelerator.device
        assert isinstance(device, torch.device)
        return device

    @property
    def _plain_model(self) -> nn.Module:
        model = self._accelerator.unwrap_model(self._model)
        assert isinstance(model, nn.Module)
        return model

    @property
    def _share(self) -> float:
        """How much of the training is done, by steps or minutes, [0, 1]."""
        by_time = self._settings.max_minutes and self._seconds / (60 * self._settings.max_minutes)
        return min(1.0, max(self._step / self._steps, by_time))

    @property
    def _over(self) -> bool:
        return self._share >= 1

    @property
    def _out_of_patience(self) -> bool:
        return self._without_progress >= self._settings.patience

    @property
    def _done(self) -> bool:
        """Not saved as such: with more minutes or patience the training goes on."""
        return self._best is not None and (self._over or self._out_of_patience)

    @property
    def _stopped_message(self) -> str:
        return f"stopped at step {self._step} of {self._steps}; the same command goes on from there"

    def _stop_if(self, asked: bool) -> None:
        """All processes stop at the same step."""
        if self._agreed(float(asked)) > 0:
            self._save()
            raise Cancelled(self._stopped_message)

    def _agreed(self, value: float) -> float:
        """The first process's ``value``: clocks and signals differ."""
        if self._accelerator.num_processes == 1:
            return value
        return float(broadcast(torch.tensor(value, device=self._device)))

    def _diverged(self, loss: str) -> BadSetting:
        return BadSetting(
            f"the loss is {loss}: the training has diverged; begin anew, in another --out, with a "
            f"lower --learning-rate than {self._rate:g}, or with --precision fp32"
        )


class EMA:
    """Exponential moving average of a model's weights, which finds more than the last ones.

    It follows quickly at first, when all weights are bad. torch's ``AveragedModel`` gives the same
    weights to the bit, but walks through the modules at every step: 21.5 ms instead of 1.4 ms for
    a pico student on one core.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        """In evaluation mode, on the model's device."""
        self._means: list[Tensor] = [*self.model.parameters()]
        self._weights: list[Tensor] = [*model.parameters()]
        self._buffers = [*zip(self.model.buffers(), model.buffers(), strict=True)]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the model's weights after ``step`` (≥ 1) steps; batch statistics are averages
        already and are copied."""
        decay = min(MAX_DECAY, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._means, self._weights, 1 - decay)
        for mean, now in self._buffers:
            mean.copy_(now)


def warmup_cosine(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate at ``step``, in (0, 1].

    Rises linearly over the share ``warmup`` of ``steps``, then falls as a cosine to 1 %.
    """
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2


def optimiser_for(model: nn.Module, rate: float, backbone_share: float) -> torch.optim.AdamW:
    """AdamW in groups that know their ``share`` of the rate: the backbone may learn more slowly;
    vectors do not decay."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, value in model.named_parameters():
        share = backbone_share if _BACKBONE.search(name) else 1.0
        groups.setdefault((share, 0.0 if value.ndim < 2 else WEIGHT_DECAY), []).append(value)
    ordered = sorted(groups.items(), key=lambda group: group[0])
    return torch.optim.AdamW(
        [
            {"params": p, "share": share, "weight_decay": decay, "initial_rate": rate}
            for (share, decay), p in ordered
        ],
        lr=rate,
        betas=BETAS,
    )


def accelerator_for(settings: TrainingSettings) -> Accelerator:
    """The devices of this process. Raises ``BadSetting`` for what this machine lacks."""
    device = choose_placement(ModelSettings(device=settings.device)).device
    precision = settings.precision
    if precision == "auto":
        half = device.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bf16" if half else "fp32"
    if precision == "fp16" and device.type != "cuda":
        raise BadSetting("precision fp16 needs a GPU of NVIDIA; take bf16 or fp32 here")
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    if AcceleratorState._shared_state and AcceleratorState().num_processes == 1:
        # It is one for the whole process and refuses the precision of a second training.
        AcceleratorState._reset_state(reset_partial_state=True)
    mixed = "no" if precision == "fp32" else precision
    # Not every weight gets a gradient from every batch, and processes would wait for it.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    cpu = device.type == "cpu"
    return Accelerator(cpu=cpu, mixed_precision=mixed, kwargs_handlers=[unused])


def _by_kind(parts: Mapping[str, Tensor]) -> dict[str, float]:
    """The losses by kind, over all layers: ``loss_bbox_aux_0`` counts to ``bbox``."""
    sums: dict[str, float] = {}
    for name, value in parts.items():
        kind = name.removeprefix("loss_").split("_")[0]
        sums[kind] = sums.get(kind, 0.0) + float(value.detach())
    return sums
