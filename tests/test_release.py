"""A release of a small checkout: what it changes, and what it refuses (docs/releasing.md)."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from release.__main__ import TYPESCRIPT

ROOT = Path(__file__).resolve().parent.parent
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n### Added\n- A thing.\n\n## [0.1.0] - 2026-11-25\n\n- First.\n"
MAKEFILE = """\
descriptions:
\t@{descriptions}
dist:
\t@mkdir -p dist; cp ptn_api/__init__.py dist/package; test "$(BILL)" = 1
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository whose `make` builds a package at once."""
    (tmp_path / "ptn_api").mkdir()
    (tmp_path / "ptn_api/__init__.py").write_text('"""Text."""\n\n__version__ = "0.1.0"\n')
    (tmp_path / "ptn_api/model.py").write_text(
        '"""The time. Unit: ms. Since: after 0.1.0."""\n"""The price. Since: after\n    0.1.0."""\n'
    )
    (tmp_path / "web/client").mkdir(parents=True)
    for name in TYPESCRIPT:
        (tmp_path / name).write_text('{\n  "name": "ptn-api-client",\n  "version": "0.1.0"\n}\n')
    (tmp_path / "zensical.toml").write_text('site_name = "PTN API 0.1.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    (tmp_path / "Makefile").write_text(MAKEFILE.format(descriptions="true"))
    (tmp_path / ".gitignore").write_text("dist/\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "config", "user.name", "ptn-api")
    git(tmp_path, "config", "user.email", "ptn-api@localhost")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "Begin")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def release(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "release", *arguments, "--root", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_release_is_committed_and_tagged(checkout: Path) -> None:
    """The changelog's section becomes the tag's message; checksums cover what was built."""
    done = release(checkout, "0.2.0")
    assert done.returncode == 0, done.stderr
    changelog = (checkout / "CHANGELOG.md").read_text()
    assert "## [Unreleased]\n\n## [0.2.0] - 2" in changelog
    assert changelog.endswith("\n\n### Added\n- A thing.\n\n## [0.1.0] - 2026-11-25\n\n- First.\n")
    assert '__version__ = "0.2.0"' in (checkout / "ptn_api/__init__.py").read_text()
    model = (checkout / "ptn_api/model.py").read_text()
    assert ("after" not in model, model.count("0.2.0.")) == (True, 2)
    assert {json.loads((checkout / name).read_text())["version"] for name in TYPESCRIPT} == {"0.2.0"}
    assert (checkout / "zensical.toml").read_text() == 'site_name = "PTN API 0.2.0"\n'
    assert git(checkout, "status", "--porcelain") == ""
    assert git(checkout, "log", "-1", "--format=%s") == "Release 0.2.0\n"
    assert (
        git(checkout, "tag", "--list", "--format=%(refname:short) %(contents)")
        == "v0.2.0 ### Added\n- A thing.\n\n"
    )
    package = (checkout / "dist/package").read_bytes()
    assert b"0.2.0" in package
    assert (checkout / "dist/SHA256SUMS").read_text() == f"{hashlib.sha256(package).hexdigest()}  package\n"


def test_a_dry_run_changes_nothing(checkout: Path) -> None:
    before = git(checkout, "rev-parse", "HEAD")
    done = release(checkout, "0.2.0", "--dry-run")
    assert done.returncode == 0
    assert "v0.2.0 would change CHANGELOG.md, ptn_api/__init__.py" in done.stdout
    assert done.stdout.endswith("### Added\n- A thing.\n")
    assert git(checkout, "rev-parse", "HEAD") == before
    assert git(checkout, "status", "--porcelain", "--ignored") == ""
    assert git(checkout, "tag") == ""


@pytest.mark.parametrize(
    ("version", "problem"),
    [
        ("0.1.0", "0.1.0 does not come after the present version 0.1.0"),
        ("0.1.0rc1", "does not come after"),
        ("v0.2.0", "not a version"),
        ("0.2", "not a version"),
        ("", "not a version"),
    ],
)
def test_a_wrong_version_is_refused(checkout: Path, version: str, problem: str) -> None:
    done = release(checkout, version)
    assert (done.returncode, problem in done.stderr) == (1, True)
    assert git(checkout, "status", "--porcelain") == ""


def test_changes_that_are_not_committed_are_refused(checkout: Path) -> None:
    """New files too: they would be in the sdist."""
    (checkout / "new").write_text("")
    done = release(checkout, "0.2.0", "--dry-run")
    assert (done.returncode, "not committed" in done.stderr) == (1, True)


def test_a_release_without_changes_is_refused(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text(CHANGELOG.replace("\n### Added\n- A thing.\n", ""))
    git(checkout, "commit", "--quiet", "--all", "--message", "Remove")
    done = release(checkout, "0.2.0")
    assert (done.returncode, "nothing is listed under Unreleased" in done.stderr) == (1, True)


def test_an_existing_tag_is_refused(checkout: Path) -> None:
    git(checkout, "tag", "v0.2.0")
    done = release(checkout, "0.2.0")
    assert (done.returncode, "v0.2.0 exists already" in done.stderr) == (1, True)


def test_a_failed_build_leaves_no_trace(checkout: Path) -> None:
    (checkout / "Makefile").write_text(MAKEFILE.format(descriptions="false"))
    git(checkout, "commit", "--quiet", "--all", "--message", "Break")
    done = release(checkout, "0.2.0")
    assert done.returncode != 0
    assert git(checkout, "status", "--porcelain") == ""
    assert git(checkout, "tag") == ""
    assert '__version__ = "0.1.0"' in (checkout / "ptn_api/__init__.py").read_text()
