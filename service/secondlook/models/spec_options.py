"""Options at the end of a model's spec, as in ``transformers:ORG/NAME?max_phrases=1&pad=32``."""

import math
from collections.abc import Collection, Mapping
from urllib.parse import parse_qsl

from secondlook_client.errors import BadSetting


def split_options(argument: str, allowed: Collection[str]) -> tuple[str, dict[str, str]]:
    """``where?key=value&…`` as ``where`` and its options.

    Raises ``BadSetting`` for an option that is not ``allowed`` or given twice.
    """
    where, _, query = argument.partition("?")
    found: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in allowed or key in found:
            raise BadSetting(
                f"setting '{key}' in '{argument}' is given twice or unknown; "
                f"known here: {', '.join(allowed)}"
            )
        found[key] = value
    return where, found


def parse_channels(settings: Mapping[str, str], key: str) -> tuple[float, ...] | None:
    """``mean`` or ``std`` of a model's channels: one number or three; None where it is not given.

    Raises ``BadSetting`` for anything else, and for a divisor of 0.
    """
    if key not in settings:
        return None
    try:
        numbers = tuple(float(part) for part in settings[key].split(","))
    except ValueError:
        numbers = ()
    sound = all(math.isfinite(n) and (key == "mean" or n != 0) for n in numbers)
    if len(numbers) not in (1, 3) or not sound:
        raise BadSetting(f"expected {key} to be one number or three, got '{settings[key]}'")
    return numbers
