"""Links between the files of this repository, where its pages are shown without it.

Two places show them: the package page, whose README and addresses hatchling takes from here, and
the site, which lacks what lies outside of ``docs/``. Links to files become links to the repository,
whose address stands in ``pyproject.toml`` alone.
"""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"(!?\[[^\]]*\]\()(?!\w+:|#)([^)\s#]+)")


def repository(root: Path = ROOT) -> str:
    """The address of the source code."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return str(project["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"])


def absolute(
    text: str, folder: Path, outside: Callable[[Path], bool], address: str, root: Path = ROOT
) -> str:
    """``text``, a page in ``folder``, with links to files that are ``outside`` leading to the web.

    Pictures lead to the file itself, others to its page there.
    """

    def replaced(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        if not outside(target):
            return link[0]
        kind = "raw" if link[1].startswith("!") else "blob"
        return f"{link[1]}{address}/{kind}/main/{target.relative_to(root).as_posix()}"

    return _LINK.sub(replaced, text)


def on_config(config: Any) -> None:
    """Called by mkdocs first."""
    config["repo_url"], config["repo_name"] = repository(), "Source"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Called by mkdocs with each page of the site."""
    docs = Path(config["docs_dir"])
    folder = (docs / page.file.src_uri).parent
    return absolute(markdown, folder, lambda target: not target.is_relative_to(docs), repository())


def get_metadata_hook() -> type:
    """Called by hatchling, which takes the README from here."""
    from hatchling.metadata.plugin.interface import MetadataHookInterface

    class PackageReadme(MetadataHookInterface):
        def update(self, metadata: dict[str, Any]) -> None:
            """Fill in what ``pyproject.toml`` declares dynamic."""
            root = Path(self.root)
            text = (root / "README.md").read_text(encoding="utf-8")
            address = repository(root)
            text = absolute(text, root, lambda target: True, address, root)
            metadata["readme"] = {"content-type": "text/markdown", "text": text}
            metadata["urls"] = {
                "Homepage": address,
                "Documentation": f"{address}/blob/main/docs/index.md",
                "Source": address,
                "Changelog": f"{address}/blob/main/CHANGELOG.md",
                "Issues": f"{address}/issues",
            }

    return PackageReadme
