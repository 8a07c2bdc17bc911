"""The built packages, their requirements and the lock."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel and an sdist made from a tree that has a key file where the server looks for one."""
    tree = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "ptn_api", tree / "ptn_api", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, tree)
    shutil.rmtree(tree / "ptn_api" / "page", ignore_errors=True)
    (tree / "ptn_api" / "page" / "assets").mkdir(parents=True)
    (tree / "ptn_api" / "page" / "index.html").write_text("<title>")
    (tree / "ptn_api" / "page" / "assets" / "index-1.js").write_text("")
    ignored = (tree / ".gitignore").read_text()
    (tree / ".gitignore").write_text(f"{ignored}ptn_api/page/\n")
    (tree / "ptn_api" / "api_keys.json").write_text('{"alice": "secret"}')
    (tree / "ptn_api" / "api_keys.json.bak").write_text('{"alice": "secret"}')
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", "."],
        cwd=tree,
        check=True,
        capture_output=True,
        timeout=110,
    )
    return tree / "dist"


def test_no_key_file_in_wheel_or_sdist(built: Path) -> None:
    """Not even when the operator builds where the server runs."""
    wheel = zipfile.ZipFile(next(built.glob("*.whl"))).namelist()
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        sdist = archive.getnames()
    assert "ptn_api/websocket_client.py" in wheel
    assert any(name.endswith("ptn_api/py.typed") for name in wheel)
    static = {f"ptn_api/rest/static/{path.name}" for path in (ROOT / "ptn_api/rest/static").iterdir()}
    assert len(static) == 4
    assert static <= set(wheel)
    assert "ptn_api/model/trade_pairs.json" in wheel
    assert [name for name in wheel + sdist if "api_keys" in name] == []


def test_a_page_that_was_built_is_in_wheel_and_sdist(built: Path) -> None:
    """Although git ignores it."""
    page = {"ptn_api/page/index.html", "ptn_api/page/assets/index-1.js"}
    assert page <= set(zipfile.ZipFile(next(built.glob("*.whl"))).namelist())
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        assert page <= {name.partition("/")[2] for name in archive.getnames()}


def brought_by(name: str) -> set[str]:
    """Returns what a package without extras installs, by the installed packages' metadata."""
    found: set[str] = set()
    left = [name]
    while left:
        for requirement in importlib.metadata.requires(left.pop()) or []:
            package = re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0].lower()
            if "extra ==" not in requirement and package not in found:
                found.add(package)
                with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # for other platforms
                    importlib.metadata.requires(package)
                    left.append(package)
    return found


def test_installing_the_client_brings_no_server() -> None:
    """Nor Polars, nor anything else that only an extra needs."""
    brought = brought_by("ptn-api")
    assert {"httpx", "msgspec", "websockets", "typer"} <= brought
    extras = [r for r in importlib.metadata.requires("ptn-api") or [] if "extra ==" in r]
    names = {re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0].lower() for requirement in extras}
    assert {"picows", "httptools", "uvloop"} <= names
    assert brought & {"picows", "httptools", "uvloop", "structlog", "isal", "asyncinotify", "polars"} == set()


def requirements() -> list[Requirement]:
    """The package's own requirements, those of all extras included, that hold for this platform."""
    found = [Requirement(line) for line in importlib.metadata.requires("ptn-api") or []]
    extras = importlib.metadata.metadata("ptn-api").get_all("Provides-Extra") or []
    environments = [dict(default_environment()) | {"extra": extra} for extra in ["", *extras]]
    return [r for r in found if r.marker is None or any(r.marker.evaluate(e) for e in environments)]


def locked() -> dict[str, str]:
    """Package -> the version in constraints.txt for this Python and platform."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    found = [Requirement(line) for line in lines]
    return {r.name: str(r.specifier).removeprefix("==") for r in found if not r.marker or r.marker.evaluate()}


def test_every_requirement_is_locked_within_its_bounds() -> None:
    """After a change of pyproject.toml, `make lock` renews constraints.txt."""
    versions = locked()
    wanted = [r for r in requirements() if r.name != "ptn-api"]
    assert {"httpx", "picows", "pytest"} <= {r.name for r in wanted}
    assert [str(r) for r in wanted if not r.specifier.contains(versions.get(r.name, "0"))] == []


def test_the_lock_names_no_index() -> None:
    """Packages come from the index that pip is configured to use."""
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    assert not re.search("^-", text, re.MULTILINE)


def test_the_command_line_does_without_the_server(tmp_path: Path) -> None:
    """`ptn doctor` names the missing extra and keys can be managed without the server."""
    program = """
        import sys
        for name in ("structlog", "picows", "httptools", "uvloop", "isal", "zstandard", "asyncinotify"):
            sys.modules[name] = None
        from ptn_api.cli.app import main
        sys.argv[0] = "ptn"
        main()
    """

    def ptn(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    doctor = ptn("doctor", "--demo", "--data-dir=/nowhere/data")
    assert "pip install '.[server]'" in doctor.stdout
    assert "Traceback" not in doctor.stderr
    keys = f"--api-keys-file={tmp_path / 'keys.json'}"
    assert ptn("keys", "add", "alice", "--tier=100", keys).returncode == 0
    assert "alice" in ptn("keys", "list", keys, f"--data-dir={tmp_path}").stdout
    assert ptn("keys", "usage", f"--data-dir={tmp_path}").returncode == 0


def test_git_ignores_the_key_file() -> None:
    """No key file is ever committed by accident."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git checkout here")
    names = ["ptn_api/api_keys.json", "ptn_api/api_keys.json.bak", "api_keys.json"]
    result = subprocess.run(
        ["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stdout.split() == names
