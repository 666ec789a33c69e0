"""Processors that a process may use."""

import os
from pathlib import Path

import pytest

from secondlook.core import processors
from secondlook.core.processors import available_cpus


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The process in a service of a slice, on a machine of 64 processors, without limits."""
    (tmp_path / "apps.slice/ours.service").mkdir(parents=True)
    (tmp_path / "self").write_text("1:cpu:/\n0::/apps.slice/ours.service\n")
    monkeypatch.setattr(processors, "_CGROUPS", tmp_path)
    shares = processors._shares
    monkeypatch.setattr(processors, "_shares", lambda _, root: shares(tmp_path / "self", root))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("group", "limit", "expected"),
    [
        (".", "max 100000", 64),
        (".", "250000 100000", 3),
        ("apps.slice", "200000 100000", 2),
        ("apps.slice/ours.service", "50000 100000", 1),
        ("apps.slice/ours.service", "damaged", 64),
        ("apps.slice/ours.service", "9900000 100000", 64),
    ],
)
def test_the_narrowest_limit_around_the_process_counts(
    groups: Path, group: str, limit: str, expected: int
) -> None:
    (groups / group / "cpu.max").write_text(limit + "\n")
    assert available_cpus() == expected


def test_without_cgroups_affinity_counts(groups: Path) -> None:
    (groups / "self").unlink()
    assert available_cpus() == 64
