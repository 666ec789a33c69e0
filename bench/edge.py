"""The agent on a device: 24 hours with an image every ten seconds, replayed in fast motion.

There are 200 disconnects, 20 kills of the agent and 5 changes of its model: one to a corrupt model,
and the last one a rollback. Agent and server run in processes of their own, and the connection
between them is cut. Every frame that was acknowledged must be on the server, the corrupt model must
be refused, and memory must not grow (in the second half, during which the agent is not restarted).
The number of images can be set: SECONDLOOK_EDGE_FRAMES=1000.
"""

import os
import tempfile
import time
from pathlib import Path

from edge_trial import Trial, TrialResult

from bench.paired_timing import Figure

FRAMES = int(os.environ.get("SECONDLOOK_EDGE_FRAMES", "8640"))
KILLS, CUTS = 20, 200
BAR = 1.1


def run() -> list[Figure | str]:
    """One day; the ratio is memory at its end to memory after a tenth of the last process."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = Trial(Path(folder), FRAMES, KILLS, CUTS).run()
    return [_memory(found), _table(found, time.perf_counter() - began), _models(found)]


def _memory(found: TrialResult) -> Figure:
    frames, last = found.rss[-1]
    _, first = min(found.rss, key=lambda sample: abs(sample[0] - frames / 10))
    ratio = last / first
    return Figure(
        name="memory of the agent at the end ÷ after a tenth of its last process",
        bar=f"≤ {BAR}",
        ours=last / 2**20,
        baseline=first / 2**20,
        unit="MiB",
        ratio=ratio,
        low=min(size for _, size in found.rss) / first,
        high=max(size for _, size in found.rss) / first,
        rounds=len(found.rss),
        met=ratio <= BAR and not found.lost and list(found.refused) == found.corrupt,
    )


def _table(found: TrialResult, seconds: float) -> str:
    head = "| images | kills | cuts | selected and spooled | acknowledged | lost | dropped | time |"
    return (
        f"{head}\n|---|---|---|---|---|---|---|---|\n| {found.processed:,} | {found.kills} | "
        f"{found.cuts} | {found.spooled:,} | {found.acknowledged:,} | {found.lost} | "
        f"{found.dropped} | {seconds:.0f} s |\n\n"
        f"Spooled and neither on the server nor in the spool: {found.vanished}. On the server: "
        f"{found.on_server:,} (frames in transit when the classes change may be in both "
        "streams)."
    )


def _models(found: TrialResult) -> str:
    used = ", ".join(str(version) for version in sorted(found.versions) if version)
    refused = "; ".join(found.refused.values()) or "none"
    right = "as required" if list(found.refused) == found.corrupt else "**WRONG**"
    return (
        f"Versions in use: {used}; at the end {found.health['model_version']}. Refused: {refused} "
        f"({right}). In the last process: {found.health['swaps']} swaps, "
        f"{found.health['frames']:,} images processed."
    )
