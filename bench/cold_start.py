"""Cold starts: each command in a fresh process; its wall time, and that torch is not imported."""

import statistics
import subprocess
import sys
import time

from bench.paired_timing import Figure

BAR_S = 0.5
CHECK = "import sys; assert 'torch' not in sys.modules, 'torch was imported'"
COLD = {
    "`secondlook --help`": (
        "import sys; sys.argv = ['secondlook', '--help']\n"
        "from secondlook.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n" + CHECK
    ),
    "`import secondlook_client`": "import secondlook_client\n" + CHECK,
}


def run() -> list[Figure | str]:
    """Seconds, median of seven cold processes each; fails when torch is imported."""
    return [_seconds(name, code) for name, code in COLD.items()]


def _seconds(name: str, code: str, rounds: int = 7) -> Figure:
    times = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times[1:])
    return Figure(
        name=f"cold {name}, seconds",
        bar=f"< {BAR_S} s, no torch",
        ours=seconds,
        baseline=BAR_S,
        unit="s (bar on the right)",
        ratio=seconds,
        low=min(times[1:]),
        high=max(times[1:]),
        rounds=rounds,
        met=seconds < BAR_S,
    )
