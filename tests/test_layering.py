"""Imports point downward only, wherever in a file they stand.

The rule of each folder of ``src/inserve`` is a row of ``MAY_IMPORT``; a module finds its row by the
longest prefix of its name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "inserve"

ANYTHING = frozenset({"*"})
LEVEL_0 = frozenset({"_version", "errors", "clock", "metrics", "protos"})
VALUES = LEVEL_0 | {"tensors", "resources"}
LIFECYCLE = LEVEL_0 | {"resources", "lifecycle"}

MAY_IMPORT: Mapping[str, frozenset[str]] = {
    "": ANYTHING - {"testing"},
    "_version": frozenset(),
    "errors": frozenset(),
    "clock": frozenset(),
    "metrics": frozenset({"errors", "clock"}),
    "protos": frozenset({"errors"}),
    "tensors": LEVEL_0,
    "resources": LEVEL_0,
    "lifecycle": LEVEL_0 | {"resources"},
    "tensorflow_c": LEVEL_0 | {"tensors.dtypes", "tensors.flat_tensor"},
    "tflite": LEVEL_0 | {"tensorflow_c.interface", "tensors"},
    "sources": LIFECYCLE,
    "batching": LEVEL_0 | {"tensorflow_c.interface", "tensors"},
    "replicas": LEVEL_0 | {"tensorflow_c.interface", "tensors"},
    "saved_model": VALUES | {"lifecycle", "batching", "tensorflow_c"},
    "handlers": VALUES | {"saved_model", "lifecycle"},
    "frontends.grpc_api": LEVEL_0 | {"handlers", "tensors"},
    "frontends.rest_api": LEVEL_0 | {"handlers", "tensors"},
    "frontends.dashboard": LEVEL_0 | {"handlers", "tensors"},
    "server": VALUES
    | {"lifecycle", "tensorflow_c", "tflite", "sources", "batching", "replicas", "saved_model", "handlers"}
    | {"frontends"},
    "client": LEVEL_0,
    "testing": VALUES | {"tensorflow_c.interface", "lifecycle"},
    "demo_data": frozenset(),
    "integrations": LEVEL_0 | {"", "server", "client"},
    "pytest_plugin": LEVEL_0 | {"", "server", "client", "testing"},
    "cli": VALUES
    | {"", "lifecycle", "tensorflow_c", "sources", "batching", "replicas", "saved_model", "handlers"}
    | {"frontends", "server", "client", "demo_data"},
}
"""Row: modules and folders, without ``inserve.``. The empty name is ``inserve`` itself, the public face.

