"""What is measured, and how: ``python -m bench``. Scripted models and faults are the tests'."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
