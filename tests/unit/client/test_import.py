"""The client stands alone: no torch, numpy, Pillow or service behind its import."""

import subprocess
import sys


def test_the_client_imports_nothing_heavy():
    code = (
        "import sys, secondlook_client;"
        "heavy = {'torch', 'numpy', 'PIL', 'transformers', 'secondlook'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
