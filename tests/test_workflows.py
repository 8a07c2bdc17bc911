"""The public CI: what runs there also runs on a contributor's machine, and with few rights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.server_packages import NEED_THE_SERVER

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def steps(path: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    return [step for job in jobs for step in job.get("steps", [])]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_step_is_a_make_target_or_an_action(path: Path) -> None:
    """Actions are pinned to a version."""
    for step in steps(path):
        if "run" in step:
            program, target, *_ = step["run"].split()
            assert (program, target in TARGETS) == ("make", True), step["run"]
        else:
            assert re.fullmatch(r"[\w./-]+@(v\d+|release/v\d+|[0-9a-f]{40})", step["uses"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_jobs_have_few_rights_and_an_end(path: Path) -> None:
    """Reading the code by default; writing only in jobs that name it. No job runs for hours."""
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job or "uses" in job for job in workflow["jobs"].values())
    assert "pull_request_target" not in path.read_text()
    assert "secrets." not in path.read_text()


def test_every_supported_python_is_tested() -> None:
    """Those of pyproject.toml, and the next one, which may fail."""
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    named = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    assert jobs["tests"]["strategy"]["matrix"]["python"] == [*named, "3.14"]


def test_all_other_files_for_github_can_be_read() -> None:
    files = [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"]
    assert len(files) >= 8
    assert all(yaml.safe_load(file.read_text()) for file in files)
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
    folders = [
        folder for update in updates for folder in update.get("directories", [update.get("directory")])
    ]
    assert all((ROOT / folder.strip("/")).is_dir() for folder in folders)


def test_tests_of_the_client_exist() -> None:
    """Those that `make test-client` runs elsewhere, and those that it skips."""
    listed = re.search(
        r"^CLIENT_TESTS := \$\(addprefix tests/,(.*)\)$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    assert listed is not None
    tests = [*listed[1].split(), *NEED_THE_SERVER]
    assert [test for test in tests if not (ROOT / "tests" / test).exists()] == []
