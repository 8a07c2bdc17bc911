"""Static checks of deploy/: the systemd unit, the image and the composition."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ptn_api.process.settings import SETTINGS, Settings, load_settings
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "ptn-api.service"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())["services"]

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def settings_in(text: str) -> dict[str, str]:
    """Returns the PTN_... assignments, including commented-out ones."""
    found = re.findall(r"^\s*#?\s*PTN_([A-Z_]+)(?:=|: )(\S+?)(?: \\)?$", text, re.MULTILINE)
    return {name.lower(): value for name, value in found}


# --- systemd ----------------------------------------------------------------------------------------------


@needs_systemd
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """No unknown directive and no bad value (with an existing program in place of ptn)."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/ptn-api/bin/ptn", sys.executable))
    result = run("systemd-analyze", "verify", str(unit))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_unit_leaves_what_the_metrics_are_read_from() -> None:
    """The process_* metrics need /proc/stat; without it their library silently omits them."""
    assert not re.search("^ProcSubset=", UNIT.read_text(), re.MULTILINE)


@needs_systemd
def test_the_unit_may_do_little() -> None:
    """Exposure by systemd's own measure (0 to 10, less is better); the unit cannot become root."""
    if run("systemd-analyze", "security", "--offline=true", "--threshold=100", str(UNIT)).returncode:
        pytest.skip("this systemd-analyze measures no unit files")
    result = run("systemd-analyze", "security", "--offline=true", "--threshold=20", str(UNIT))
    assert result.returncode == 0, result.stdout
    assert "NoNewPrivileges=yes" in UNIT.read_text()


def test_the_unit_reads_a_home_directory_but_no_wallet() -> None:
    """It runs as the validator's user. The command of docs/deployment.md puts in another user and home."""
    page = (ROOT / "docs" / "deployment.md").read_text()
    (command,) = re.findall(r"^(sed .*deploy/systemd/ptn-api\.service) \|", page, re.MULTILINE | re.DOTALL)
    script = f"user=vera group=vali home=/srv/vera\n{command}"
    result = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    lines = result.stdout.splitlines()
    assert {"User=vera", "Group=vali", "ProtectHome=read-only"} <= set(lines)
    (hidden,) = (line for line in lines if line.startswith("InaccessiblePaths="))
    assert "-/srv/vera/.bittensor" in hidden
    assert "-/srv/vera/.ssh" in hidden


def test_the_unit_leaves_time_to_stop_in_order() -> None:
    """Three steps of at most `stop_timeout_ms`; only the supervisor gets the signal."""
    text = UNIT.read_text()
    timeout = int(re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[0])
    assert timeout * 1000 > 3 * Settings().stop_timeout_ms
    assert "KillMode=mixed" in text


# --- Docker -----------------------------------------------------------------------------------------------


def test_hadolint_has_nothing_to_say() -> None:
    """The Dockerfile passes hadolint."""
    hadolint = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.defpath]))
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    result = run(hadolint, str(DOCKERFILE))
    assert (result.returncode, result.stdout) == (0, "")


def test_the_image_runs_as_nobody_and_stops_by_sigterm() -> None:
    """The user is numeric, so that Kubernetes can verify it is not root; there is a health check."""
    last_stage = DOCKERFILE.read_text().rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d+:[1-9]\d+$", last_stage, re.MULTILINE)
    assert "STOPSIGNAL SIGTERM" in last_stage
    assert "/health" in last_stage.partition("HEALTHCHECK")[2]
    assert 'ENTRYPOINT ["ptn"]' in last_stage  # no shell between: the signal arrives


def test_no_key_and_no_data_reach_the_image() -> None:
    """Only listed files are sent to the builder, and never a key file."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]

    def sent(path: str) -> bool:
        names = Path(path).parts
        prefixes = ["/".join(names[: n + 1]) for n in range(len(names))]
        included = True
        for rule in rules:
            pattern = rule.removeprefix("!")
            candidates = names if pattern.startswith("**/") else prefixes
            if any(fnmatch.fnmatchcase(name, pattern.removeprefix("**/")) for name in candidates):
                included = rule.startswith("!")
        return included

    for path in ("ptn_api/process/service.py", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        assert sent(path), path
        assert (ROOT / path).exists()
    assert sent("web/page/package-lock.json")
    assert not sent("web/page/node_modules/vite/package.json")
    secrets = (
        "ptn_api/api_keys.json",
        "ptn_api/api_keys.json.bak",
        "api_keys.json",
        "ptn_api/demo.keys.json",
    )
    for path in (*secrets, ".ptn/demo_api_keys.json", ".git/config", "deploy/docker/.env", ".venv/x"):
        assert not sent(path), path


def test_the_composition_is_hardened() -> None:
    """Read-only file systems, no capabilities, and the validator's files mounted read-only."""
    for service in COMPOSE.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    api = COMPOSE["api"]
    assert "cap_add" not in api
    assert next(v for v in api["volumes"] if ":/validator" in v).endswith(":ro")
    assert api["init"] is True
    assert int(api["stop_grace_period"].removesuffix("s")) * 1000 > 3 * Settings().stop_timeout_ms


def test_the_composition_publishes_only_the_proxy() -> None:
    """nginx shares the API's network namespace, in which the API listens on loopback."""
    assert COMPOSE["nginx"]["network_mode"] == "service:api"
    assert COMPOSE["api"]["ports"] == ["80:80", "443:443"]
    assert "api_host" not in settings_in(DOCKERFILE.read_text())


def test_files_that_the_composition_names_exist() -> None:
    """The build's context and file, and nginx's configuration."""
    folder = DEPLOY / "docker"
    build = COMPOSE["api"]["build"]
    context = (folder / build["context"]).resolve()
    assert context == ROOT
    assert context / build["dockerfile"] == DOCKERFILE
    mounted = [v.split(":")[0] for v in COMPOSE["nginx"]["volumes"] if v.startswith("..")]
    assert mounted
    assert all((folder / source).is_file() for source in mounted)


@pytest.mark.parametrize(
    "path",
    [DOCKERFILE, DEPLOY / "docker" / "compose.yaml", DEPLOY / "systemd" / "ptn-api.env"],
    ids=lambda path: path.name,
)
def test_settings_exist_under_these_names(path: Path) -> None:
    """Every PTN_... assignment is a setting with a valid value."""
    found = settings_in(path.read_text())
    assert found
    load_settings({name: value for name, value in found.items() if not value.startswith("$")})
    assert set(found) - SETTINGS.keys() == set()
