"""Three ways through a vision-language model to the logits of the first answer token.

All give the same numbers and differ in what questions on one view share:

- ``prefix``: the image encoding and the keys and values of the whole head. For causal models.
- ``features``: the image encoding. For models that read the whole prompt in both directions.
- ``plain``: nothing; one full prompt a question.

``choose`` tries them on drawn images and takes the first that agrees with ``plain``.
"""

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from secondlook.models.vlm_inputs import Group, Tokens

log = logging.getLogger(__name__)

Pass = Callable[[Any, Group, Sequence[Sequence[Tokens]]], torch.Tensor]
"""(model, group, tails of each of its views) -> (questions, vocabulary) logits, view by view."""


def plain(model: Any, group: Group, tails: Sequence[Sequence[Tokens]]) -> torch.Tensor:
    """Every question a prompt of its own. Prompts of one length go together, so none is padded."""
    return _by_length(
        tails,
        lambda views, batch: model(
            **_joined(group, batch), **group.images_of(views), use_cache=False, logits_to_keep=1
        ).logits[:, -1],
    )


def features(model: Any, group: Group, tails: Sequence[Sequence[Tokens]]) -> torch.Tensor:
    """The vision tower runs once a view; every question is a prompt of its own behind it."""
    accepted = inspect.signature(model.get_image_features).parameters
    seen = model.get_image_features(
        **{name: value for name, value in group.images.items() if name in accepted},
        return_dict=True,
    ).pooler_output
    grids = {name: value for name, value in group.images.items() if not name.startswith("pixel")}
    grids_only = Group(group.rows, group.head, grids)

    def run(views: torch.Tensor, batch: Sequence[Tokens]) -> torch.Tensor:
        # The class of transformers itself: models hand it on and call its methods.
        encoded = BaseModelOutputWithPooling(
            pooler_output=_features_of(seen, len(group.rows), views)
        )
        return model(
            **_joined(group, batch),
            **grids_only.images_of(views),
            mm_encoder_outputs={"image": encoded},
            use_cache=False,
            logits_to_keep=1,
        ).logits[:, -1]

    return _by_length(tails, run)


def prefix(model: Any, group: Group, tails: Sequence[Sequence[Tokens]]) -> torch.Tensor:
    """The head is read once a view; only the few tokens of each question come on top.

    Tails are padded on the right: in a causal model nothing before the padding can see it.
    """
    extra: dict[str, Any]
    flat = [tail for of_view in tails for tail in of_view]
    lengths = torch.tensor([len(tail["input_ids"]) for tail in flat])
    if len(flat) == len(tails):
        views = torch.arange(len(flat), device=_device(group))
        tokens, last = _joined(group, flat), lengths - 1 + len(group.head["input_ids"])
        extra = {**group.images_of(views), "use_cache": False}
    else:
        tokens, last = _padded(flat), lengths - 1
        cache = _prefill(model, group, [len(of_view) for of_view in tails])
        extra = {_cache_name(model): cache, "use_cache": True}
    keep, place = torch.unique(last.to(_device(group)), return_inverse=True)
    logits = model(**tokens, **extra, logits_to_keep=keep).logits
    return logits[torch.arange(len(flat), device=logits.device), place]


def _prefill(model: Any, group: Group, counts: Sequence[int]) -> Any:
    """Keys and values of every view's head, repeated for each of its questions."""
    views = len(group.rows)
    head = {name: value.expand(views, -1) for name, value in group.head.items()}
    output = model(**head, **group.images, use_cache=True, logits_to_keep=1)
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
    tails: Sequence[Sequence[Tokens]],
    run: Callable[[torch.Tensor, Sequence[Tokens]], torch.Tensor],
) -> torch.Tensor:
    """``run(views, tails)`` on all tails of one length at a time; logits back in order."""
    flat = [(view, tail) for view, of_view in enumerate(tails) for tail in of_view]
    together: dict[int, list[int]] = {}
    for row, (_, tail) in enumerate(flat):
        together.setdefault(len(tail["input_ids"]), []).append(row)
    device = flat[0][1]["input_ids"].device
    parts = [
        run(torch.tensor([flat[row][0] for row in rows], device=device), [flat[r][1] for r in rows])
        for rows in together.values()
    ]
    order = torch.tensor([row for rows in together.values() for row in rows], device=device)
    return torch.cat(parts)[torch.argsort(order)]


def _joined(group: Group, tails: Sequence[Tokens]) -> Tokens:
    """Head and tail, one row a question, padded on the right."""
    return {
        name: torch.cat([group.head[name].expand(len(tails), -1), padded], dim=1)
        for name, padded in _padded(tails).items()
    }


def _padded(tails: Sequence[Tokens]) -> Tokens:
    """(questions, longest tail) each; padding is 0, which no pass lets a question see."""
    if len(tails) == 1:
        return {name: value[None] for name, value in tails[0].items()}
    return {
        name: torch.nn.utils.rnn.pad_sequence([tail[name] for tail in tails], batch_first=True)
        for name in tails[0]
    }


def _features_of(seen: Any, views: int, wanted: torch.Tensor) -> Any:
    """A model gives its image features as one tensor, or as a list with one entry a view."""
    if torch.is_tensor(seen):
        return seen.unflatten(0, (views, -1))[wanted].flatten(0, 1)
    return [seen[view] for view in wanted.tolist()]


def _device(group: Group) -> torch.device:
    return group.head["input_ids"].device


def choose(model: Any, group: Group, tails: Sequence[Sequence[Tokens]], name: str) -> Pass:
    """The pass that shares most and agrees with ``plain`` on this group; says which in the log."""
    expected = plain(model, group, tails).float()
    # In half precision two orders of the same sums differ in the third digit.
    allowed = 1e-3 if model.dtype == torch.float32 else 0.1
    refused = []
    for way in (prefix, features):
        try:
            got = way(model, group, tails).float()
        except Exception as refusal:  # a model class that does not know the arguments at all
            refused.append(f"'{way.__name__}' is not possible: {refusal!r}")
            log.debug("%s: pass %s", name, refused[-1])
            continue
        spread = expected.std(dim=-1, keepdim=True).clamp_min(1e-6)
        off = float(((got - expected).abs() / spread).max())
        if off <= allowed:
            log.info("%s: questions on one view share the '%s' pass", name, way.__name__)
            return way
        refused.append(f"'{way.__name__}' differs by {off:.2g} of the logits' spread")
        log.debug("%s: pass %s", name, refused[-1])
    log.warning(
        "%s: questions on one view share nothing, each is a full prompt, which is slow; pass %s",
        name,
        ", pass ".join(refused),
    )
    return plain