A folder may always import from itself.
"""

NEVER = ("tensorflow", "tensorflow_serving")


class Import(NamedTuple):
    importer: str
    target: str
    line: int
    runs_at_import: bool
    """False inside functions and under ``if TYPE_CHECKING``."""


def module_name(file: Path, package: Path) -> str:
    """Return the dotted name below the package: ``tensors.dtypes``; empty for its ``__init__``."""
    parts = list(file.relative_to(package).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _import_nodes(body: ast.AST, at_import: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for node in ast.iter_child_nodes(body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, at_import
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _import_nodes(node, False)
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            yield from _import_nodes(ast.Module(node.body, []), False)
            yield from _import_nodes(ast.Module(node.orelse, []), at_import)
        else:
            yield from _import_nodes(node, at_import)


def imports_of(package: Path) -> list[Import]:
    """Return every import in the package, targets with their full names (``inserve.errors``).

    ``from inserve.protos import messages`` is an import of ``inserve.protos.messages`` where that is
    a module, else of ``inserve.protos``.
    """
    root = package.name
    files = {f"{root}.{module_name(file, package)}".rstrip("."): file for file in package.rglob("*.py")}
    found = []
    for name, file in files.items():
        for node, at_import in _import_nodes(ast.parse(file.read_text("utf-8"), str(file)), True):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:
                base = node.module or ""
                if node.level:
                    depth = node.level - (file.name == "__init__.py")
                    parents = name.split(".")[: len(name.split(".")) - depth]
                    base = ".".join([*parents, base]).rstrip(".")
                targets = [
                    f"{base}.{alias.name}" if f"{base}.{alias.name}" in files else base
                    for alias in node.names
                ]
            found += [Import(name, target, node.lineno, at_import) for target in sorted(set(targets))]
    return found


def _below(name: str, root: str) -> str:
    return name[len(root) + 1 :]


def _covers(entry: str, name: str) -> bool:
    return name == entry or (entry != "" and name.startswith(f"{entry}."))


def row_of(name: str, table: Mapping[str, frozenset[str]]) -> str | None:
    """Return the longest row of the table that covers *name*, or None."""
    rows = [row for row in table if _covers(row, name)]
    return max(rows, key=len, default=None)


def upward_imports(imports: list[Import], root: str, table: Mapping[str, frozenset[str]]) -> list[str]:
    """Return a line for each import within *root* that the table does not allow."""
    wrong = []
    for one in imports:
        if one.target != root and not one.target.startswith(f"{root}."):
            continue
        importer, target = _below(one.importer, root), _below(one.target, root)
        row = row_of(importer, table)
        if row is None:
            wrong.append(f"{importer} has no row in the table")
        elif row and _covers(row, target):
            continue
        elif "*" in table[row]:
            if row_of(target, table) == "testing":
                wrong.append(f"{one.importer}:{one.line} imports {one.target}")
        elif not any(_covers(entry, target) for entry in table[row]):
            wrong.append(f"{one.importer}:{one.line} imports {one.target}")
    return wrong


def cycles(imports: list[Import]) -> list[list[str]]:
    """Return the groups of modules that import one another while they are imported."""
    graph: dict[str, set[str]] = {}
    for one in imports:
        if one.runs_at_import:
            graph.setdefault(one.importer, set()).add(one.target)
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting += graph.get(module, ())
        reach[start] = seen
    groups = {
        tuple(sorted(other for other in reach[module] if module in reach.get(other, ())))
        for module in reach
        if module in reach[module]
    }
    return [list(group) for group in sorted(groups)]


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    return imports_of(PACKAGE)


def test_every_module_has_a_row_in_the_table() -> None:
    names = [module_name(file, PACKAGE) for file in PACKAGE.rglob("*.py")]
    bare = {"frontends"}
    assert [name for name in names if row_of(name, MAY_IMPORT) is None and name not in bare] == []


def test_imports_point_downward_only(imports: list[Import]) -> None:
    assert upward_imports(imports, "inserve", MAY_IMPORT) == []


def test_no_modules_import_one_another_at_import_time(imports: list[Import]) -> None:
    assert cycles(imports) == []


def test_product_code_never_imports_tensorflow(imports: list[Import]) -> None:
    wrong = [
        f"{one.importer}:{one.line} {one.target}" for one in imports if one.target.split(".")[0] in NEVER
    ]
    assert wrong == []


def test_only_the_pytest_plugin_imports_the_fakes(imports: list[Import]) -> None:
    importers = {
        one.importer
        for one in imports
        if one.target.startswith("inserve.testing") and not one.importer.startswith("inserve.testing")
    }
    assert importers <= {"inserve.pytest_plugin"}


def test_only_the_command_uses_the_demo_data(imports: list[Import]) -> None:
    importers = {one.importer.split(".")[1] for one in imports if one.target.startswith("inserve.demo_data")}
    assert importers <= {"cli", "demo_data"}


@pytest.fixture
def little_package(tmp_path: Path) -> Path:
    package = tmp_path / "little"
    for folder in ("low", "high"):
        (package / folder).mkdir(parents=True)
        (package / folder / "__init__.py").touch()
    (package / "__init__.py").touch()
    return package


LITTLE_TABLE: Mapping[str, frozenset[str]] = {
    "": frozenset(),
    "low": frozenset(),
    "high": frozenset({"low"}),
}


@pytest.mark.parametrize(
    "source",
    [
        "from little.high import top",
        "import little.high.top",
        "from ..high import top",
        "def work():\n    from little.high.top import thing",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from little.high import top",
        "try:\n    import little.high.top\nexcept ImportError:\n    pass",
    ],
)
def test_an_upward_import_is_found_wherever_it_hides(little_package: Path, source: str) -> None:
    (little_package / "high" / "top.py").touch()
    (little_package / "low" / "base.py").write_text(source)
    wrong = upward_imports(imports_of(little_package), "little", LITTLE_TABLE)
    assert len(wrong) == 1
    assert wrong[0].startswith("little.low.base:")
    assert wrong[0].endswith("imports little.high.top")


def test_a_downward_import_and_one_within_the_folder_are_allowed(little_package: Path) -> None:
    (little_package / "low" / "base.py").touch()
    (little_package / "high" / "other.py").touch()
    (little_package / "high" / "top.py").write_text("from ..low import base\nfrom . import other")
    assert upward_imports(imports_of(little_package), "little", LITTLE_TABLE) == []


def test_a_cycle_is_found_unless_an_import_of_it_runs_later(little_package: Path) -> None:
    (little_package / "low" / "one.py").write_text("from little.low import two")
    (little_package / "low" / "two.py").write_text("import little.low.one")
    assert cycles(imports_of(little_package)) == [["little.low.one", "little.low.two"]]
    (little_package / "low" / "two.py").write_text("def work():\n    import little.low.one")
    assert cycles(imports_of(little_package)) == []
