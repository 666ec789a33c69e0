"""A training: from a start to the weights that find most on the held-out images."""

import copy
import math
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

from secondlook.config.settings import ModelOptions
from secondlook.core.errors import BadSetting, Cancelled, OutputExists
from secondlook.core.files import replacing
from secondlook.datasets.samples import TrainingSet
from secondlook.models.loading import place
from secondlook.training.checkpoints import TORCH, Checkpoints, has_ended, identity_of
from secondlook.training.data import Batch, loader, look_of, workers_for
from secondlook.training.loss import attach_loss, class_weights
from secondlook.training.model import Start, build_student, save_student
from secondlook.training.predict import HeldOut, as_input
from secondlook.training.progress import POINTS, Point, Progress, Tell, TrainingRecord, write_record
from secondlook.training.settings import TrainingSettings

# One step of learning: the devices, the optimiser, and what a batch does to the weights.

OWN_RATE, CHECKPOINT_RATE = 1e-3, 4e-4
"""Highest rates: of our own shapes, and of checkpoints with COCO weights, which forget quickly."""
BACKBONE_SHARE = 0.3
"""Of the rate, for the backbone of a student that begins from other weights."""
_BACKBONE = re.compile(r"(^|\.)(backbone|conv_encoder)\.")
"""What D-FINE and DEIMv2 call theirs."""
DECAY, BETAS, LONGEST_GRADIENT = 1e-4, (0.9, 0.999), 1.0


def accelerator_for(settings: TrainingSettings) -> Accelerator:
    """The devices of this process. Raises ``BadSetting`` for what this machine lacks."""
    device = place(ModelOptions(device=settings.device)).device
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


def precision_of(accelerator: Accelerator) -> str:
    """``fp32``, ``bf16`` or ``fp16``."""
    return "fp32" if accelerator.mixed_precision == "no" else str(accelerator.mixed_precision)


def optimiser_for(model: nn.Module, rate: float, backbone_share: float) -> torch.optim.AdamW:
    """AdamW in groups that know their ``share`` of the rate: the backbone may learn more slowly;
    vectors do not decay."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, value in model.named_parameters():
        share = backbone_share if _BACKBONE.search(name) else 1.0
        groups.setdefault((share, 0.0 if value.ndim < 2 else DECAY), []).append(value)
    ordered = sorted(groups.items(), key=lambda group: group[0])
    told = [
        {"params": p, "share": share, "weight_decay": decay, "initial_rate": rate}
        for (share, decay), p in ordered
    ]
    return torch.optim.AdamW(told, lr=rate, betas=BETAS)


def learn(
    accelerator: Accelerator, model: nn.Module, optimiser: Any, batch: Batch
) -> dict[str, float]:
    """One step; returns the losses by kind and their sum as ``loss``.

    Nothing is learnt from a batch whose gradients are not finite. Raises ``BadSetting`` when the
    loss itself is not.
    """
    images, targets = batch
    device = accelerator.device
    placed = [{name: part.to(device) for name, part in target.items()} for target in targets]
    inputs = {"pixel_values": as_input(images.to(device)), "labels": placed}
    try:
        said = model(**inputs)
    except ValueError as cause:
        if "corner" not in str(cause):
            raise
        raise _come_apart("not a number", optimiser) from cause  # the matcher sees it first
    loss: Tensor = said.loss
    parts = {"loss": float(loss.detach()), **_summed(said.loss_dict)}
    if not math.isfinite(parts["loss"]):
        raise _come_apart(str(parts["loss"]), optimiser)
    optimiser.zero_grad(set_to_none=True)
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(model.parameters(), LONGEST_GRADIENT)
    # With fp16 the scaler itself leaves out steps whose gradients overflowed.
    if accelerator.scaler is not None or torch.isfinite(norm):
        optimiser.step()
    return parts


def _summed(parts: Mapping[str, Tensor]) -> dict[str, float]:
    """The losses by kind, over all layers: ``loss_bbox_aux_0`` counts to ``bbox``."""
    sums: dict[str, float] = {}
    for name, value in parts.items():
        kind = name.removeprefix("loss_").split("_")[0]
        sums[kind] = sums.get(kind, 0.0) + float(value.detach())
    return sums


def _come_apart(loss: str, optimiser: Any) -> BadSetting:
    rate = optimiser.param_groups[-1]["initial_rate"]
    return BadSetting(
        f"the loss is {loss}: the training has come apart; begin anew, in another --out, with a "
        f"lower --rate than {rate:g}, or with --precision fp32"
    )


# The average of a model's weights over its last steps, which finds more than the last one.

LONGEST = 0.998
"""Share of the average that stays at a step, once there were steps enough."""


class Average:
    """An exponential average of weights. It follows quickly at first, when all weights are bad."""

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        """In evaluation mode, on the model's device."""
        # Walking through the modules at every step would cost as much as the arithmetic.
        self._means: list[Tensor] = [*self.model.parameters()]
        self._now: list[Tensor] = [*model.parameters()]
        self._buffers = [*zip(self.model.buffers(), model.buffers(), strict=True)]

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Take in the model's weights after ``step`` (≥ 1) steps; batch statistics are averages
        already."""
        keep = min(LONGEST, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._means, self._now, 1 - keep)
        for mean, now in self._buffers:
            mean.copy_(now)


# The learning-rate schedule that all trainings of the package share.


def warmed_cosine(step: int, steps: int, warm_share: float) -> float:
    """Share of the peak rate at ``step``, in (0, 1].

    Rises linearly over the first ``warm_share`` of ``steps``, then falls as a cosine to 1 %.
    """
    warm = max(1, round(warm_share * steps))
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2


WARM = 0.04
"""Share of the steps in which the rate rises."""
PROGRESS = 0.001
"""Of mAP50, from which a look at the held-out images counts as better."""
SAVED_EVERY_S = 30.0
MOST_STEPS_EVER = 10**7
"""More than any training has: the seeds of two trainings never meet."""

Stop = Callable[[], bool]


def train(
    data: TrainingSet,
    settings: TrainingSettings,
    out: Path,
    tell: Tell = lambda progress: None,
    stop: Stop = lambda: False,
) -> Path:
    """Train a student on ``data`` into ``out / "torch"``, which is returned: config.json,
    model.safetensors and training.json.

    Goes on from ``out / "checkpoints"`` where that holds the same training; the folder stays for
    the caller to remove. Without it a training that has ended is left as it is. ``tell`` hears of
    every step. When ``stop`` says yes the state is saved and ``Cancelled`` raised; a kill or
    ``KeyboardInterrupt`` costs what came after the last save, half a minute at most. Raises
    ``OutputExists`` where ``out`` holds another training, ``BadSetting`` for a device or start that
    does not exist or a rate that is too high, and what reading an image raises.
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
    training = Training(data, settings, start, checkpoints, tell)
    if state is not None:
        training.resume(state)
    training.run(stop)
    return training.finish(folder)


