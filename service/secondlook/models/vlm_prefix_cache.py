"""Three forward passes of a vision-language model to the logits of the first answer token.

All give the same numbers and differ in what questions on one view share:

- ``prefix``: the image encoding and the keys and values of the whole prefix. For causal models.
- ``features``: the image encoding. For models that read the whole prompt in both directions.
- ``plain``: nothing; one full prompt a question.

``choose_pass`` tries them on synthetic images and takes the first that agrees with ``plain``.
"""

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from secondlook.models.vlm_inputs import Tokens, ViewBatch

log = logging.getLogger(__name__)

Pass = Callable[[Any, ViewBatch, Sequence[Sequence[Tokens]]], torch.Tensor]
"""(model, views, suffixes of each view) -> (questions, vocabulary) logits, view by view."""


def plain(model: Any, group: ViewBatch, suffixes: Sequence[Sequence[Tokens]]) -> torch.Tensor:
    """Every question a prompt of its own. Prompts of one length go together, so none is padded."""
    return _by_length(
        suffixes,
        lambda views, batch: model(
            **_full_prompts(group, batch),
            **group.images_of(views),
            use_cache=False,
            logits_to_keep=1,
        ).logits[:, -1],
    )


def features(model: Any, group: ViewBatch, suffixes: Sequence[Sequence[Tokens]]) -> torch.Tensor:
    """The vision tower runs once a view; every question is a prompt of its own behind it."""
    accepted = inspect.signature(model.get_image_features).parameters
    encoded = model.get_image_features(
        **{name: value for name, value in group.images.items() if name in accepted},
        return_dict=True,
    ).pooler_output
    grids = {name: value for name, value in group.images.items() if not name.startswith("pixel")}
    grids_only = ViewBatch(group.rows, group.prefix, grids)

    def run(views: torch.Tensor, batch: Sequence[Tokens]) -> torch.Tensor:
        # The class of transformers itself: models hand it on and call its methods.
        selected = BaseModelOutputWithPooling(
            pooler_output=_features_of(encoded, len(group.rows), views)
        )
        return model(
            **_full_prompts(group, batch),
            **grids_only.images_of(views),
            mm_encoder_outputs={"image": selected},
            use_cache=False,
            logits_to_keep=1,
        ).logits[:, -1]

    return _by_length(suffixes, run)


def prefix(model: Any, group: ViewBatch, suffixes: Sequence[Sequence[Tokens]]) -> torch.Tensor:
    """The prefix is read once a view; only the few tokens of each question come on top.

    Suffixes are padded on the right: in a causal model nothing before the padding can see it.
    """
    extra: dict[str, Any]
    flat = [suffix for of_view in suffixes for suffix in of_view]
    lengths = torch.tensor([len(suffix["input_ids"]) for suffix in flat])
    if len(flat) == len(suffixes):
        views = torch.arange(len(flat), device=_device(group))
        tokens, last = _full_prompts(group, flat), lengths - 1 + len(group.prefix["input_ids"])
        extra = {**group.images_of(views), "use_cache": False}
    else:
        tokens, last = _pad_suffixes(flat), lengths - 1
        cache = _prefill(model, group, [len(of_view) for of_view in suffixes])
        extra = {_cache_name(model): cache, "use_cache": True}
    keep, place = torch.unique(last.to(_device(group)), return_inverse=True)
    logits = model(**tokens, **extra, logits_to_keep=keep).logits
    return logits[torch.arange(len(flat), device=logits.device), place]


def _prefill(model: Any, group: ViewBatch, counts: Sequence[int]) -> Any:
    """Keys and values of every view's prefix, repeated for each of its questions."""
    views = len(group.rows)
    prefixes = {name: value.expand(views, -1) for name, value in group.prefix.items()}
    output = model(**prefixes, **group.images, use_cache=True, logits_to_keep=1)
    cache = getattr(output, _cache_name(model))
    rows = torch.arange(views).repeat_interleave(torch.tensor(counts)).to(_device(group))
    cache.batch_select_indices(rows)
    # The Qwen-VL family remembers, between two passes, how far an image moved the positions of
    # the text behind it; it is one number a row, so it has to be repeated with the rows.
    inner = getattr(model, "model", model)
    if getattr(inner, "rope_deltas", None) is not None:
        inner.rope_deltas = inner.rope_deltas[rows]
    return cache


