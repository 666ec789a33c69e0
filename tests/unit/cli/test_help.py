"""Help: common options first, settings by group, examples that work, 80 columns."""

import re
import shlex

import click
import pytest

from secondlook import cli
from secondlook.cli import COMMAND_GROUPS, COMMANDS
from secondlook.config.entrypoint import SectionedCommand
from secondlook.config.settings import ModelSettings, Settings
from secondlook.edge import cli as edge_cli
from secondlook.edge.settings import EdgeSettings

PROGRAMS = {"secondlook": cli.group, "secondlook-edge": edge_cli.group}
MOST_COMMON = 16
"""Options in the help of ``-h``: what fits on a screen."""


def leaves(group: click.Group, path: list[str]) -> list[tuple[list[str], SectionedCommand]]:
    """Every command that runs something, with the words that call it."""
    found = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            found += leaves(command, [*path, name])
        else:
            assert isinstance(command, SectionedCommand), name
            found.append(([*path, name], command))
    return found


ALL = [entry for name, group in PROGRAMS.items() for entry in leaves(group, [name])]


def shown(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    run = cli.run if words[0] == "secondlook" else edge_cli.run
    assert run(words[1:]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("words", "command"), ALL, ids=[" ".join(words) for words, _ in ALL])
def test_help_is_readable_at_80_columns(words, command, capsys) -> None:
    text = shown([*words, "--help"], capsys)
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"x>=|<=x|--no-\S+ *$", text), text
    taken = {p.opts[0] for p in command.params if isinstance(p, click.Option) and not p.hidden}
    missing = [flag for flag in taken if flag not in text and flag[2:] not in text]
    assert not missing


@pytest.mark.parametrize(("words", "command"), ALL, ids=[" ".join(words) for words, _ in ALL])
def test_examples_are_accepted(words, command, tmp_path, monkeypatch) -> None:
    """Options that do not exist, or values that are refused, end here; nothing is run."""
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    for line in command.examples:
        given = shlex.split(line, comments=True)
        given = given[: given.index(">")] if ">" in given else given
        given = given[: given.index(">>")] if ">>" in given else given
        assert given[: len(words)] == words and len(line) <= 78
        with command.make_context(" ".join(words), given[len(words) :]):
            pass  # what its options set in the environment ends with it


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example(name) -> None:
    below = [command for words, command in ALL if words[:2] == ["secondlook", name]]
    assert any(command.examples for command in below)


@pytest.mark.parametrize(
    "words",
    [["secondlook", name] for name in ("label", "try", "serve", "distill")]
    + [["secondlook-edge", "run"]],
    ids=" ".join,
)
def test_common_options_come_first_and_alone_with_h(words, capsys) -> None:
    short, whole = shown([*words, "-h"], capsys), shown([*words, "--help"], capsys)
    head = short[: short.index("\nExamples:")]
    assert whole.startswith(head.rstrip())
    assert 5 <= len(re.findall(r"^  -", head, re.M)) <= MOST_COMMON
    assert not re.search(r"^(Models|Training|Spool):", short, re.M)
    assert len(whole.splitlines()) > 1.5 * len(short.splitlines())


def test_settings_stand_below_the_titles_of_their_groups(capsys) -> None:
    text = shown(["secondlook", "serve", "--help"], capsys)
    sections = dict(re.findall(r"^([\w ]+):\n((?:  .*\n)+)", text, re.M))
    for name, title in Settings.titles().items():
        spec = Settings.specs()[name]
        flag = name.replace("_", "-")
        section = sections["Options" if spec.common else title]
        assert re.search(rf"^  --(\[no-\])?{flag} ", section, re.M), name
    assert list(sections)[:3] == ["Options", "More options", "Models"]


def test_a_title_is_that_of_the_group_that_declares_the_setting() -> None:
    titles = EdgeSettings.titles()
    assert titles["spool_mb"] == "Spool" and titles["rare_share"] == "Frames to send"
    assert set(ModelSettings.titles().values()) == {"Models"}
    assert titles.keys() == EdgeSettings.specs().keys() and all(titles.values())


def test_commands_are_listed_by_group(capsys) -> None:
    text = shown(["secondlook", "--help"], capsys)
    places = [text.index(f"\n{title}:") for title in COMMAND_GROUPS]
    assert places == sorted(places)
    assert max(map(len, text.splitlines())) <= 80
    for name, (_, line) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", text, re.M), "one line each"
