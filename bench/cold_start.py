"""Cold starts: each command in a fresh process; its wall time, and that torch is not imported.

The last is a whole run on one scene of the demo world, which ends a little after its first label.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import fixtures
from bench.paired_timing import Figure

BAR_S, LABEL_BAR_S = 0.5, 3.0
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
    light = [
        _seconds(f"cold {name}", f"< {BAR_S} s, no torch", BAR_S, "-c", code)
        for name, code in COLD.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        (images / "scene.jpg").write_bytes(fixtures.jpegs(1)[0])
        first = _seconds(
            "cold `secondlook label` of one image, to its end, embedded models",
            f"< {LABEL_BAR_S} s",
            LABEL_BAR_S,
            *("-m", "secondlook", "label", str(images), "--models", "demo", "-c", "dog"),
            *("--out", f"{folder}/labels", "--fresh"),
        )
    return [*light, first]


def _seconds(name: str, shown: str, bar_s: float, *arguments: str, rounds: int = 7) -> Figure:
    times = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        command = [sys.executable, *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times[1:])
    return Figure(
        name=f"{name}, seconds",
        bar=shown,
        ours=seconds,
        baseline=bar_s,
        unit="s (bar on the right)",
        ratio=seconds,
        low=min(times[1:]),
        high=max(times[1:]),
        rounds=rounds,
        met=seconds < bar_s,
    )
