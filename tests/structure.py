"""Figures about the shape of the package: `python -m tests.structure [FOLDER]` prints them.

tests/test_architecture.py and tests/test_docs.py hold their limits.
"""

from __future__ import annotations

import ast
import io
import re
import statistics
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ptn_api"

TICS = re.compile(
    r"\b(?i:whoever|whatever|whichever|anew|beside|nobody|somebody|who asks|be they|so many"
    r"|(?:is|are|be) none|of its own|of their own|of our own)\b"
    r"|\b(?:is|are) no (?!longer\b|more\b|way\b|need\b)\w+"
    r"|(?:^(?:Who|What)|[.:;] (?:[Ww]ho|[Ww]hat))"
    r" (?:is|was|are|were|has|had|does|comes|goes|cannot|can|asks|reads)\b"
)
"""Turns of phrase that the writing rules rule out (docs/contributing.md), as far as they can be counted."""


def modules(folder: Path = PACKAGE) -> list[Path]:
    return sorted(folder.rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name_of(path: Path) -> str:
    """`ptn_api/rest/app.py` -> `ptn_api.rest.app`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


# --- imports ----------------------------------------------------------------------------------------------


def imports_of(path: Path) -> Iterator[str]:
    """Every module name that the file imports at its top; `from a import b` gives `a` and `a.b`."""
    for node in tree_of(path).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def import_graph() -> dict[str, set[str]]:
    """Module -> the package's modules that it imports."""
    known = {name_of(path): path for path in modules()}
    return {
        name: {other for other in imports_of(path) if other in known and other != name}
        for name, path in known.items()
    }


def longest_chain() -> list[str]:
    """The longest chain of imports between modules; packages' own `__init__` files do not count."""
    graph = import_graph()
    packages = {name_of(path) for path in modules() if path.name == "__init__.py"}

    @cache
    def chain(module: str) -> tuple[str, ...]:
        longest = max((chain(other) for other in sorted(graph[module] - packages)), key=len, default=())
        return (module, *longest)

    return list(max((chain(module) for module in sorted(graph)), key=len))


# --- functions --------------------------------------------------------------------------------------------


class PrivateFunction(NamedTuple):
    module: str
    name: str
    line: int


def functions(folder: Path = PACKAGE) -> int:
    return sum(
        isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for path in modules(folder)
        for node in ast.walk(tree_of(path))
    )


def private_with_one_caller(folder: Path = PACKAGE) -> list[PrivateFunction]:
    """Functions and methods named `_something` that their module names once besides the definition."""
    found = []
    for path in modules(folder):
        names = Counter(
            node.attr if isinstance(node, ast.Attribute) else node.id
            for node in ast.walk(tree_of(path))
            if isinstance(node, (ast.Attribute, ast.Name))
        )
        found += [
            PrivateFunction(name_of(path), node.name, node.lineno)
            for node in ast.walk(tree_of(path))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            if node.name.startswith("_") and not node.name.startswith("__") and names[node.name] == 1
        ]
    return found


# --- prose ------------------------------------------------------------------------------------------------


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of the prose in a file: strings with a space and comments of code, or a whole page.

    Code in pages, fenced or in backticks, does not count.
    """
    text = path.read_text()
    if path.suffix == ".md":
        without_code = re.sub(r"```.*?```", lambda m: "\n" * m[0].count("\n"), text, flags=re.DOTALL)
        for number, line in enumerate(without_code.splitlines(), 1):
            yield number, re.sub(r"`[^`]*`", "`", line)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            for offset, line in enumerate(node.value.splitlines()):
                yield node.lineno + offset, line.strip()


def readable() -> list[Path]:
    """All files whose prose is held to the rules."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")]
    return [*modules(), *sorted(pages)]


def words(paths: list[Path]) -> int:
    return sum(len(re.findall(r"[A-Za-z']+", text)) for path in paths for _, text in prose_of(path))


def tics(paths: list[Path]) -> list[tuple[Path, int, str]]:
    return [
        (path, line, match[0].strip())
        for path in paths
        for line, text in prose_of(path)
        for match in TICS.finditer(text)
    ]


def main(folder: Path = PACKAGE) -> None:
    lines = {path: len(path.read_text().splitlines()) for path in modules(folder)}
    chain = longest_chain()
    lonely = private_with_one_caller(folder)
    sizes = Counter(path.parent for path in modules(folder))
    largest = max(sizes, key=lambda found: sizes[found])
    paths = readable() if folder == PACKAGE else modules(folder)
    found = tics(paths)
    print(f"modules: {len(lines)}, median {statistics.median(lines.values()):.0f} lines")
    print(f"largest folder: {largest.name} with {sizes[largest]} modules")
    print(f"longest import chain: {len(chain)}\n  " + "\n  ".join(chain))
    print(f"private functions with one caller: {len(lonely)} of {functions(folder)}", end=" ")
    print(f"({100 * len(lonely) / max(functions(folder), 1):.1f} %)")
    print(f"prose tics: {1000 * len(found) / max(words(paths), 1):.2f} per 1,000 words")
    if folder != PACKAGE:
        for function in lonely:
            print(f"  one caller: {function.module}:{function.line} {function.name}")
        for path, line, text in found:
            print(f"  tic: {path.relative_to(ROOT)}:{line} {text}")


if __name__ == "__main__":
    main(*(Path(argument).resolve() for argument in sys.argv[1:2]))
