"""What an agent opens a student with."""

from pathlib import Path

import pytest
from students import truncate, write_student

from secondlook.edge.app import open_student
from secondlook_client.errors import Damaged


def test_int8_falls_back_to_what_there_is(tmp_path: Path) -> None:
    write_student(tmp_path / "both", int8=True)
    write_student(tmp_path / "one")
    assert open_student(tmp_path / "both", "int8").precision == "int8"
    assert open_student(tmp_path / "one", "int8").precision == "fp32"
    with pytest.raises(Damaged):
        truncate(tmp_path / "one")
        open_student(tmp_path / "one")
