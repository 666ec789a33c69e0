"""Write the reference pages of the documentation and the example settings file, or check them.

    python docs/generate.py            write what follows from the code
    python docs/generate.py --check    exit 1 when a file is not what the code gives

Commands come from click, settings from their groups, the API from signatures and docstrings.
"""

import argparse
import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import click

from secondlook import cli
from secondlook.config.settings import Settings
from secondlook.config.spec import SettingGroup, SettingSpec
from secondlook.edge import cli as edge_cli
from secondlook.edge.settings import EdgeSettings
from secondlook.training.settings import TrainingSettings

ROOT = Path(__file__).resolve().parent.parent
NOTE = "<!-- Written by docs/generate.py; not by hand. -->\n"
WIDTH = 80
PROGRAMS: dict[str, tuple[type[SettingGroup], str, str]] = {
    "The service, and models in this process": (
        Settings,
        "SECONDLOOK_",
        "Flags of `secondlook serve`, `label`, `try` and others; the file is `secondlook.toml` in "
        "the working folder, or what `--config` or `SECONDLOOK_CONFIG` names.",
    ),
    "A training": (
        TrainingSettings,
        "SECONDLOOK_DISTILL_",
        "Flags of `secondlook distill`; the file is what `SECONDLOOK_DISTILL_CONFIG` names.",
    ),
    "The agent on a device": (
        EdgeSettings,
        "SECONDLOOK_EDGE_",
        "Flags of `secondlook-edge run`; the file is what `--config` or `SECONDLOOK_EDGE_CONFIG` "
        "names.",
    ),
}
"""Title of a section of the settings page: the settings, the prefix of variables, where they go."""
API = {
    "secondlook": "Label in this process: `import secondlook`.",
    "secondlook_client": "Import these names from `secondlook_client`. Methods of an `AsyncClient` "
    "and of what it has are awaited, or iterated with `async for`; otherwise they are those of a "
    "`Client`.",
    "secondlook_client.jobs": "`client.jobs`.",
    "secondlook_client.datasets": "`client.datasets`.",
    "secondlook_client.models": "`client.models`.",
    "secondlook_client.reviews": "`client.reviews`.",
    "secondlook_client.dataset": "Snapshots for trainings; torch is not required.",
    "secondlook_client.errors": "Every error that a call can raise.",
}
"""Module of the API reference: a sentence about it."""
HIDDEN = (
    "AsyncClient",
    "AsyncJobs",
    "AsyncRemoteReviews",
    "JobCalls",
    "ReviewCalls",
    "from_reason",
    "from_status",
)
"""Names that others stand for: twins, bases, and what makes errors."""


def outputs() -> dict[str, str]:
    """Every file that is generated, by its path from the root of the repository."""
    return {
        "docs/reference/commands.md": commands_page(),
        "docs/reference/settings.md": settings_page(),
        "docs/reference/api.md": api_page(),
        "deploy/secondlook.toml": settings_file(Settings),
    }


# Commands


def commands_page() -> str:
    """The help of every command, as the terminal shows it."""
    parts = [f"# Commands\n\n{NOTE}", "`-h` shows the common options, `--help` all of them.\n"]
    for group, name in ((cli.group, "secondlook"), (edge_cli.group, "secondlook-edge")):
        parts.append(f"## {name}\n\n{_block(_context(group, name).get_help())}")
        parts += [
            f"### {path}\n\n{_block(context.get_help())}"
            for path, context in commands(group, _context(group, name), name)
        ]
    return "\n".join(parts)


def commands(
    group: click.Group, parent: click.Context, path: str
) -> Iterator[tuple[str, click.Context]]:
    """(name with those of its groups, context) of each command below ``group``."""
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        assert command is not None
        context = _context(command, name, parent)
        yield f"{path} {name}", context
        if isinstance(command, click.Group):
            yield from commands(command, context, f"{path} {name}")


def _context(
    command: click.Command, name: str, parent: click.Context | None = None
) -> click.Context:
    settings = {**command.context_settings, "terminal_width": WIDTH}
    return click.Context(command, parent, info_name=name, **settings)


def _block(text: str, language: str = "text") -> str:
    return f"```{language}\n{text.rstrip()}\n```\n"


# Settings


def settings_page() -> str:
    """A table of every setting, by program and group."""
    parts = [
        f"# Settings\n\n{NOTE}",
        "Each is read from, the later winning: its default, a file (TOML, the names below as "
        "keys), an environment variable (the prefix and the name in capitals), a flag (`--` and "
        "the name with dashes). [An example file](../../deploy/secondlook.toml) has all of the "
        "service's.\n",
    ]
    for title, (settings, prefix, where) in PROGRAMS.items():
        parts.append(f"## {title}\n\n{where} Variables begin with `{prefix}`.\n")
        for group, specs in _by_title(settings).items():
            rows = [_row(name, spec) for name, spec in specs.items()]
            head = "| setting | default | allowed | |\n| --- | --- | --- | --- |"
            parts.append("\n".join([f"### {group}\n", head, *rows]) + "\n")
    return "\n".join(parts)


def _by_title(settings: type[SettingGroup]) -> dict[str, dict[str, SettingSpec]]:
    found: dict[str, dict[str, SettingSpec]] = {}
    for name, title in settings.titles().items():
        found.setdefault(title, {})[name] = settings.specs()[name]
    return found


def _row(name: str, spec: SettingSpec) -> str:
    allowed = spec.allowed or ("on, off" if spec.kind is bool else spec.unit or "text")
    cells = (f"`{name}`", spec.default_text, allowed + _unit(spec), spec.help)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _unit(spec: SettingSpec) -> str:
    """Of a number, where that does not have it already."""
    has_unit = spec.kind in (int, float) and spec.unit not in ("", "bytes")
    return f" {spec.unit}" if has_unit else ""


