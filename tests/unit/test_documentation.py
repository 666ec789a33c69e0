"""The documentation is whole: generated pages are current, links lead somewhere, addresses work."""

import re
import sys
import tomllib
from pathlib import Path

import click
import pytest
import yaml

from secondlook import cli
from secondlook.cli import COMMANDS
from secondlook.config.settings import Settings, load_settings
from secondlook.models.photo import PHOTO_PAIRS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))
import generate  # noqa: E402
import links  # noqa: E402

PAGES = sorted(DOCS.rglob("*.md"))
LINK = re.compile(r"(?<!`)\[[^\]\n]*\]\(([^)\s]+)\)")


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", ["reference/settings.md", "reference/api.md"])
def test_generated_pages_are_current(path: str) -> None:
    assert text_of(DOCS / path) == generate.outputs()[f"docs/{path}"], "run docs/generate.py"


def test_the_page_of_commands_is_current() -> None:
    """Compared by words: versions of click differ in brackets and in where lines break."""

    def words(page: str) -> list[str]:
        return re.sub(r"[\[\]{}|]", " ", page).split()

    assert words(text_of(DOCS / "reference/commands.md")) == words(generate.commands_page())


def test_help_is_the_same_when_a_command_ran_without_its_group_before() -> None:
    command = cli.group.get_command(click.Context(cli.group), "demo")
    assert command is not None
    alone, in_group = (
        click.Context(command, parent, info_name="demo").get_help()
        for parent in (None, click.Context(cli.group, info_name="secondlook"))
    )
    assert "-h, --help" in alone
    assert "-h, --help" in in_group


def test_every_command_is_on_the_page_of_commands() -> None:
    titles = set(re.findall(r"^### secondlook(?:-edge)? (.+)$", generate.commands_page(), re.M))
    assert titles >= COMMANDS.keys() | {"run", "once", "job create", "snapshot export"}


def test_the_example_settings_file_is_current_and_loads(tmp_path: Path) -> None:
    example = text_of(ROOT / "deploy/secondlook.toml")
    assert example == generate.settings_file(Settings), "run docs/generate.py"
    file = tmp_path / "secondlook.toml"
    file.write_text(re.sub(r"(?m)^# (\w+ = )", r"\1", example), encoding="utf-8")
    given = tomllib.loads(file.read_text(encoding="utf-8"))
    assert list(given) == list(Settings.specs())
    off = [name for name, spec in Settings.specs().items() if spec.default is None]
    assert load_settings(file=file, environ={}) == Settings().replace(**dict.fromkeys(off, 0))


def anchors(page: Path) -> set[str]:
    """Of its headings, as mkdocs and the page of a repository make them."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"(?ms)^```.*?^```", "", text_of(page))
    for target in LINK.findall(prose):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_is_in_the_navigation() -> None:
    sections = yaml.safe_load(text_of(ROOT / "mkdocs.yml"))["nav"]
    listed = {DOCS / page for section in sections for pages in section.values() for page in pages}
    decisions = {page for page in PAGES if page.parent.name == "decisions"}
    assert set(PAGES) - decisions <= listed <= set(PAGES)


def test_links_of_the_package_page_are_absolute() -> None:
    address = links.repository()
    shown = links.absolute(text_of(ROOT / "README.md"), ROOT, lambda target: True, address)
    targets = LINK.findall(shown)
    assert f"{address}/raw/main/docs/overview.jpg" in targets
    assert f"{address}/blob/main/CHANGELOG.md" in targets
    assert all(re.match(r"https?:|#", target) for target in targets)
    inside = [t.removeprefix(address) for t in targets if t.startswith(address)]
    missing = [t for t in inside if not (ROOT / t.split("/main/", 1)[1].split("#")[0]).exists()]
    assert missing == []


def test_links_inside_of_the_site_stay() -> None:
    page = "[a](faq.md#x) [b](../deploy/edge.toml) ![c](loop.svg) [d](https://e.org) [e](#f)"
    shown = links.absolute(page, DOCS, lambda target: not target.is_relative_to(DOCS), "https://h")
    assert shown == page.replace("../deploy/edge.toml", "https://h/blob/main/deploy/edge.toml")


def test_the_address_of_the_repository_stands_in_one_place() -> None:
    files = [*PAGES, *ROOT.glob("[a-zA-Z]*.*"), *DOCS.glob("*.py")]
    assert [f.name for f in files if links.repository() in text_of(f)] == ["pyproject.toml"]


def test_the_pairs_for_photos_are_told_as_they_are() -> None:
    page = text_of(DOCS / "photos.md")
    for name, pair in PHOTO_PAIRS.items():
        (row,) = re.findall(rf"^\| `{name}` \|.*$", page, re.M)
        assert f"`{pair.proposer.repository}`" in row and f"`{pair.verifier.repository}`" in row
        assert f"{pair.megabytes / 1000:.1f} GB" in row and pair.purpose in row


def test_signatures_and_fields_are_read_from_the_source() -> None:
    from secondlook_client import Client, LabelResult

    page = generate._described("Client", Client)
    assert "label(image: ImageInput, *, classes: Classes | None=None" in page
    assert "-> LabelResult" in page and "Plan[" not in page
    fields = generate._described("LabelResult", LabelResult)
    assert "- `height: int`: Pixels, after rotation by EXIF." in fields
    assert "- `labels: tuple[Judgement, ...]`: What was accepted." in fields


def test_a_command_of_a_group_is_found() -> None:
    group = click.Group("outer", {"inner": click.Group("inner", {"last": click.Command("last")})})
    found = dict(generate.commands(group, click.Context(group, info_name="outer"), "outer"))
    assert list(found) == ["outer inner", "outer inner last"]
