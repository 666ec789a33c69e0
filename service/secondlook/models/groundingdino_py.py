"""Stage one on the authors' code, as packaged on PyPI: ``groundingdino-py`` (an optional extra).

For those who want that very code. It is slower than transformers' class and gives the same boxes
(``tests/peers/groundingdino_py`` measures both). Captions, batches and scores are ours, as for
every other Grounding DINO here; only the network is theirs.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import torch
from transformers import BatchEncoding, BertConfig, BertModel

from secondlook.config.settings import ModelSettings
from secondlook.models import loading, original_checkpoint
from secondlook.models.grounding_dino import GroundingDinoProposer, parse_spec
from secondlook.models.loading import choose_placement
from secondlook.models.original_checkpoint import translate
from secondlook_client.errors import MissingExtra, NotFound

log = logging.getLogger(__name__)

CONFIGS = {96: "GroundingDINO_SwinT_OGC.py", 128: "GroundingDINO_SwinB_cfg.py"}
"""The package's own configuration, by the channels of the backbone's first stage."""
_BUILDING = Lock()


def load(argument: str, options: ModelSettings) -> GroundingDinoProposer:
    """``groundingdino-py:FILE.pth``, with ``?tokenizer=FOLDER&max_phrases=…&pad=…`` where wanted.

    Raises ``MissingExtra`` when the package is not installed, ``NotFound`` as ``idea:`` does.
    """
    _check_installed()
    where, settings = parse_spec(argument, tokenizer=True)
    path = Path(where).expanduser()
    weights = original_checkpoint.read_weights(path)
    tokenizer = original_checkpoint.tokenizer_for(path, settings.tokenizer)
    network = Network(build(weights, tokenizer, path.name))
    return GroundingDinoProposer(
        network,
        tokenizer,
        original_checkpoint.pixel_settings(network.config.num_queries, settings.pad),
        name=f"groundingdino-py-{path.stem}",
        digest=loading.digest_of([path]),
        placement=choose_placement(options),
        batch=options.model_batch,
        max_phrases=settings.max_phrases,
    )


def build(weights: original_checkpoint.Weights, tokenizer: Any, name: str) -> torch.nn.Module:
    """The package's model with these weights; BERT's come from the checkpoint, not from the hub."""
    from groundingdino.models import build_model
    from groundingdino.util.slconfig import SLConfig

    own = {key.removeprefix("module."): value for key, value in weights.items()}
    config = original_checkpoint.config_of(translate(own)[0])
    file = CONFIGS.get(config.backbone_config.embed_dim)
    if file is None:
        raise NotFound(
            f"'{name}' has neither the Swin-T nor the Swin-B backbone that groundingdino-py "
            "knows; load it with idea: instead"
        )
    with resources.as_file(resources.files("groundingdino") / "config" / file) as path:
        settings = SLConfig.fromfile(str(path))
    settings.device = "cpu"
    settings.use_checkpoint = settings.use_transformer_ckpt = False  # both serve training only
    with text_encoder(tokenizer, config.text_config):
        model = build_model(settings)
    report = model.load_state_dict(own, strict=False)
    if report.missing_keys:
        raise NotFound(
            f"'{name}' lacks {len(report.missing_keys)} weights of groundingdino-py's model, "
            f"e.g. '{report.missing_keys[0]}'"
        )
    return model


class Network(torch.nn.Module):
    """The package's model, called as transformers' is: ids in, logits and boxes out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model
        # Captions reach it as ids, so that the spans of their phrases are known.
        self._model.tokenizer = _as_given
        self.config = SimpleNamespace(
            max_text_len=model.max_text_len, num_queries=model.num_queries
        )

    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: torch.Tensor,
        input_ids: torch.Tensor,
        **_: Any,
    ) -> SimpleNamespace:
        """``logits`` (B, Q, T) and ``pred_boxes`` (B, Q, 4), relative centre and size."""
        from groundingdino.util.misc import NestedTensor

        samples = NestedTensor(pixel_values, pixel_mask == 0)
        found = self._model(samples, captions=input_ids)
        return SimpleNamespace(logits=found["pred_logits"], pred_boxes=found["pred_boxes"])


def _as_given(ids: torch.Tensor, **_: Any) -> BatchEncoding:
    """In place of a tokenizer: captions that are ids already."""
    return BatchEncoding(
        {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "token_type_ids": torch.zeros_like(ids),
        }
    )


@contextmanager
def text_encoder(tokenizer: Any, config: BertConfig) -> Iterator[None]:
    """While a model is built, BERT comes from here instead of the hub, and is not wrapped.

    The package has no parameter for it; three names of its modules are replaced for as long as the
    building takes. Its own wrapper calls parts of transformers' BERT that change between versions.
    """
    from groundingdino.models.GroundingDINO import groundingdino as network
    from groundingdino.util import get_tokenlizer as source

    with _BUILDING:
        kept = source.get_tokenlizer, source.get_pretrained_language_model, network.BertModelWarper
        source.get_tokenlizer = lambda _: tokenizer
        source.get_pretrained_language_model = lambda _: TextEncoder(config)
        network.BertModelWarper = lambda bert_model: bert_model
        try:
            yield
        finally:
            source.get_tokenlizer, source.get_pretrained_language_model = kept[:2]
            network.BertModelWarper = kept[2]


class TextEncoder(BertModel):
    """BERT that takes the package's masks: which token may attend to which, (B, T, T) boolean.

    Only ``forward`` of transformers' class is called, with the four-dimensional mask that every
    version takes as it is.
    """

    def forward(  # type: ignore[override, unused-ignore]
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **given: Any
    ) -> Any:
        """As ``BertModel.forward``; ``attention_mask`` has True where a token may attend to."""
        wide = (
            attention_mask[:, None, None] if attention_mask.ndim == 2 else attention_mask[:, None]
        )
        # Added to the scores: right for eager attention and for SDPA, a boolean for SDPA only.
        added = (1.0 - wide.to(self.dtype)) * torch.finfo(self.dtype).min
        return super().forward(input_ids, attention_mask=added, **given)


def _check_installed() -> None:
    try:
        import groundingdino.models  # noqa: F401
    except ImportError as cause:
        raise MissingExtra(
            f"groundingdino-py cannot be imported ({cause}); install it beside secondlook with "
            "`pip install setuptools wheel && "
            'pip install --no-build-isolation "secondlook[serve,groundingdino-py]"` '
            "(its build imports torch, so torch comes first), or load the checkpoint with idea:"
        ) from cause
