"""The packages and which may import which (docs/architecture.md)."""

from __future__ import annotations

import ast
import importlib
import itertools
import pkgutil
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import ptn_api
from tests import structure

PACKAGE = Path(ptn_api.__file__).parent
UTILITIES = {
    "backoff",
    "errors",
    "file_lock",
    "file_version",
    "clock",
    "gzip_file",
    "histogram",
    "loop_thread",
    "options",
    "problems",
    "queue_item",
    "summary",
    "tasks",
}
PACKAGES = [
    "model",
    "wire",
    "access",
    "event_log",
    "cluster",
    "intake",
    "http",
    "views",
    "fanout",
    "rest",
    "stream",
    "simulator",
]
SIDE_BY_SIDE = ({"intake"}, {"views", "rest"}, {"stream"}, {"simulator"})
"""Groups of packages that do not import each other."""
ONLY = {
    "client": {"wire", "model"},
    "http": set[str](),
    "notify": {"client", "wire", "model"},
    "simulator": {"model"},
}
"""All packages that these may import."""
WIRED = {"cluster"}
"""Packages that only the entry points and WIRING import: the others know the event log's contract."""
ENTRY_POINTS = {"api_manager", "websocket_client", "__init__"}
WIRING = {"process", "cli"}
EVERYWHERE = {"msgspec", "structlog"}
HOMES = {
    "aiofastnet": ("stream/server.py",),
    "apprise": ("notify/services.py",),
    "asyncinotify": ("intake/watch.py",),
    "httptools": ("http/",),
    "httpx": ("client/", "cli/doctor.py", "notify/webhook.py"),
    "isal": ("event_log/damage.py", "http/", "stream/framing.py"),
    "nats": ("cluster/jetstream.py",),
    "nkeys": ("cluster/jetstream.py",),
    "picows": ("stream/server.py",),
    "platformdirs": ("client/cursor_file.py", "cli/config.py"),
    "pandas": ("client/",),
    "polars": ("client/",),
    "prometheus_client": ("process/metrics_server.py",),
    "rich": ("cli/",),
    "setproctitle": ("process/log_output.py",),
    "typer": ("cli/",),
    "uvloop": ("process/worker.py",),
    "websockets": ("client/", "cli/client.py"),
    "zstandard": ("cluster/", "event_log/documents.py", "http/", "client/recording.py"),
}
"""Where a library may be imported: in these modules, or in these folders."""


def package_of(module: str) -> str:
    """`ptn_api.views.positions` -> `views`; the package itself -> `__init__`."""
    return [*module.split("."), "__init__"][1]


