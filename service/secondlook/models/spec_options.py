"""Options at the end of a model's spec, as in ``transformers:ORG/NAME?max_phrases=1&pad=32``."""

from collections.abc import Collection
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
