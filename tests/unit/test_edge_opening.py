"""What an agent opens a student with."""

from pathlib import Path

import pytest
from students import truncate, write_student

from secondlook.edge.opening import files_needed, open_student
from secondlook.errors import Damaged


def test_int8_falls_back_to_what_there_is(tmp_path: Path) -> None:
    write_student(tmp_path / "both")
    write_student(tmp_path / "one", int8=False)
    assert open_student(tmp_path / "both", "int8").precision == "int8"
    assert open_student(tmp_path / "one", "int8").precision == "fp32"
    assert files_needed(["model.onnx", "model.int8.onnx"], "int8")[0] == "model.int8.onnx"
    assert files_needed(["model.onnx"], "int8")[0] == "model.onnx"
    with pytest.raises(Damaged):
        truncate(tmp_path / "one")
        open_student(tmp_path / "one")
