"""What holds for all of the code: documented, short, pointing one way, and quick to import."""

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "service" / "secondlook", ROOT / "clients" / "secondlook_client")
GENERATED = ROOT / "clients" / "secondlook_client" / "v1"
VAGUE = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}
HEAVY = ("torch", "transformers", "numpy", "PIL", "scipy")


def modules() -> list[Path]:
    found = [path for package in PACKAGES for path in sorted(package.rglob("*.py"))]
    return [path for path in found if GENERATED not in path.parents]


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


every_module = pytest.mark.parametrize("path", modules(), ids=named)


@every_module
def test_modules_are_named_for_what_they_do(path: Path) -> None:
    assert path.stem not in VAGUE


def test_no_module_is_loose_at_the_root_of_the_package() -> None:
    loose = {path.name for path in PACKAGES[0].glob("*.py")}
    assert loose == {"__init__.py", "__main__.py"}


def test_a_class_name_stands_for_one_idea() -> None:
    """No two modules define a class of the same name; nested and private ones included."""
    places: dict[str, set[str]] = {}
    recipes = sorted((ROOT / "service" / "recipes").rglob("*.py"))
    for path in [*modules(), *recipes]:
        if path.parent.name == "versions":  # migrations are history
            continue
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, set()).add(named(path))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_no_modules_import_each_other() -> None:
    """Imports inside of functions count too; those for type checkers alone do not."""
    packages = ("secondlook", "secondlook_client", "recipes")
    graph = grimp.build_graph(*packages, exclude_type_checking_imports=True)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert [*TopologicalSorter(imports).static_order()]  # raises CycleError, which names them


def undocumented(tree: ast.AST, prefix: str = "") -> Iterator[str]:
    """Public classes, methods and functions without a docstring; overloads and such included."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None and not overrides(node):
            yield f"{prefix}{node.name} (line {node.lineno})"
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node, f"{node.name}.")


def overrides(node: ast.AST) -> bool:
    """Setters, overloads and overrides say what they are elsewhere."""
    marks = getattr(node, "decorator_list", [])
    return any(ast.unparse(m).split(".")[-1] in ("setter", "overload", "override") for m in marks)


@every_module
def test_every_public_name_is_documented(path: Path) -> None:
    tree = parsed(path)
    if path.name != "__init__.py" or tree.body:
        assert ast.get_docstring(tree), "the module has no docstring"
    assert list(undocumented(tree)) == []


@every_module
def test_nothing_is_imported_by_star_and_no_exception_swallowed_bare(path: Path) -> None:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom):
            assert [alias.name for alias in node.names] != ["*"]
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except at line {node.lineno}"


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> list[Function]:
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def test_functions_are_short() -> None:
    lengths = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for path in modules()
        for node in functions(parsed(path))
    )
    assert lengths[len(lengths) * 9 // 10] <= 30


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=named)
def test_every_test_asserts_something(path: Path) -> None:
    found = functions(parsed(path))
    checking: set[str] = set()
    for _ in range(3):  # a test may check through a function of its file, and that through another
        checking |= {node.name for node in found if checks(node, checking)}
    assert [n.name for n in found if n.name.startswith("test_") and n.name not in checking] == []


def checks(function: Function, checking: set[str]) -> bool:
    calls = [n for n in ast.walk(function) if isinstance(n, ast.Call)]
    names = {ast.unparse(call.func).split(".")[-1] for call in calls}
    asserts = any(isinstance(node, ast.Assert) for node in ast.walk(function))
    return (
        asserts
        or bool(names & checking)
        or any(name in ("raises", "fail") or name.startswith("assert_") for name in names)
    )


def loaded_by(code: str) -> tuple[set[str], float]:
    """Top-level modules that a fresh interpreter has after ``code``, and the seconds it took."""
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    seconds = time.perf_counter() - started
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()), seconds


@pytest.mark.parametrize("code", ["import secondlook_client", "import secondlook_client.dataset"])
def test_the_client_is_light(code: str) -> None:
    found, _ = loaded_by(code)
    assert not found & {*HEAVY, "secondlook"}


@pytest.mark.parametrize("module", ["errors", "values", "ontology"])
def test_what_the_service_shares_with_the_client_needs_no_wire(module: str) -> None:
    found, _ = loaded_by(f"import secondlook_client.{module}")
    assert not found & {*HEAVY, "secondlook", "grpc", "google"}


def test_help_is_light() -> None:
    code = (
        "import sys, secondlook.cli as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit as done: assert not done.code"
    )
    found, _ = loaded_by(code)
    assert "secondlook" in found
    assert not found & {*HEAVY, "grpc"}


@pytest.mark.parametrize(
    "module",
    [
        *("core.types", "core.boxes", "core.ontology_yaml"),
        *("core.images", "config.settings", "models.registry"),
        *("labeling.proposer", "labeling.verifier", "labeling.decisions", "labeling.pipeline"),
        *("labeling.batcher", "labeling.engine"),
    ],
)
def test_the_core_needs_no_torch_and_no_grpc(module: str) -> None:
    found, _ = loaded_by(f"import secondlook.{module}")
    assert not found & {"torch", "transformers", "grpc", "click", "rich"}
    if module == "config.settings":
        assert not found & set(HEAVY)