def all_imports() -> Iterator[tuple[Path, str]]:
    """(file, imported module) for every import in the package."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(structure.tree_of(path)):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            if isinstance(node, ast.ImportFrom):
                yield path, str(node.module)


def imports() -> Iterator[tuple[str, str]]:
    """(module, imported module) for every import of the package within the package."""
    for path, name in all_imports():
        relative = path.relative_to(PACKAGE.parent).with_suffix("")
        if name.split(".")[0] == "ptn_api":
            yield ".".join(part for part in relative.parts if part != "__init__"), name


def may_import(importer: str, imported: str) -> bool:
    if importer == imported or imported in UTILITIES or imported == "__init__":
        return True
    if importer in ENTRY_POINTS | WIRING:
        return True
    if importer in ONLY:
        return imported in ONLY[importer]
    if importer in UTILITIES or imported not in PACKAGES or imported in WIRED:
        return False
    side = {package: index for index, group in enumerate(SIDE_BY_SIDE) for package in group}
    if {importer, imported} <= side.keys() and side[importer] != side[imported]:
        return False
    return PACKAGES.index(imported) < PACKAGES.index(importer)


def test_imports_go_up_the_list_only() -> None:
    """A package imports only those before it, and none beside it."""
    wrong = {
        f"{importer} imports {imported}"
        for importer, imported in imports()
        if not may_import(package_of(importer), package_of(imported))
    }
    assert wrong == set()


def test_packages_side_by_side_do_not_import_each_other() -> None:
    """As docs/architecture.md promises: intake, views with rest, stream and simulator."""
    allowed = {
        (importer, imported)
        for group, others in itertools.permutations(SIDE_BY_SIDE, 2)
        for importer, imported in itertools.product(group, others)
        if may_import(importer, imported)
    }
    assert allowed == set()
    assert may_import("rest", "views")
    assert may_import("cluster", "event_log")
    assert may_import("process", "cluster")
    assert not any(may_import(package, "cluster") for package in ("intake", "rest", "stream", "event_log"))
    assert may_import("stream", "http")
    assert may_import("rest", "fanout")
    assert may_import("stream", "fanout")
    assert not may_import("fanout", "rest")
    assert not may_import("views", "rest")
    assert not may_import("simulator", "http")
    assert not may_import("errors", "model")


def test_a_library_has_a_home() -> None:
    """Replacing a library changes few files. Every row of the table is needed."""
    used: dict[str, set[str]] = {}
    for path, name in all_imports():
        library = name.split(".")[0]
        if library not in {"ptn_api", *EVERYWHERE, *sys.stdlib_module_names}:
            used.setdefault(library, set()).add(path.relative_to(PACKAGE).as_posix())
    astray = {lib: {f for f in files if not f.startswith(HOMES.get(lib, ()))} for lib, files in used.items()}
    assert {lib: files for lib, files in astray.items() if files} == {}
    idle = [
        (lib, home) for lib in HOMES for home in HOMES[lib] if not any(f.startswith(home) for f in used[lib])
    ]
    assert idle == []


def test_every_folder_is_a_known_package() -> None:
    """The folder list is the architecture; only `cli` and `client` have subpackages."""
    folders = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    assert folders - {"."} == {
        *PACKAGES,
        "client",
        "notify",
        *WIRING,
        "cli/show",
        "client/servers",
        "client/tables",
    }


def test_there_are_no_import_cycles() -> None:
    """Between modules, counting imports inside functions as well."""
    graph: dict[str, set[str]] = {}
    modules = {m.name for m in pkgutil.walk_packages(ptn_api.__path__, "ptn_api.")}
    for importer, imported in imports():
        if imported in modules and importer.count(".") > 1:
            graph.setdefault(importer, set()).add(imported)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for other in graph.get(module, ()):
                visit(other, (*path, module))
            done.add(module)

    for module in list(graph):
        visit(module, ())


def test_only_the_cli_prints() -> None:
    """Everything else logs or returns its result."""
    printing = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]
    assert {name for name in printing if not name.startswith("cli/")} == set()


def test_log_events_are_words_to_search_for() -> None:
    """A log event is a constant name; variable data goes into fields."""
    wrong = [
        f"{path.name}: {event.value}"
        for path in PACKAGE.rglob("*.py")
        if "structlog.get_logger()" in (text := path.read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("logger.")
        for event in node.args[:1]
        if not (isinstance(event, ast.Constant) and re.fullmatch("[a-z_]+", str(event.value)))
    ]
    assert wrong == []


def test_every_module_imports() -> None:
    """On its own, with warnings as errors."""
    for module in pkgutil.walk_packages(ptn_api.__path__, "ptn_api."):
        assert importlib.import_module(module.name)


# --- the package's shape (docs/contributing.md): `python -m tests.structure` prints the figures -----------


def test_modules_are_of_readable_size() -> None:
    """A median of at least 130 lines, and at most 16 modules in a folder."""
    lines = [len(path.read_text().splitlines()) for path in structure.modules()]
    folders = Counter(path.parent.relative_to(PACKAGE).as_posix() for path in structure.modules())
    assert statistics.median(lines) >= 130
    assert {folder: count for folder, count in folders.items() if count > 16} == {}


def test_import_chains_are_short() -> None:
    """At most 12 modules, so that following a call through the package takes few files."""
    chain = structure.longest_chain()
    assert len(chain) <= 12, " -> ".join(chain)


def test_few_private_functions_have_one_caller() -> None:
    """At most 10 % of all functions: inline a helper whose name says no more than its lines."""
    lonely = structure.private_with_one_caller()
    most = max(Counter(function.module for function in lonely).items(), key=lambda item: item[1])
    assert len(lonely) <= 0.1 * structure.functions(), f"{len(lonely)}; most in {most}"