def _cache_name(model: Any) -> str:
    """What the model calls keys and values, in and out: it was renamed in transformers 5.24."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def _by_length(
    suffixes: Sequence[Sequence[Tokens]],
    run: Callable[[torch.Tensor, Sequence[Tokens]], torch.Tensor],
) -> torch.Tensor:
    """``run(views, suffixes)`` on all suffixes of one length at a time; logits back in order."""
    flat = [(view, suffix) for view, of_view in enumerate(suffixes) for suffix in of_view]
    by_length: dict[int, list[int]] = {}
    for row, (_, suffix) in enumerate(flat):
        by_length.setdefault(len(suffix["input_ids"]), []).append(row)
    device = flat[0][1]["input_ids"].device
    parts = [
        run(torch.tensor([flat[row][0] for row in rows], device=device), [flat[r][1] for r in rows])
        for rows in by_length.values()
    ]
    order = torch.tensor([row for rows in by_length.values() for row in rows], device=device)
    return torch.cat(parts)[torch.argsort(order)]


def _full_prompts(group: ViewBatch, suffixes: Sequence[Tokens]) -> Tokens:
    """Prefix and suffix, one row a question, padded on the right."""
    return {
        name: torch.cat([group.prefix[name].expand(len(suffixes), -1), padded], dim=1)
        for name, padded in _pad_suffixes(suffixes).items()
    }


def _pad_suffixes(suffixes: Sequence[Tokens]) -> Tokens:
    """(questions, longest suffix) each; padding is 0, which no pass lets a question see."""
    if len(suffixes) == 1:
        return {name: value[None] for name, value in suffixes[0].items()}
    return {
        name: torch.nn.utils.rnn.pad_sequence(
            [suffix[name] for suffix in suffixes], batch_first=True
        )
        for name in suffixes[0]
    }


def _features_of(encoded: Any, views: int, wanted: torch.Tensor) -> Any:
    """A model gives its image features as one tensor, or as a list with one entry a view."""
    if torch.is_tensor(encoded):
        return encoded.unflatten(0, (views, -1))[wanted].flatten(0, 1)
    return [encoded[view] for view in wanted.tolist()]


def _device(group: ViewBatch) -> torch.device:
    return group.prefix["input_ids"].device


def choose_pass(
    model: Any, group: ViewBatch, suffixes: Sequence[Sequence[Tokens]], name: str
) -> Pass:
    """The pass that shares most and agrees with ``plain`` on this batch; logs which one."""
    expected = plain(model, group, suffixes).float()
    # In half precision two orders of the same sums differ in the third digit.
    allowed = 1e-3 if model.dtype == torch.float32 else 0.1
    refused = []
    for forward in (prefix, features):
        try:
            got = forward(model, group, suffixes).float()
        except Exception as refusal:  # a model class that does not know the arguments at all
            refused.append(f"'{forward.__name__}' is not possible: {refusal!r}")
            log.debug("%s: pass %s", name, refused[-1])
            continue
        spread = expected.std(dim=-1, keepdim=True).clamp_min(1e-6)
        off = float(((got - expected).abs() / spread).max())
        if off <= allowed:
            log.info("%s: questions on one view share the '%s' pass", name, forward.__name__)
            return forward
        refused.append(f"'{forward.__name__}' differs by {off:.2g} of the logits' spread")
        log.debug("%s: pass %s", name, refused[-1])
    log.warning(
        "%s: questions on one view share nothing, each is a full prompt, which is slow; pass %s",
        name,
        ", pass ".join(refused),
    )
    return plain
