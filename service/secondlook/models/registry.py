"""Models of the stages, and embedders, by name: the package's own adapters and plug-ins alike.

A spec is one of

    name, name:argument        an entry point of ``secondlook.proposers``, ``secondlook.verifiers``,
                               ``secondlook.segmenters`` or ``secondlook.embedders``
    package.module:attribute   an import path, for a plug-in that is not packaged
    package.module:attribute:argument
    folder, org/name           a checkpoint for the adapter of transformers' classes
                               (``transformers``, for segmenters ``sam``, for embedders
                               ``vision``); org/name@revision
    none                       for a verifier: no verification; for a segmenter: no masks

and leads to a factory ``load(argument: str, options: ModelSettings)`` that returns the model.
"""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from secondlook.config.extras import extra_of, installed, missing_extra
from secondlook.config.settings import (
    EMBEDDERS,
    FASTEST,
    PROPOSERS,
    SEGMENTERS,
    VERIFIERS,
    ModelSettings,
    Settings,
)
from secondlook.core.processors import available_cpus
from secondlook.labeling.embedder import Embedder
from secondlook.labeling.pipeline import Pipeline
from secondlook.labeling.proposer import Proposer
from secondlook.labeling.segmenter import Segmenter
from secondlook.labeling.tiling import tiled
from secondlook.labeling.verifier import Verifier
from secondlook.models.fastest_type import fastest_proposer, fastest_verifier
from secondlook.models.photo import describe_pairs
from secondlook_client.errors import BadSetting, MissingExtra, NotFound

NONE = "none"

Factory = Callable[[str, ModelSettings], Any]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_PARTS: dict[str, dict[str, type | None]] = {
    PROPOSERS: {"name": str, "digest": str, "propose": None},
    VERIFIERS: {"name": str, "digest": str, "min_side": int, "answer": None},
    SEGMENTERS: {"name": str, "digest": str, "encode": None, "segment": None},
    EMBEDDERS: {"name": str, "digest": str, "dimensions": int, "embed": None},
}
"""What a model must have, with the type; None for a method."""
_WORDS = {
    PROPOSERS: "proposer",
    VERIFIERS: "verifier",
    SEGMENTERS: "segmenter",
    EMBEDDERS: "embedder",
}
_OF_CHECKPOINTS = {
    PROPOSERS: "transformers",
    VERIFIERS: "transformers",
    SEGMENTERS: "sam",
    EMBEDDERS: "vision",
}
"""The adapter that takes a checkpoint which is named without one."""


def prepare_process(models: ModelSettings) -> None:
    """Settings of this process that take effect only before the first model is loaded."""
    # Read by torch when it is first imported, with the models. Of itself it takes a thread for each
    # core of the machine, also where a container has a share of them.
    if models.threads:
        os.environ["OMP_NUM_THREADS"] = str(models.threads)
    elif available_cpus() < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(available_cpus()))
    # Threads that wait for each other spin, and take the time of another process's: two processes
    # on two cores took 4.4 times as long as one; now they take 1.6 times, and one alone 5 % more.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if not sys.stderr.isatty():  # progress bars of loading models, in logs
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def load_pipeline(settings: Settings) -> Pipeline:
    """The models that the settings name. Raises what loading a model raises."""
    models = settings.models
    verifier = load_verifier(models.verifier, models)  # first: a model server may be down
    proposer = load_proposer(models.proposer, models)
    segmenter = load_segmenter(models.segmenter, models)
    return Pipeline(proposer, verifier, settings.pipeline, segmenter)


def load_proposer(spec: str, options: ModelSettings) -> Proposer:
    """The proposer that ``spec`` names, shown tiles too where the options say so.

    Raises ``NotFound`` for an unknown name or missing checkpoint, ``MissingExtra`` when a package
    is not installed, ``BadSetting`` for a plug-in that lacks a part of ``Proposer``.
    """

    def load(given: ModelSettings) -> Proposer:
        model: Proposer = _load(PROPOSERS, spec, given)
        return model

    model = fastest_proposer(load, options) if options.dtype == FASTEST else load(options)
    return tiled(model, options)


def load_verifier(spec: str, options: ModelSettings) -> Verifier | None:
    """The verifier that ``spec`` names, or None for ``none``; raises as ``load_proposer`` does."""
    if spec.strip() == NONE:
        return None

    def load(given: ModelSettings) -> Verifier:
        model: Verifier = _load(VERIFIERS, spec, given)
        return model

    return fastest_verifier(load, options) if options.dtype == FASTEST else load(options)


