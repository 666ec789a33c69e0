"""Compile the protos into the client package, or check that what lies there is fresh.

    python protos/generate.py            write the stubs
    python protos/generate.py --check    exit 1 when they differ from what the protos give

The server imports the client's copy: the same file compiled twice in one process is refused by
protobuf as a duplicate symbol.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PACKAGE = "secondlook/v1"
STUBS = ROOT / "clients/secondlook_client/v1"
INIT = '"""Compiled from the protos by ``protos/generate.py``; not written by hand."""\n'


def compile_into(folder: Path) -> None:
    """Write every stub into ``folder``."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}"),
            f"--python_out={scratch}",
            f"--grpc_python_out={scratch}",
            f"--mypy_out=quiet:{scratch}",
            f"--mypy_grpc_out=quiet:{scratch}",
            *(f"{PACKAGE}/{path.name}" for path in sorted((PROTOS / PACKAGE).glob("*.proto"))),
        ]
        # The mypy plug-ins are scripts beside the interpreter, which need not be on the PATH.
        environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        for made in (Path(scratch) / PACKAGE).iterdir():
            (folder / made.name).write_text(at_home(made.read_text()))
    (folder / "__init__.py").write_text(INIT)


def at_home(stub: str) -> str:
    """A stub that finds the others where they lie: protoc knows the path of the protos only."""
    return re.sub(r"(?m)^((?:from|import) )secondlook\.v1\b", r"\1secondlook_client.v1", stub)


def contents(folder: Path) -> dict[str, bytes]:
    """The stubs in ``folder``, by name."""
    return {path.name: path.read_bytes() for path in folder.glob("*.py*") if path.is_file()}


def main() -> None:
    """Ends with status 1 when --check found stubs that are not as the protos say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, refuse stale stubs")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as scratch:
        compile_into(Path(scratch))
        fresh = contents(Path(scratch))
    present = contents(STUBS)
    stale = sorted(name for name in fresh | present if fresh.get(name) != present.get(name))
    if check and stale:
        sys.exit(f"stale stubs: {', '.join(stale)}; run `make stubs`")
    STUBS.mkdir(exist_ok=True)
    for name in stale:
        if name in fresh:
            (STUBS / name).write_bytes(fresh[name])
        else:
            (STUBS / name).unlink()


if __name__ == "__main__":
    main()
