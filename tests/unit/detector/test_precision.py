"""Which of a student's models runs."""

import io
from pathlib import Path

import pytest
from students import write_student

from secondlook.detector import runtime
from secondlook.detector.manifest import FP32, INT8, SELF_TEST
from secondlook.detector.runtime import (
    OnnxDetector,
    choose_precision,
    has_fast_int8,
    required_files,
)
from secondlook_client.errors import BadSetting

BOTH = (FP32, INT8, SELF_TEST)
FP32_ONLY = (FP32, SELF_TEST)
X86 = "vendor_id\t: GenuineIntel\nflags\t\t: fpu sse4_2 avx512f {}\nbugs\t: spectre_v1\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes {}\n"


@pytest.mark.parametrize(
    ("asked", "quick", "names", "expected"),
    [
        ("auto", True, BOTH, "int8"),
        ("auto", False, BOTH, "fp32"),
        ("auto", True, FP32_ONLY, "fp32"),
        ("auto", False, (INT8, SELF_TEST), "int8"),  # fetched for another processor
        ("auto", True, (), "fp32"),
        ("fp32", True, BOTH, "fp32"),
        ("int8", False, FP32_ONLY, "int8"),
    ],
)
def test_the_choice(asked, quick, names, expected, monkeypatch) -> None:
    monkeypatch.setattr(runtime, "has_fast_int8", lambda: quick)
    assert choose_precision(asked, names) == expected


def test_an_unknown_one_names_those_there_are() -> None:
    with pytest.raises(BadSetting, match="'int4' is unknown; known are auto, fp32, int8"):
        choose_precision("int4", BOTH)


@pytest.mark.parametrize("quick", [True, False])
def test_a_device_fetches_the_model_that_it_will_open(quick, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(runtime, "has_fast_int8", lambda: quick)
    manifest = write_student(tmp_path, int8=True)
    model, test = required_files("auto", manifest.files)
    assert (model, test) == (INT8 if quick else FP32, SELF_TEST)
    (tmp_path / (FP32 if quick else INT8)).unlink()
    with_one = OnnxDetector.open(tmp_path)
    assert with_one.precision == ("int8" if quick else "fp32")
    with_one.close()


def test_a_disk_that_moves_to_another_processor_runs_what_is_on_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(runtime, "has_fast_int8", lambda: False)
    write_student(tmp_path, int8=True)
    (tmp_path / FP32).unlink()
    detector = OnnxDetector.open(tmp_path)
    assert detector.precision == "int8"
    detector.close()


def test_int8_that_an_export_left_out_means_fp32() -> None:
    assert required_files("int8", FP32_ONLY) == (FP32, SELF_TEST)
    assert required_files("int8", BOTH) == (INT8, SELF_TEST)


@pytest.mark.parametrize(
    ("system", "told", "expected"),
    [
        ("linux", X86.format("avx512_vnni"), True),
        ("linux", X86.format("avx_vnni"), True),
        ("linux", X86.format("avx2"), False),
        ("linux", X86.format("not_avx_vnni_at_all"), False),
        ("linux", ARM.format("asimddp"), True),
        ("linux", ARM.format("crc32"), False),
        ("linux", "", False),
        ("linux", "\udcff", False),
        ("linux", None, False),
    ],
)
def test_a_processor_is_known_by_its_flags(system, told, expected, monkeypatch) -> None:
    def read(path: Path, **_: object) -> io.StringIO:
        assert path == Path("/proc/cpuinfo")
        if told is None:
            raise FileNotFoundError(path)
        return io.StringIO(told)

    monkeypatch.setattr(runtime.sys, "platform", system)
    monkeypatch.setattr(Path, "open", read)
    assert has_fast_int8.__wrapped__() is expected


@pytest.mark.parametrize(("machine", "expected"), [("arm64", True), ("x86_64", False)])
def test_of_apples_only_arm(machine, expected, monkeypatch) -> None:
    monkeypatch.setattr(runtime.sys, "platform", "darwin")
    monkeypatch.setattr(runtime.platform, "machine", lambda: machine)
    assert has_fast_int8.__wrapped__() is expected
