"""A written page of HTML, as a test looks at it."""

import json
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "img", "link", "br", "input"}
"""The elements that are never closed."""


class Page(HTMLParser):
    """Checks that every element is closed in order, and keeps what was seen."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.words.append((self.open[-1], data))

    def all(self, tag: str, kind: str = "") -> list[dict[str, str | None]]:
        """The attributes of every element of that tag, or of those with that class."""
        return [a for t, a in self.seen if t == tag and kind in (a.get("class") or "").split(" ")]

    def data(self) -> Any:
        """What the page's script reads."""
        (text,) = [words for tag, words in self.words if tag == "script" and words[:1] == "{"]
        return json.loads(text)

    def boxes(self) -> list[dict[str, Any]]:
        """Every box of every image, as the script reads it."""
        data, names = self.data(), ("side", "kind", "of", "x1", "y1", "x2", "y2", "score", "p")
        names += ("exact", "asked", "answer", "reason", "id")
        found = []
        for image in data["images"]:
            for row in image["b"]:
                box = dict(zip(names, row, strict=True))
                box |= {name: data["texts"][box[name]] for name in ("asked", "answer", "reason")}
                box["class"] = data["classes"][box["of"]] if box["of"] >= 0 else ""
                found.append(
                    {**box, "image": image["n"], "kind": data["kinds"][box["kind"]]["word"]}
                )
        return found

    def texts(self, tag: str = "") -> list[str]:
        """Every text that stands directly in such an element, or anywhere."""
        return [data for inside, data in self.words if tag in ("", inside)]