def settings_file(settings: type[SettingGroup]) -> str:
    """A settings file in which every setting stands with its default, commented out."""
    parts = [
        "# Every setting of `secondlook serve`, and of `label` and `try` without --server, with its"
        "\n# default. Remove the # before a setting to change it. Written by docs/generate.py.\n"
    ]
    for title, specs in _by_title(settings).items():
        parts.append(f"## {title}\n")
        parts += [_entry(name, spec) for name, spec in specs.items()]
    return "\n".join(parts)


def _entry(name: str, spec: SettingSpec) -> str:
    allowed = spec.allowed and f" [{spec.allowed}{_unit(spec)}]"
    default = ""
    if spec.default is None:
        default = f" By default {spec.default_text}."
    lines = textwrap.wrap(f"{spec.help}{default}{allowed}", 96)
    return "\n".join([*(f"# {line}" for line in lines), f"# {name} = {_toml(spec)}\n"])


def _toml(spec: SettingSpec) -> str:
    """The default as TOML; the least value of a setting that is off by default."""
    value = spec.low if spec.default is None else spec.default
    if isinstance(value, bool):
        return str(value).lower()
    text = spec.default_text if isinstance(value, str) else spec.number(value or 0)
    is_number = spec.kind in (int, float) and " " not in text
    if spec.kind is float and is_number and "." not in text and "e" not in text:
        text += ".0"
    return text if is_number else f'"{value if isinstance(value, str) else text}"'


# API


def api_page() -> str:
    """Every public name of the API with its signature and docstring."""
    parts = [f"# Python API\n\n{NOTE}"]
    for module_name, sentence in API.items():
        module = importlib.import_module(module_name)
        parts.append(f"## {module_name}\n\n{sentence}\n")
        for name in _public_names(module):
            parts.append(_described(name, getattr(module, name)))
    return "\n".join(parts)


def _public_names(module: Any) -> list[str]:
    own = [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", "") == module.__name__
        and not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
    ]
    return [name for name in getattr(module, "__all__", own) if name not in HIDDEN]


def _described(name: str, value: Any) -> str:
    if not inspect.isclass(value):
        return f"### {name}\n\n{_signature(name, value)}\n{_doc(value)}\n"
    parts = [f"### {name}\n", f"{_doc(value)}\n"]
    parts += [f"- `{field}`{text and f': {text}'}" for field, text in _fields(value)]
    for method, function in _methods(value):
        parts.append(f"\n#### {name}.{method}\n\n{_signature(method, function)}\n{_doc(function)}")
    return "\n".join(parts) + "\n"


def _doc(value: Any) -> str:
    """The docstring as Markdown; indented lines are code there as they are here."""
    return inspect.getdoc(value) or ""


def _fields(cls: type) -> Iterator[tuple[str, str]]:
    """(name and type, docstring) of the fields, members and properties of a class."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    is_enum = issubclass(cls, Enum)
    for statement, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        doc = _text(after)
        if isinstance(statement, ast.AnnAssign) and not ast.unparse(statement.target).startswith(
            "_"
        ):
            yield f"{ast.unparse(statement.target)}: {ast.unparse(statement.annotation)}", doc
        elif isinstance(statement, ast.Assign) and is_enum:
            yield ast.unparse(statement), doc
        elif isinstance(statement, ast.FunctionDef) and _is_property(statement):
            kind = ast.unparse(statement.returns) if statement.returns else "Any"
            yield (
                f"{statement.name}: {kind}",
                " ".join((ast.get_docstring(statement) or "").split()),
            )


def _text(statement: ast.stmt | None) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(str(statement.value.value).split())
    return ""


def _is_property(function: ast.FunctionDef) -> bool:
    names = {ast.unparse(each) for each in function.decorator_list}
    return bool(names & {"property", "cached_property"}) and not function.name.startswith("_")


def _methods(cls: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Public methods that this package defines, with the inherited ones."""
    for base in cls.__mro__:
        for name, value in vars(base).items():
            function = inspect.unwrap(getattr(value, "__func__", value))  # of a class method
            ours = inspect.isfunction(function) and function.__module__.startswith("secondlook")
            newest = inspect.getattr_static(cls, name) is value
            if ours and newest and not name.startswith("_") and inspect.getdoc(function):
                yield name, function


def _signature(name: str, function: Any) -> str:
    """As it stands in the source, so that it is the same with every Python."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    tree = ast.parse(source).body[0]
    assert isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef)
    taken = tree.args
    for arguments in (taken.posonlyargs, taken.args):
        if arguments and arguments[0].arg in ("self", "cls"):
            del arguments[0]
    gives = f" -> {ast.unparse(tree.returns)}" if tree.returns else ""
    gives = re.sub(r"\bStreamPlan\[", "Iterator[", re.sub(r"\bPlan\[(.*)\]", r"\1", gives))
    asynchronous = "async " if isinstance(tree, ast.AsyncFunctionDef) else ""
    return _block(f"{asynchronous}{name}({ast.unparse(taken)}){gives}", "python")


def main() -> None:
    """Ends with status 1 when --check found files that are not as the code says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, refuse stale files")
    check = parser.parse_args().check
    stale = {
        path: text
        for path, text in outputs().items()
        if not (ROOT / path).is_file() or (ROOT / path).read_text(encoding="utf-8") != text
    }
    if check and stale:
        sys.exit(f"not up to date: {', '.join(stale)}; run python docs/generate.py")
    for path, text in stale.items():
        (ROOT / path).parent.mkdir(exist_ok=True)
        (ROOT / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