def load_segmenter(spec: str, options: ModelSettings) -> Segmenter | None:
    """The segmenter that ``spec`` names, or None for ``none``; raises as ``load_proposer`` does."""
    if spec.strip() == NONE:
        return None
    model: Segmenter = _load(SEGMENTERS, spec, options)
    return model


def load_embedder(spec: str, options: ModelSettings) -> Embedder:
    """The embedder that ``spec`` names; raises as ``load_proposer`` does."""
    model: Embedder = _load(EMBEDDERS, spec, options)
    return model


def available(group: str) -> tuple[str, ...]:
    """The names registered for ``PROPOSERS``, ``VERIFIERS``, ``SEGMENTERS`` or ``EMBEDDERS``,
    sorted."""
    return tuple(sorted({point.name for point in entry_points(group=group)}))


def _load(group: str, spec: str, options: ModelSettings) -> Any:
    try:
        factory, argument = _resolve(group, spec.strip())
        _check_factory(group, spec, factory)
        model = factory(argument, options)
    except ImportError as cause:
        raise _missing(spec, cause) from cause
    _check(group, spec, model)
    return model


def _resolve(group: str, spec: str) -> tuple[Factory, str]:
    """The factory for a spec and the argument that it gets."""
    name, _, argument = spec.partition(":")
    if point := _entry_point(group, name):
        return point.load(), argument
    if argument and _MODULE.fullmatch(name) and installed(name):
        attribute, _, rest = argument.partition(":")
        return _attribute(name, attribute), rest
    if _is_checkpoint(spec) and (point := _entry_point(group, _OF_CHECKPOINTS[group])):
        return point.load(), spec
    names = ", ".join(available(group)) or "none (is secondlook installed?)"
    pairs = (
        f". Fetched from the Hugging Face hub: {describe_pairs()}"
        if group in (PROPOSERS, VERIFIERS)
        else ""
    )
    raise NotFound(
        f"there is no {_WORDS[group]} '{spec}'. Known are {names}; also taken are a checkpoint's "
        "folder or org/name[@revision], and package.module:attribute where it can be imported "
        f"(install it, or add its folder to PYTHONPATH){pairs}"
    )


def _entry_point(group: str, name: str) -> EntryPoint | None:
    return next(iter(entry_points(group=group, name=name)), None)


def _attribute(module: str, attribute: str) -> Factory:
    factory = importlib.import_module(module)
    for part in attribute.split("."):
        if not hasattr(factory, part):
            raise NotFound(f"module '{module}' has no '{attribute}'; check the spelling")
        factory = getattr(factory, part)
    if not callable(factory):
        raise BadSetting(
            f"'{module}:{attribute}' cannot be called; expected a function or class "
            "that takes (argument: str, options: ModelSettings)"
        )
    return factory


def _is_checkpoint(spec: str) -> bool:
    """A folder, a path that is written like one (so that the adapter can say it is missing), or
    the ``org/name`` of a hub."""
    looks_like_path = spec.startswith(("/", "./", "../", "~"))
    return looks_like_path or _HUB_ID.fullmatch(spec) is not None or Path(spec).is_dir()


def _check_factory(group: str, spec: str, factory: Factory) -> None:
    try:
        signature = inspect.signature(factory)
    except ValueError:  # some compiled functions have none to look at
        return
    try:
        signature.bind("", ModelSettings())
    except TypeError as cause:
        raise BadSetting(
            f"{_WORDS[group]} '{spec}' leads to a factory that takes {signature}; "
            "expected (argument: str, options: ModelSettings)"
        ) from cause


def _missing(spec: str, cause: ImportError) -> MissingExtra:
    module = (cause.name or "").partition(".")[0]
    if isinstance(cause, ModuleNotFoundError) and (extra := extra_of(module)):
        return missing_extra(f"'{spec}'", extra)
    return MissingExtra(
        f"'{spec}' could not be imported ({cause}); install what it needs, then try again"
    )


def _check(group: str, spec: str, model: object) -> None:
    """Report what a plug-in lacks when it is loaded, not in the middle of a run."""
    wrong = [
        f"{part} ({kind.__name__ if kind else 'a method'})"
        for part, kind in _PARTS[group].items()
        if not _has(model, part, kind)
    ]
    if wrong:
        raise BadSetting(
            f"{_WORDS[group]} '{spec}' gave a {type(model).__name__} without a usable "
            f"{', '.join(wrong)}; see the protocol in secondlook.labeling.{_WORDS[group]}"
        )


def _has(model: object, part: str, kind: type | None) -> bool:
    value = getattr(model, part, None)
    if kind is None:
        return callable(value)
    return isinstance(value, kind) and not (kind is int and value < 1)  # type: ignore[operator]
