"""How many processors this process may use, and what they multiply by themselves."""

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_CPUS = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""As Linux names them on x86 and Arm."""


def available_cpus() -> int:
    """Processors that the process may run on, and no more than its share of time allows.

    A container with a share of two on a machine of 64 counts as two: 64 threads would wait for
    each other in turn. The share is that of cgroups of version 2.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([allowed, *_shares(Path("/proc/self/cgroup"), _CGROUPS)]))


def multiplies_bfloat16() -> bool:
    """Whether the processors multiply numbers in bfloat16; False where Linux does not say."""
    return not _BFLOAT16_FLAGS.isdisjoint(processor_words())


def processor_words() -> frozenset[str]:
    """What Linux says of the processors, their flags among it; empty where it does not."""
    try:
        return frozenset(_CPUS.read_text(encoding="ascii", errors="replace").split())
    except OSError:
        return frozenset()


def _shares(membership: Path, root: Path) -> list[int]:
    """Processors by the limits of the process's cgroup and of those around it, rounded up."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    group = root / own.strip("/")
    groups = [group, *(parent for parent in group.parents if parent.is_relative_to(root))]
    return [share for share in map(_share, groups) if share]


def _share(group: Path) -> int | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError):  # no such limit, or "max"
        return None
