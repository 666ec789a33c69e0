"""Quality of the embedded models on 500 scenes not used in training, at IoU 0.5.

The figures are those of ``secondlook demo --count 500 --seed 31337``.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.paired_timing import Figure

SCENES, SEED = 500, 31337
BARS = (
    ("noun recall of the proposer", "nouns", "recall_proposer", ">=", 0.95),
    ("attribute precision after both stages", "attributes", "precision", ">=", 0.95),
    ("attribute recall after both stages", "attributes", "recall", ">=", 0.88),
    ("attribute precision of the proposer alone", "attributes", "precision_proposer", "<", 0.65),
)


def run() -> list[Figure | str]:
    """Four shares, each with its bar."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "secondlook", "demo", "--count", str(SCENES)]
        command += ["--seed", str(SEED), "--out", f"{folder}/out"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        report = json.loads(Path(folder, "out", "report.json").read_text())
    figures: list[Figure | str] = [_figure(report["classes"], *bar) for bar in BARS]
    kept = {key: report[key] for key in ("classes", "accepted", "rejected", "unsure")}
    return [*figures, f"The whole report: `{json.dumps(kept)}`"]


def _figure(
    report: dict[str, dict[str, float]], name: str, part: str, key: str, sign: str, bar: float
) -> Figure:
    share = report[part][key]
    return Figure(
        name=name,
        bar=f"{'≥' if sign == '>=' else '<'} {bar}",
        ours=share,
        baseline=bar,
        unit="(bar on the right)",
        ratio=share,
        low=share,
        high=share,
        rounds=1,
        met=share >= bar if sign == ">=" else share < bar,
    )
