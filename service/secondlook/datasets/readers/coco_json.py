"""JSON files as COCO has them, read with errors that name the file and the entry."""

import json
from pathlib import Path
from typing import Any

from secondlook.core.errors import InvalidInput, NotFound


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises ``NotFound`` and ``InvalidInput``, which name it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist; give the path of a COCO file") from None
    except (OSError, UnicodeDecodeError) as failure:
        cause = getattr(failure, "strerror", None) or "it is not UTF-8 text"
        raise InvalidInput(f"{path} cannot be read: {cause}") from None
    except (json.JSONDecodeError, RecursionError) as failure:
        raise InvalidInput(f"{path} is not JSON ({failure}); give a COCO file") from None


def entry_value(entry: Any, key: str, where: str) -> Any:
    """``entry[key]``; raises ``InvalidInput`` saying ``where`` when it is not there or no id."""
    if not isinstance(entry, dict) or key not in entry:
        raise InvalidInput(f"{where} has no '{key}'")
    value = entry[key]
    if key.endswith("id") and not isinstance(value, int | str):
        raise InvalidInput(f"{where}: expected a number as {key}, got {value!r}")
    return value
