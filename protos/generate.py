"""Compile the protos into the client package, or check that what lies there is fresh.

    python protos/generate.py            write the stubs
    python protos/generate.py --check    exit 1 when they differ from what the protos give

The server imports the client's copy: the same file compiled twice in one process is refused by
protobuf as a duplicate symbol.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = Path("protos/secondlook/v1")
STUBS = ROOT / "clients/secondlook_client/v1"
INIT = '"""Compiled from the protos by ``protos/generate.py``; not written by hand."""\n'


def compile_into(folder: Path) -> None:
    """Write every stub below ``folder``, as ``secondlook_client/v1/*``."""
    # The import path in the stubs is the path that protoc is told, so no rewriting is needed.
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc"),
        f"-Isecondlook_client/v1={PROTOS}",
        f"--python_out={folder}",
        f"--grpc_python_out={folder}",
        f"--mypy_out=quiet:{folder}",
        f"--mypy_grpc_out=quiet:{folder}",
        *(f"secondlook_client/v1/{path.name}" for path in sorted((ROOT / PROTOS).glob("*.proto"))),
    ]
    # The mypy plug-ins are scripts beside the interpreter, which need not be on the PATH.
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    (folder / "secondlook_client/v1/__init__.py").write_text(INIT)


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
        fresh = contents(Path(scratch) / "secondlook_client/v1")
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
