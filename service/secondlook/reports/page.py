"""HTML pages of one file, from the templates beside this module.

Everything that enters a template is escaped, a name that a template misses is an error, and a
content security policy (``page.html``) forbids a page to run or load anything but its own script
and embedded images; the gallery may load images from the folder beside it.
"""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from secondlook.core.drawing import CLASS_COLOURS
from secondlook.core.files import replacing

TEMPLATES = Path(__file__).parent / "templates"
MAX_TEXT = 120
"""Characters of a name on a page."""


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Write ``template`` with ``values`` to ``path``, atomically.

    It is written piece by piece: of an iterator among the values one element is in memory at a
    time. What UTF-8 cannot say becomes a question mark. Raises ``StorageFull`` or ``InvalidInput``
    where nothing can be written.
    """
    with replacing(path) as part, part.open("w", encoding="utf-8", errors="replace") as file:
        file.writelines(environment.get_template(template).generate(**values))
    return path


def share(value: float | None) -> str:
    """A figure in [0, 1] with three digits, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def cut(text: str) -> str:
    """At most ``MAX_TEXT`` characters of a text."""
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


@cache
def _asset(name: str) -> Markup:
    """A style sheet or script of the package."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _digest(name: str) -> str:
    """A script of the package as a content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(_asset(name).encode()).digest()).decode()


environment = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
environment.filters |= {"share": share, "cut": cut}
environment.globals |= {"asset": _asset, "digest": _digest, "class_colours": CLASS_COLOURS}
