"""Benchmarks: ``python -m bench``. Scripted models and fault injection come from the tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
