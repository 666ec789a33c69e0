"""YAML from anybody, read as it is written: texts, lists and mappings, and nothing else.

Every scalar stays the written text, so that a class may be called ``no`` or ``1.0``. Tags, aliases
(which make a short file explode in memory), keys that stand twice and deep nesting are refused.
"""

import re
from typing import Any

import yaml

NULLS = ("null", "Null", "NULL", "~")
MAX_BRACKETS = 64
"""Open at the same time. PyYAML's time rises with their square, long before it says what is wrong;
how deep a document really is, is counted exactly afterwards."""
_BRACKETS = re.compile(r"[\[\]{}]")


class YamlProblem(ValueError):
    """The text is not the YAML that is read here; says why."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        """``line`` counts from 1."""
        super().__init__(problem)
        self.line = line

    @property
    def where(self) -> str:
        """`` at line 3``, or nothing."""
        return f" at line {self.line}" if self.line is not None else ""


def parse_yaml(text: str, max_depth: int, empty_nulls: bool = False) -> Any:
    """What the text says, no more than ``max_depth`` levels deep.

    With ``empty_nulls`` an unquoted ``null`` or ``~`` behind a key is an empty text. Raises
    ``YamlProblem``.
    """
    _refuse_many_brackets(text)
    loader = None
    try:
        loader = _WrittenTextLoader(text, max_depth, empty_nulls)
        return loader.get_single_data()
    except (yaml.YAMLError, RecursionError) as cause:
        mark = getattr(cause, "problem_mark", None)
        problem = getattr(cause, "problem", None) or "it holds a character that YAML forbids"
        raise YamlProblem(problem, mark.line + 1 if mark else None) from cause
    finally:
        if loader is not None:
            loader.dispose()


def _refuse_many_brackets(text: str) -> None:
    depth = 0
    for found in _BRACKETS.finditer(text):
        depth = depth + 1 if found[0] in "[{" else max(depth - 1, 0)
        if depth > MAX_BRACKETS:
            raise YamlProblem("nested too deep", text.count("\n", 0, found.start()) + 1)


class _WrittenTextLoader(yaml.BaseLoader):
    def __init__(self, text: str, max_depth: int, empty_nulls: bool) -> None:
        super().__init__(text)
        self._depth = 0
        self._empty_nulls = empty_nulls
        self._max_depth = max_depth

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise self._problem("aliases (*name) are not read; write the values out")
        if self.peek_event().tag not in (None, "!"):
            raise self._problem("tags (!name) are not read; remove them")
        self._depth += 1
        if self._depth > self._max_depth:
            raise self._problem("nested too deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise YamlProblem("expected a name before ':'", key.start_mark.line + 1)
            if key.value in seen:
                problem = f"'{key.value:.60}' is given twice; give it one entry"
                raise YamlProblem(problem, key.start_mark.line + 1)
            seen.add(key.value)
        return {key.value: self._value(value) for key, value in node.value}

    def _value(self, node: yaml.Node) -> Any:
        return "" if self._empty_nulls and _is_null(node) else self.construct_object(node, True)

    def _problem(self, problem: str) -> YamlProblem:
        return YamlProblem(problem, self.peek_event().start_mark.line + 1)


def _is_null(node: yaml.Node) -> bool:
    """Unquoted, as in YAML proper."""
    return isinstance(node, yaml.ScalarNode) and node.style is None and node.value in NULLS
