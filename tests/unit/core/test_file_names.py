"""File names in any script, and in none, as text and back."""

import os

from hypothesis import example, given
from hypothesis import strategies as st

from secondlook.core.files import name_to_text, text_to_name


@given(st.binary(min_size=1, max_size=60))
@example(b"\\xff\xff\\\\x41\\")
def test_every_name_of_a_file_comes_back(raw: bytes) -> None:
    name = os.fsdecode(raw.replace(b"\x00", b"").replace(b"/", b""))
    text = name_to_text(name)
    text.encode("utf-8")
    assert text_to_name(text) == name


def test_ordinary_names_stay_as_they_are() -> None:
    for name in ("a/b.jpg", "Straße/écran 1.PNG", "图片/猫.jpg", "صورة.png", "🐶.webp", "x\n.jpg"):
        assert name_to_text(name) == name


def test_a_byte_that_is_no_text_is_written_out() -> None:
    assert name_to_text(os.fsdecode(b"caf\xe9.jpg")) == "caf\\xe9.jpg"
    assert name_to_text("caf\\xe9.jpg") == "caf\\\\xe9.jpg"
