"""The documentation is complete and current, and its examples can be imported."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ptn_api import __version__
from ptn_api.problems import PROBLEMS
from ptn_api.process.settings import SETTINGS
from tests import structure
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ptn_api"
CITATION = re.compile(r'docs/(\w+\.md),\s+(?:(\d+(?:\s+(?:and|to)\s+\d+)*)|"([^"<.]+)")')
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def generator(name: str) -> ModuleType:
    """A script in docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_matches_the_tables() -> None:
    """All settings, routes, frames, close codes and commands; `make descriptions` regenerates it."""
    assert (ROOT / "docs" / "reference.md").read_text() == generator("make_reference").reference()


def test_the_settings_match_their_types() -> None:
    """Every setting has a row; `make descriptions` regenerates the page."""
    page = (ROOT / "docs" / "settings.md").read_text()
    assert page == generator("make_settings").settings_page()
    assert [name for name in SETTINGS if f"\n| `{name}` | `PTN_{name.upper()}` |" not in page] == []


def test_the_site_shows_the_version() -> None:
    configuration = (ROOT / "zensical.toml").read_text()
    assert f'site_name = "PTN API {__version__}"' in configuration


def test_the_problems_match_the_table() -> None:
    """In both pages, every code with its severity; `make descriptions` regenerates them."""
    module = generator("make_troubleshooting")
    assert (ROOT / "docs" / "troubleshooting.md").read_text() == module.troubleshooting()
    operators = (ROOT / "docs" / "operators.md").read_text()
    assert operators == module.operators(operators)
    assert all(f"[`{code}`]" in operators for code in PROBLEMS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Linked files and headings exist."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page.name}: {target}"


def test_commands_in_the_documentation_exist() -> None:
    """Every `ptn ...` and `make ...` command on a page exists."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    ptn = subprocess.run(
        [sys.executable, "-c", "from ptn_api.cli.app import main; main()", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.splitlines():
                words = line.split()
                if words[:1] == ["make"]:
                    assert words[1] in targets, f"{page.name}: {line}"
                if words[:1] == ["ptn"]:
                    assert re.search(rf"\b{words[1]}\b", ptn), f"{page.name}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    """Paths in deploy/, tests/ and benchmarks/, and modules and folders of the package."""
    for path in re.findall(r"(?<![\w./-])((?:deploy|tests|benchmarks)/[\w./-]*\w)", page.read_text()):
        assert (ROOT / path).exists(), f"{page.name}: {path}"
    packages = "|".join(sorted(folder.name for folder in PACKAGE.iterdir() if folder.is_dir()))
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for path in re.findall(rf"`(\w+\.py|\w+/[\w/]*\w\.py|(?:{packages})/[\w./]*)`", prose):
        found = (ROOT / path).exists() or (PACKAGE / path).exists()
        assert found or ("/" not in path and any(PACKAGE.rglob(path))), f"{page.name}: {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_can_be_imported(page: Path) -> None:
    """They parse, and every name that they import from this package exists."""
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ptn_api"):
                module = importlib.import_module(str(node.module))
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert missing == [], f"{page.name}: {node.module}"


def test_what_code_cites_is_there() -> None:
    """`docs/<page>.md, 3` cites a heading that begins with that number, quoted words a whole heading."""
    cited: list[tuple[str, str, str]] = []
    for folder in ("ptn_api", "tests", "benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            for page, numbers, title in CITATION.findall(path.read_text()):
                words = [f"{number}. " for number in re.findall(r"\d+", numbers)]
                words += [" ".join(title.split()) + "\n"] if title else []
                cited += [(path.name, page, f"\n## {heading}") for heading in words]
    assert len(cited) > 40
    texts = {page.name: page.read_text() for page in PAGES}
    assert [cite for cite in cited if cite[2] not in texts.get(cite[1], "")] == []


def test_every_page_is_in_the_navigation() -> None:
    """Pages outside the index cannot be found."""
    configuration = (ROOT / "zensical.toml").read_text()
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if f'"{page}"' not in configuration] == []


def test_the_documentation_builds(tmp_path: Path) -> None:
    """`make docs` fails on a missing link target or heading; run on a copy."""
    zensical = Path(sys.executable).parent / "zensical"
    if not zensical.exists():
        pytest.skip("zensical is not installed (it needs Python 3.11)")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    result = subprocess.run(
        [zensical, "build", "--strict"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=3 * PATIENCE_S,
        env=os.environ | {"NO_COLOR": "1"},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    built = {path.parent.name for path in (tmp_path / "site").glob("*/index.html")}
    assert built >= {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}


def test_prose_follows_the_countable_rules() -> None:
    """At most one turn of phrase that docs/contributing.md rules out in 2,000 words."""
    paths = structure.readable()
    found = structure.tics(paths)
    allowed = 0.5 * structure.words(paths) / 1000
    assert len(found) <= allowed, "\n".join(f"{path}:{line} {text}" for path, line, text in found)
