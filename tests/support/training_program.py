"""Stands for `secondlook distill` where a server's handling of it is tested.

    python training_program.py BEHAVIOUR STUDENT OUT

Writes progress, then copies the folder STUDENT into OUT. BEHAVIOUR is one of ``trains``, ``fails``,
``waits`` (until OUT.go is there, adding a line to OUT/starts), ``stubborn`` (the same, and SIGTERM
does not end it) and ``killed``.
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path


def main(behaviour: str, student: Path, out: Path) -> None:
    """Behave as told."""
    with (out / "progress.jsonl").open("a") as file:
        for step in range(1, 4):
            line = {"step": step, "of": 3, "loss": 1 / step, "map50": 0.5, "phase": "train"}
            file.write(json.dumps(line) + "\n")
        file.write('{"step": 3, "of"')  # a line that is still being written
    with (out / "starts").open("a") as file:
        file.write(f"{os.getpid()} {os.nice(0)}\n")
    if behaviour == "fails":
        print(f"a line before\nerror: {out} is full; make room", file=sys.stderr)
        sys.exit(1)
    if behaviour == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour in ("waits", "stubborn"):
        ends = time.monotonic() + 60  # a test that failed leaves nobody behind for long
        while not out.with_name(f"{out.name}.go").exists() and time.monotonic() < ends:
            time.sleep(0.02)
    (out / "torch").mkdir(exist_ok=True)
    (out / "torch" / "model.safetensors").write_bytes(b"weights")
    (out / "checkpoints").mkdir(exist_ok=True)
    for path in sorted(student.iterdir(), key=lambda path: path.name == "manifest.json"):
        shutil.copy(path, out / path.name)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
