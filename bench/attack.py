"""What attacks do to a server with the models of the demo: the time of others, and memory.

Each attack runs against ``secondlook serve`` in a process of its own; memory is that of it and all
of its children. A figure is the value against its bar, from one run each. The random inputs of
``make attack`` (a million) are another matter; they give no figures.
"""

import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

from attacked_server import AttackedServer, started_server
from known_attacks import (
    Effect,
    flat_png,
    huge_ontology,
    images_at_once,
    many_reasons,
    many_runs,
    scan_bomb,
    unfinished_messages,
)

from bench.overload import overload
from bench.paired_timing import Figure, against

GRACE_S = 5
WAIT_S, PEAK_MB, END_S = 2.0, 1536.0, GRACE_S + 2.0


def run() -> list[Figure | str]:
    """Overload; then every known attack on a server of its own, and how soon it ends afterwards."""
    jpeg, large = scan_bomb(), flat_png()
    attacks = {
        "8 JPEGs of 100,000 scans": lambda s: images_at_once(s, jpeg, 8, timeout_s=10),
        "16 PNGs of 8000×8000 in 264 kB": lambda s: images_at_once(s, large, 16, timeout_s=60),
        "500,000 classes": huge_ontology,
        "40,000 run names": many_runs,
        "300,000 reasons": many_reasons,
        "32 unfinished messages of 60 MB": lambda s: unfinished_messages(s, 32),
    }
    rows = overload()
    for name, attack in attacks.items():
        with tempfile.TemporaryDirectory() as folder, _server(Path(folder)) as server:
            effect: Effect = attack(server)
            ended_s = server.terminate(60)
        print(name, effect, f"ended after {ended_s:.1f} s", flush=True)
        rows += [
            against(f"{name}: health waits", effect.worst_wait_s, WAIT_S, "s"),
            against(f"{name}: peak memory", effect.peak_mb, PEAK_MB, "MB"),
            against(f"{name}: SIGTERM, grace {GRACE_S} s", ended_s, END_S, "s"),
            f"{name}: a sound image was labelled after {effect.label_s:.2f} s meanwhile; "
            f"the attack was answered {', '.join(sorted(set(effect.statuses))) or 'nothing'}; "
            f"at rest the server takes {server.at_rest_mb:.0f} MB.",
        ]
    return rows


def _server(folder: Path) -> AbstractContextManager[AttackedServer]:
    flags = ("--models", "demo", "--max-trainings", "0", "--grace-s", str(GRACE_S))
    return started_server(folder, *flags)
