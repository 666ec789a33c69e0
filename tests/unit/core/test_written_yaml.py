"""YAML from anybody: the written text, soon, or the reason why not."""

import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from secondlook.core.written_yaml import MAX_BRACKETS, YamlProblem, parse_yaml

texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
values = st.recursive(
    texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


@given(values)
def test_what_is_written_is_read(value):
    assert parse_yaml(yaml.safe_dump(value, allow_unicode=True), max_depth=20) == value


@pytest.mark.parametrize("text", ["[" * 300_000, "a: " + "{" * 300_000, "[{" * 150_000])
def test_many_brackets_are_refused_soon(text):
    began = time.thread_time()
    with pytest.raises(YamlProblem, match="nested too deep") as caught:
        parse_yaml(text, max_depth=16)
    assert time.thread_time() - began < 0.1
    assert caught.value.line == 1


def test_as_many_brackets_as_are_allowed_take_little_time():
    began = time.thread_time()
    line = "- " + "[" * MAX_BRACKETS + "]" * MAX_BRACKETS + "\n"
    with pytest.raises(YamlProblem, match="nested too deep"):
        parse_yaml(line * 2000, max_depth=16)
    assert time.thread_time() - began < 1


def test_nulls_stay_text_unless_they_are_to_be_empty():
    text = "a: null\nb: ~\nc: 'null'\nnull: 1\n"
    written = {"a": "null", "b": "~", "c": "null", "null": "1"}
    assert parse_yaml(text, 3) == written
    assert parse_yaml(text, 3, empty_nulls=True) == {**written, "a": "", "b": ""}
