"""The part of a plug-in spec after its name: where a model lies, and a few settings of its own.

``transformers:IDEA-Research/grounding-dino-tiny?together=1&pad=32`` reads like a URL's query.
"""

from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import parse_qsl

from secondlook.errors import BadSetting


@dataclass(frozen=True)
class Prompting:
    """How a Grounding DINO is asked; the defaults give what its authors' own code gives."""

    together: int | None = None
    """Phrases that share a caption at most; None packs as many as fit. 1 finds most and costs a
    pass of the model for each phrase."""
    pad: int = 1
    """Pictures are padded to a multiple of this many pixels. 1 pads nothing: scores equal those
    of the original code, but only pictures of one resized shape share a batch."""


def split(argument: str, allowed: Collection[str] = ()) -> tuple[str, dict[str, str]]:
    """``where?key=value&…`` as ``where`` and its settings.

    Raises ``BadSetting`` for a setting that is not among ``allowed``, or is given twice.
    """
    where, _, query = argument.partition("?")
    found: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in allowed or key in found:
            raise BadSetting(
                f"setting '{key}' in '{argument}' is given twice or unknown; "
                f"known here: {', '.join(sorted(allowed)) or 'none'}"
            )
        found[key] = value
    return where, found


def prompting(settings: dict[str, str]) -> Prompting:
    """``together`` and ``pad`` out of the settings of a spec; ``BadSetting`` when out of range."""
    together = _whole(settings, "together", 1, 256)
    return Prompting(together, _whole(settings, "pad", 1, 4096) or 1)


def _whole(settings: dict[str, str], key: str, low: int, high: int) -> int | None:
    text = settings.get(key)
    if text is None:
        return None
    if not text.isdecimal() or not low <= int(text) <= high:
        raise BadSetting(f"expected {key} from {low} to {high}, got '{text}'")
    return int(text)