class Training:
    """A training in progress."""

    def __init__(
        self,
        data: TrainingSet,
        settings: TrainingSettings,
        start: Start,
        checkpoints: Checkpoints,
        tell: Tell,
    ) -> None:
        self._data, self._settings, self._start = data, settings, start
        self._checkpoints, self._tell = checkpoints, tell
        self._accelerator = accelerator_for(settings)
        device = self._accelerator.device
        # Channels last, here and of the images, takes a third off a step on a CPU.
        model = start.model.to(device).to(memory_format=torch.channels_last).train()
        self._average = Average(model)
        labels = (sample.classes for sample in data.train)
        weights = class_weights(labels, len(data.classes), settings.balance)
        attach_loss(model, settings.hard_negative_weight, weights)
        own = start.source in ("nothing", "embedded start")
        self._rate = settings.rate or (OWN_RATE if own else CHECKPOINT_RATE)
        share = 1.0 if start.source == "nothing" else BACKBONE_SHARE
        optimiser = optimiser_for(model, self._rate, share)
        self._model, self._optimiser = self._accelerator.prepare(model, optimiser)
        self._steps = settings.steps_for(len(data.train), from_nothing=start.source == "nothing")
        self._every = settings.look_after(self._steps)
        self._step, self._seconds, self._looks_in_vain = 0, 0.0, 0
        self._map50: float | None = None
        self._best: float | None = None
        self._curve: list[Point] = []
        self._losses: list[float] = []
        self._held_out = HeldOut(data.held_out, data.classes, start.input_size)
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
        self._average.model.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        if self._accelerator.scaler is not None and state["scaler"]:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        for name in ("step", "seconds", "looks_in_vain", "map50", "best"):
            setattr(self, f"_{name}", state[name])
        self._curve = [Point(*point) for point in state["curve"]]
        self._say({}, None, note=f"going on from step {self._step}")

    def run(self, stop: Stop) -> None:
        """Learn until the steps or the minutes are over or nothing gets better."""
        if self._done:
            return
        batches = loader(
            self._data.train,
            look_of(self._settings, len(self._data.classes), self._start.input_size),
            batch=self._settings.batch,
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
                self._one_step(batches)
                if self._step % self._every == 0 or self._over:
                    self._look()
                elif time.monotonic() - self._saved_at > SAVED_EVERY_S:
                    self._save()
        except KeyboardInterrupt:
            # Raised anywhere, perhaps between the weights of one step and the next: the state of
            # the last save is whole, this one may not be.
            raise Cancelled(self._stopped_words) from None

    def finish(self, folder: Path) -> Path:
        """Write the best weights as a student of transformers."""
        if self._accelerator.is_main_process:
            self._average.model.load_state_dict(self._checkpoints.load_best())
            with replacing(folder) as part:
                save_student(self._average.model.float(), part)
                write_record(part, self._record())
        self._accelerator.wait_for_everyone()
        return folder

    def _record(self) -> TrainingRecord:
        accelerator = self._accelerator
        name = self._device.type
        if name == "cuda":
            name = torch.cuda.get_device_name(self._device)
        return TrainingRecord(
            identity=identity_of(self._data, self._settings),
            start=self._start.source,
            steps=self._step,
            of=self._steps,
            seconds=round(self._seconds, 1),
            device=f"{accelerator.num_processes} × {name}, {precision_of(accelerator)}",
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
    def _tired(self) -> bool:
        return self._looks_in_vain >= self._settings.patience

    @property
    def _done(self) -> bool:
        """Not kept as such: with more minutes or patience the training goes on."""
        return self._best is not None and (self._over or self._tired)

    @property
    def _stopped_words(self) -> str:
        return f"stopped at step {self._step} of {self._steps}; the same command goes on from there"

    def _stop_if(self, asked: bool) -> None:
        """All processes stop at the same step."""
        if self._agreed(float(asked)) > 0:
            self._save()
            raise Cancelled(self._stopped_words)

    def _agreed(self, value: float) -> float:
        """The first process's ``value``: clocks and signals differ."""
        if self._accelerator.num_processes == 1:
            return value
        return float(broadcast(torch.tensor(value, device=self._device)))

    def _one_step(self, batches: Iterator[Batch]) -> None:
        began = time.monotonic()
        for group in self._optimiser.param_groups:
            at = warmed_cosine(round(self._share * self._steps), self._steps, WARM)
            group["lr"] = self._rate * group["share"] * at
        # Noise of the denoising too is a function of seed and step.
        torch.manual_seed(self._settings.seed * MOST_STEPS_EVER + self._step)
        losses = learn(self._accelerator, self._model, self._optimiser, next(batches))
        self._step += 1
        self._average.follow(self._step)
        self._seconds = self._agreed(self._seconds + time.monotonic() - began)
        self._losses.append(losses["loss"])
        if self._step % max(1, self._steps // POINTS) == 0:
            self._curve.append(Point(self._step, sum(self._losses) / len(self._losses)))
            self._losses = []
        self._say(losses, self._optimiser.param_groups[-1]["lr"])

    def _look(self) -> None:
        """Measure the averaged weights, keep them if they are the best, and decide on the end."""
        found = (
            self._held_out.map50(self._average.model) if self._accelerator.is_main_process else 0.0
        )
        self._map50 = self._agreed(found)
        self._curve.append(Point(self._step, map50=self._map50))
        better = self._best is None or self._map50 > self._best + PROGRESS
        self._looks_in_vain = 0 if better else self._looks_in_vain + 1
        if better:
            self._best = self._map50
            if self._accelerator.is_main_process:
                self._checkpoints.save_best(self._average.model.state_dict())
        note = ""
        if self._tired and not self._over:
            note = f"no progress in {self._looks_in_vain} looks"
        self._save()
        self._say({}, None, note=note)

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        if not self._accelerator.is_main_process:
            return
        scaler = self._accelerator.scaler
        self._checkpoints.save(
            {
                "model": self._plain_model.state_dict(),
                "average": self._average.model.state_dict(),
                "optimiser": self._optimiser.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else {},
                "start": self._start.source,
                "step": self._step,
                "seconds": self._seconds,
                "looks_in_vain": self._looks_in_vain,
                "map50": self._map50,
                "best": self._best,
                "curve": [astuple(point) for point in self._curve],
            }
        )

    def _say(self, losses: dict[str, float], rate: float | None, note: str = "") -> None:
        if not self._accelerator.is_main_process:
            return
        pace = self._step / self._seconds if self._seconds else None
        left = self._seconds * (1 / self._share - 1) if self._share else None
        figures = (losses, rate, self._map50, self._best, pace, left, note)
        self._tell(Progress("train", self._step, self._steps, *figures))
