"""Run benchmarks, print their tables and write them to bench/RESULTS.md.

For every ratio both sides are measured in the same run, in turn; it is the median of at least five
pairs.
"""

import argparse
import importlib
import os
import platform
import sys
import time
from pathlib import Path

from bench.paired_timing import Figure

SUITES = (
    "quality",
    "verifying",
    "verify_labels",
    "trust",
    "guarantee",
    "images",
    "serving",
    "doors",
    "durable",
    "store",
    "redecide",
    "pulling",
    "queueing",
    "review_queue",
    "crashes",
    "job_memory",
    "ray",
    "memory",
    "video_memory",
    "cold_start",
    "fast",
    "students",
    "student_speed",
    "contrasts",
    "decoys",
    "pages",
    "page",
    "page_robot",
    "guaranteed_students",
    "uncertainty",
    "neighbours",
    "loop",
    "loop_kills",
    "real_photos",
    "real_two_stage",
    "tiling",
    "cascade",
    "edge",
    "video_tracks",
    "micro_models",
    "micro_photos",
    "attack",
    "mask_clicks",
    "mask_photos",
    "mask_labels",
    "mask_views",
    "mask_serving",
    "mask_formats",
    "mask_store",
    "operate_failover",
    "operate_restart",
    "operate_full_disk",
    "operate_clock",
    "operate_certificates",
    "operate_slow_s3",
)
ON_REQUEST = ("soak", "peers")
"""Suites that take hours or install packages, which run only where they are named."""
GROUPS = {
    "masks": tuple(name for name in SUITES if name.startswith("mask_")),
    "operate": tuple(name for name in SUITES if name.startswith("operate_")),
}
"""Names for several suites."""
RESULTS = Path(__file__).with_name("RESULTS.md")


def main(arguments: list[str]) -> int:
    """Run the named suites (all without a name); the exit code is 1 when a bar was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "suite",
        nargs="*",
        metavar="SUITE",
        help=f"Suites to run; without one, all of them: {', '.join(SUITES)}. "
        + ". ".join(f"{group}: all of {', '.join(some)}" for group, some in GROUPS.items()),
    )
    given = parser.parse_args(arguments).suite
    names = [name for one in given for name in GROUPS.get(one, (one,))]
    for name in names:
        if name not in SUITES + ON_REQUEST:
            parser.error(f"unknown suite {name!r}; there are {', '.join(SUITES + ON_REQUEST)}")
    missed = False
    for name in names or SUITES:
        print(f"== {name}", flush=True)
        started = time.perf_counter()
        suite = importlib.import_module(f"bench.{name}")
        result = suite.run()
        text = _section(name, suite.__doc__ or "", result, time.perf_counter() - started)
        print(text, flush=True)
        _write_section(name, text)
        missed |= any(isinstance(row, Figure) and not row.met for row in result)
    return int(missed)


def _section(name: str, about: str, rows: list[Figure | str], seconds: float) -> str:
    """One suite's section of RESULTS.md: what was measured, the command, the machine, the table."""
    figures = [row.line() for row in rows if isinstance(row, Figure)]
    notes = [row for row in rows if isinstance(row, str)]
    head = "| what | bar | ratio, median (min–max) | both sides, median | bar met |"
    head += "\n|---|---|---|---|---|"
    # Figures of fewer scenes than usual are to say so; a path would be one of this machine.
    sizes = [
        f"{key}={value}"
        for key, value in sorted(os.environ.items())
        if key.startswith("SECONDLOOK_") and "/" not in value and "TOKEN" not in key
    ]
    command = " ".join([*sizes, f"python -m bench {name}"])
    parts = [
        f"## {name}",
        " ".join(about.split()),
        f"`{command}` · {time.strftime('%Y-%m-%d')} · {machine()} · {seconds:.0f} s",
    ]
    if figures:
        parts.append("\n".join([head, *figures]))
    parts.extend(notes)
    return "\n\n".join(parts) + "\n"


def machine() -> str:
    """The processor, cores and versions that the figures depend on."""
    import torch
    import transformers

    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return (
        f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )


def _write_section(name: str, text: str) -> None:
    """Replace this suite's section of RESULTS.md; the others and the order stay."""
    title = "# Results\n\nEach section names the command that produced it.\n"
    old = RESULTS.read_text() if RESULTS.exists() else title
    head, *sections = old.split("\n## ")
    by_name = {section.split("\n", 1)[0]: section for section in sections}
    by_name[name] = text.removeprefix("## ").rstrip("\n")
    ordered = sorted(by_name, key=lambda n: SUITES.index(n) if n in SUITES else len(SUITES))
    body = "".join(f"\n## {by_name[key].rstrip()}\n" for key in ordered)
    RESULTS.write_text(head.rstrip("\n") + "\n" + body)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
