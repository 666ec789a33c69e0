"""Numbers, text and YAML of dataset files: what is written is what is read."""

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secondlook.datasets.readers import fields
from secondlook_client.errors import InvalidInput, NotFound

MOST = 1 << 20
NO_NUMBERS = (
    None,
    True,
    [],
    {},
    "",
    "a",
    "1_0",
    "0x10",
    "١",
    "nan",
    "inf",
    float("nan"),
    float("-inf"),
    10**400,
    1e10,
)
in_a_folder = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80
)


@given(value=st.floats(-1e8, 1e8))
def test_a_number_is_the_same_as_text(value: float) -> None:
    assert fields.number(value) == fields.number(f" {value!r}") == value
    assert fields.number(f"{value:.3e}") == float(f"{value:.3e}")


@given(value=st.integers(-(10**8), 10**8))
def test_a_whole_number_has_many_spellings(value: int) -> None:
    for written in (value, float(value), str(value), f"{value}.0", f" {value} "):
        assert fields.whole_number(written) == value
        assert fields.identifier(written) == value
        assert isinstance(fields.identifier(written), int)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_number(value: object) -> None:
    with pytest.raises(ValueError, match="expected a"):
        fields.number(value)
    assert fields.side(value) is None


@pytest.mark.parametrize("value", [0.5, "0.5", "1e-3", math.pi])
def test_a_fraction_is_no_whole_number(value: object) -> None:
    with pytest.raises(ValueError, match="whole number"):
        fields.whole_number(value)


@pytest.mark.parametrize("text", ["01", "1.5", "a1", "", "-0", "+1", "1_0", "1e3"])
def test_other_texts_are_ids_of_their_own(text: str) -> None:
    assert fields.identifier(text) == text


@pytest.mark.parametrize("value", [None, True, [], 0.5, float("nan"), float("inf")], ids=repr)
def test_what_is_no_id(value: object) -> None:
    with pytest.raises(ValueError, match="as id"):
        fields.identifier(value)


def test_flags_in_every_spelling() -> None:
    for no in (0, 0.0, "0", "0.0", False, None, "", "false", "False", "no"):
        assert fields.flag(no) is False
    for yes in (1, 1.0, "1", "1.0", True, "true", "TRUE", "yes"):
        assert fields.flag(yes) is True
    for neither in (2, -1, 0.5, "maybe", [], [0], float("nan")):
        with pytest.raises(ValueError, match="expected 0 or 1"):
            fields.flag(neither)


numbers = st.lists(st.floats(0, 1).map(lambda v: f"{v:.6f}"), min_size=1, max_size=9)


@given(numbers, st.sampled_from([" ", "\t", "   ", " \t ", ",", ", ", " , ", ";", "; "]))
def test_rows_with_any_separator(words: list[str], separator: str) -> None:
    assert fields.split_row(f" {separator.join(words)} ") == words


@given(numbers.filter(lambda words: len(words) > 1))
def test_decimal_commas_are_not_guessed(words: list[str]) -> None:
    with pytest.raises(ValueError, match="not clear which"):
        fields.split_row(" ".join(word.replace(".", ",") for word in words))


@in_a_folder
@given(
    text=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r\ufeff")),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "utf-16-be-bom"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_text_in_any_encoding_is_the_text(
    tmp_path: Path, text: str, encoding: str, end: str
) -> None:
    marked = ("\ufeff" if encoding.endswith("-bom") else "") + text
    content = marked.replace("\n", end).encode(encoding.removesuffix("-bom"))
    (tmp_path / "a").write_bytes(content)
    notes: list[str] = []
    # Without a mark the first character is one of ASCII, as in every file of these formats.
    if encoding != "utf-8" or text[:1].isascii():
        assert fields.read_text(tmp_path / "a", MOST, notes) == text
        assert not notes


def test_utf_16_without_a_mark(tmp_path: Path) -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        (tmp_path / "a").write_bytes("names: [é, 犬]\n".encode(encoding))
        assert fields.read_yaml(tmp_path / "a", MOST) == {"names": ["é", "犬"]}


def test_a_guessed_encoding_is_told(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_bytes("names: [bébé]\r\n".encode("latin-1"))
    notes: list[str] = []
    assert fields.read_yaml(tmp_path / "data.yaml", MOST, notes) == {"names": ["bébé"]}
    assert len(notes) == 1 and "data.yaml is not UTF-8 text" in notes[0]


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\0\0", b"a\0b", b"\xff\xfea", b"\x81"])
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InvalidInput, match="a cannot be read: it is not text"):
        fields.read_text(tmp_path / "a", MOST)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        fields.read_text(tmp_path / "gone", MOST)
    with pytest.raises(InvalidInput, match="cannot be read: Is a directory"):
        fields.read_text(tmp_path, MOST)
    with pytest.raises(InvalidInput, match="cannot be read"):
        fields.read_text(tmp_path / ("a" * 300), MOST)
    (tmp_path / "a").write_bytes(b"1" * 2000)
    with pytest.raises(InvalidInput, match="more than 1 KiB"):
        fields.read_text(tmp_path / "a", 1 << 10)


WRITTEN = "no, yes, on, off, Yes, y, ~, null, 1.0, 007, 0x1f, 1e3, 2024-01-01, 12:30:00, .inf"


def test_yaml_gives_the_written_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(f"names: [{WRITTEN}]\nnc: 15\n")
    names = fields.read_yaml(tmp_path / "a", MOST)["names"]
    assert names == WRITTEN.split(", ")
    (tmp_path / "a").write_text("names:\n" + "".join(f"  {n}: {v}\n" for n, v in enumerate(names)))
    found = fields.read_yaml(tmp_path / "a", MOST)["names"]
    assert found == {str(place): name for place, name in enumerate(names)}


@in_a_folder
@given(
    names=st.lists(
        st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=9), min_size=1
    )
)
def test_names_that_pyyaml_writes_are_read(tmp_path: Path, names: list[str]) -> None:
    for entry in (names, dict(enumerate(names))):
        text = yaml.safe_dump({"names": entry}, allow_unicode=True)
        (tmp_path / "a").write_text(text, encoding="utf-8")
        found = fields.read_yaml(tmp_path / "a", MOST)["names"]
        assert (list(found.values()) if isinstance(found, dict) else found) == names


def test_yaml_that_would_run_code_or_explode_is_refused(tmp_path: Path) -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"{n}: &{n} [*a, *a]\n" for n in "bcdefgh")
    for text, told in (
        ("a: !!python/object/apply:os.getcwd []", "tags"),
        ("a: !x 1", "tags"),
        (bomb, "aliases"),
        ("[" * 3000, "nested too deep"),
        ("? [a]\n: 1", "expected a name"),
        ("a: 1\na: 2", "'a' is given twice"),
        ("- a", "expected entries"),
        ("a: [", "line 1"),
    ):
        (tmp_path / "x").write_text(text)
        with pytest.raises(InvalidInput, match=told):
            fields.read_yaml(tmp_path / "x", MOST)
