"""The programs in the READMEs of the Go and the TypeScript client do what they say.

`make golden` runs these tests, after it has built the clients; the suite does not.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from golden_server import golden_server, world

from other_languages import GO, TS, go_folder, run
from web.build import node_folder

__all__ = ["world"]
"""A fixture."""


def test_the_go_example_runs(world: Path, tmp_path: Path) -> None:
    program = tmp_path / "main.go"
    with example(GO, "go", world, tmp_path) as (text, given):
        program.write_text(text)
        out = run(GO, [go_folder()], "go", "run", program, **given)
    assert told(out) == EXAMPLE


def test_the_typescript_example_is_typed_and_runs(world: Path, tmp_path: Path) -> None:
    program = TS / "dist/example.ts"  # within the package, which it imports by its name
    flags = "--noEmit --strict --skipLibCheck --target es2022 --module nodenext --types node"
    with example(TS, "ts", world, tmp_path) as (text, given):
        program.write_text(text)
        programs = [node_folder(), TS / "node_modules/.bin"]
        run(TS, programs, "tsc", *flags.split(), "--ignoreConfig", program)
        out = run(TS, programs, "node", program, **given)
    assert told(out) == EXAMPLE


EXAMPLE = {"labels": True, "refused": "bad_image", "stored": 1}


@contextmanager
def example(
    client: Path, language: str, world: Path, folder: Path
) -> Iterator[tuple[str, dict[str, str]]]:
    """The program of a README for a running server, and the environment that it takes."""
    text = (client / "README.md").read_text(encoding="utf-8")
    [block] = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    image = folder / "street.jpg"
    shutil.copy(world / "images/000000.jpg", image)
    with golden_server(world, folder / "data", embedded=False) as values:
        block = block.replace("labels.lan:50051", values["address"])
        block = block.replace("street.jpg", str(image))
        yield block, {"SECONDLOOK_TOKEN": values["admin"], "SECONDLOOK_CA": values["ca"]}


def told(output: str) -> dict[str, Any]:
    """What an example printed."""
    return {
        "labels": "dog" in output,
        "refused": "bad_image" if "bad_image" in output else "",
        "stored": output.count("stored"),
    }
