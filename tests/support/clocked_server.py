"""``secondlook serve`` with a clock that is off by as many seconds as the file $CLOCK_OFFSET says.

Only Python's clock is; libfaketime, which would change all, breaks ``time.sleep`` of Python 3.11.
"""

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from grpc._cython import cygrpc

from secondlook.cli import main

right, right_ns = time.time, time.time_ns


def offset_s() -> float:
    """As the file says now; 0 without it."""
    try:
        return float(Path(os.environ["CLOCK_OFFSET"]).read_text() or 0)
    except (OSError, ValueError):
        return 0.0


if __name__ == "__main__":
    # gRPC's core keeps the right clock, so what compares deadlines with it must, too.
    cygrpc.time = SimpleNamespace(**vars(time))
    time.time = lambda: right() + offset_s()
    time.time_ns = lambda: right_ns() + int(offset_s() * 1e9)
    main(["serve", *sys.argv[1:]])
