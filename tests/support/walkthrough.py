"""A page of the documentation, walked through as a reader does: block by block, in one folder."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

import click
import pytest
import yaml
from installed import environment
from snippets import Rewrites, Snippet

from secondlook import cli
from secondlook.core.ontology_yaml import ontology_from_lines, ontology_from_yaml
from secondlook.edge import cli as edge_cli
from secondlook.models import embedded
from secondlook.models.photo_loaders import PhotoLoader

ROOT = Path(__file__).parents[2]
PROGRAMS: Mapping[str, tuple[click.Group, Callable[[Sequence[str]], int]]] = {
    "secondlook": (cli.group, cli.run),
    "secondlook-edge": (edge_cli.group, edge_cli.run),
}


def embed_photo_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, ``photo`` and its like load the embedded models, which need no network."""
    for method in ("load_proposer", "load_verifier"):
        load = getattr(embedded, method)
        monkeypatch.setattr(
            PhotoLoader, method, lambda _, argument, options, load=load: load(argument, options)
        )


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Walkthrough:
    """Runs blocks in ``home``, where the files lie that the page names.

    Commands and Python run in this process, ``secondlook serve`` beside it until the end, and YAML
    becomes ``classes.yaml``. A context manager.
    """

    def __init__(
        self, home: Path, rewrites: Rewrites, only_parsed: Mapping[str, str], serve: Sequence[str]
    ) -> None:
        """``only_parsed``: beginnings of commands that cost too much, and why.

        ``serve`` is added to the page's server, which listens on the page's port as rewritten.
        """
        self.home = home
        self.rewrites = rewrites
        self.address = ""
        """Of the page's server, once it runs."""
        self.stale = set(only_parsed)
        """Entries of ``only_parsed`` that no command begins with."""
        self._parsed: set[str] = set()
        self._serve = serve
        self._server: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Walkthrough":
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.send_signal(signal.SIGTERM)
            self._server.wait(60)

    def run_all(self, blocks: Sequence[Snippet]) -> list[str]:
        """Run the blocks of a page, also those behind one that fails; why they failed."""
        failed = []
        for block in blocks:
            try:
                self.run(block)
            except (Exception, click.exceptions.Exit) as failure:
                failed.append(f"{block}: {type(failure).__name__}: {failure}")
        return failed

    def run(self, block: Snippet) -> None:
        """Run one block; raises ``AssertionError`` with what it printed."""
        if block.language == "python":
            self._run_python(block)
        elif block.language == "yaml":
            read = ontology_from_yaml(block.code)
            assert list(yaml.safe_load(block.code)["classes"]) == list(read.names)
            (self.home / "classes.yaml").write_text(self.rewrites(block.code), encoding="utf-8")
        else:
            assert block.language in ("", "bash", "sh", "console"), block.language
            for words in block.commands():
                self._run_command(words)

    def _run_python(self, block: Snippet) -> None:
        # A process of its own would import torch anew, which takes longer than most blocks.
        code = compile(self.rewrites(block.code), str(block), "exec")
        cache = {"XDG_CACHE_HOME": str(self.home / "cache")}
        with contextlib.chdir(self.home), mock.patch.dict(os.environ, cache):
            exec(code, {"__name__": "__main__"})

    def _run_command(self, words: list[str]) -> None:
        line = " ".join(words)
        if words[0] == "make":
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert words[1] in targets, f"there is no target {words[1]}"
        elif words[:2] == ["pip", "install"]:
            check_extras(words[2])
        elif words[0] == "-c":
            assert ontology_from_lines(words[1::2]) and set(words[::2]) == {"-c"}
        else:
            assert words[0] in PROGRAMS, f"nobody knows how to run `{line}`"
            named = [start for start in self.stale | self._parsed if line.startswith(start)]
            self._run_program(words, only_parse=bool(named))
            self.stale.difference_update(named)
            self._parsed.update(named)

    def _run_program(self, words: list[str], only_parse: bool) -> None:
        words = [self.rewrites(word) for word in words]
        target = words[words.index(">") + 1] if ">" in words else None
        words = words[: words.index(">")] if target else words
        command, arguments, start = resolved(words)
        if only_parse:
            with command.make_context(" ".join(words[:start]), list(arguments)):
                pass  # what its options set in the environment ends with it
        elif words[1] == "serve":
            self._start_server(words)
        else:
            if needs_address(command, words):
                words += ["--server", self.address]
            with contextlib.chdir(self.home), printed_to(self.home / target if target else None):
                code = PROGRAMS[words[0]][1](words[1:])
            assert code == 0, f"exit code {code}"

    def _start_server(self, words: Sequence[str]) -> None:
        assert self._server is None, "the page starts two servers on one port"
        command = [sys.executable, "-m", *words, *self._serve]
        self._server = subprocess.Popen(
            command, cwd=self.home, env=environment(), stdout=subprocess.PIPE, text=True
        )
        assert self._server.stdout is not None
        found = re.search(r"serving on (\S+)", line := self._server.stdout.readline())
        assert found, f"expected the address, got {line!r}"
        self.address = found[1]


def resolved(words: Sequence[str]) -> tuple[click.Command, Sequence[str], int]:
    """The command that a line names, its arguments, and where they begin."""
    command: click.Command = PROGRAMS[words[0]][0]
    place = 1
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words[place])
        assert found is not None, f"there is no command {' '.join(words[: place + 1])}"
        command, place = found, place + 1
    return command, words[place:], place


def needs_address(command: click.Command, words: Sequence[str]) -> bool:
    """Whether it takes a server at the usual port unless it is told otherwise."""
    usual = any(option.name == "server" and option.default for option in command.params)
    return usual and "--server" not in words


def check_extras(requirement: str) -> None:
    """``secondlook[serve,distill]`` names extras that there are."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, extras = re.fullmatch(r"([\w-]+)(?:\[([\w,-]+)\])?", requirement).groups()  # type: ignore[union-attr]
    assert name == project["name"]
    unknown = {*filter(None, (extras or "").split(","))} - project["optional-dependencies"].keys()
    assert not unknown, f"there are no extras {unknown}"


@contextlib.contextmanager
def printed_to(path: Path | None) -> Iterator[None]:
    """What is printed goes to the file, if there is one."""
    if path is None:
        yield
        return
    with path.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        yield
