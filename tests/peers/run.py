#!/usr/bin/env python3
"""Run the tests that need other people's packages, each folder here in an environment of its own.

    python tests/peers/run.py [NAME ...]

A folder with a ``requirements.txt`` is a peer. Its environment lies in ``.cache/peers/NAME`` and
sees the packages of the interpreter that runs this script (torch alone is gigabytes) behind its
own, so that what a peer pins wins there and harms nobody else. It is made anew when the
requirements change. Exit status 1 when a peer's environment or test fails.
"""

import subprocess
import sys
import sysconfig
import time
import venv
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ENVIRONMENTS = ROOT / ".cache" / "peers"


@dataclass(frozen=True)
class Outcome:
    """What became of one peer."""

    name: str
    passed: bool
    summary: str
    """pytest's last line, or what kept the tests from running."""
    seconds: float


def main(names: list[str]) -> int:
    """Run the peers named, or all; returns the exit status."""
    peers = {path.parent.name: path for path in sorted(HERE.glob("*/requirements.txt"))}
    if unknown := set(names) - set(peers):
        print(f"no peer {', '.join(sorted(unknown))}; there are {', '.join(peers)}")
        return 2
    outcomes = [run(name, peers[name]) for name in names or peers]
    width = max(len(outcome.name) for outcome in outcomes)
    print()
    for outcome in outcomes:
        mark = "passed" if outcome.passed else "FAILED"
        print(f"{outcome.name:{width}}  {mark}  {outcome.seconds:6.1f} s  {outcome.summary}")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def run(name: str, requirements: Path) -> Outcome:
    """Build the environment of one peer if need be, and run its tests there."""
    started = time.monotonic()
    print(f"== {name}", flush=True)
    try:
        python = environment(name, requirements)
    except subprocess.CalledProcessError as failure:
        return Outcome(name, False, f"installing failed ({failure})", time.monotonic() - started)
    tests = str(requirements.parent.relative_to(ROOT))
    command = [str(python), "-m", "pytest", "-q", "--timeout=900"]
    command += ["--disable-warnings", "-p", "no:cacheprovider", tests]
    lines = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.strip())
    summary = next((line for line in reversed(lines) if line), "no output")
    return Outcome(name, process.returncode == 0, summary, time.monotonic() - started)


def environment(name: str, requirements: Path) -> Path:
    """The interpreter of a peer's environment, which holds what ``requirements`` says."""
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    done = folder / "requirements.done"
    wanted = f"{sys.version}\n{requirements.read_text()}"
    if done.is_file() and done.read_text() == wanted:
        return python
    venv.create(folder, clear=True, with_pip=True)
    behind = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    _site_packages(folder).joinpath("project.pth").write_text(behind)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # Some builds import torch, which an isolated build would not see.
    subprocess.run([*pip, "setuptools>=77", "wheel"], check=True)
    subprocess.run([*pip, "--no-build-isolation", "-r", str(requirements)], check=True)
    done.write_text(wanted)
    return python


def _site_packages(folder: Path) -> Path:
    return Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
