"""deploy/monitoring: alerts and dashboard agree with the program, and the alerts do what they promise."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ptn_api.problems import PROBLEMS
from ptn_api.process.metrics import METRICS
from ptn_api.rest.options import RestOptions

ROOT = Path(__file__).resolve().parent.parent
MONITORING = ROOT / "deploy" / "monitoring"
RULES: list[dict[str, Any]] = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
PANELS: list[dict[str, Any]] = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
EXPRESSIONS = [rule["expr"] for rule in RULES] + [t["expr"] for panel in PANELS for t in panel["targets"]]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_exists(expression: str) -> None:
    """With these labels; the series of a histogram have three endings."""
    histograms = {metric.name for metric in METRICS if metric.kind == "histogram"}
    labels = {metric.name: {*metric.all_labels, "process", "instance", "le"} for metric in METRICS}
    for name, matchers in re.findall(r"\b(ptn_\w+)(?:\{(.*?)\})?", expression):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        known = base if base in histograms else name
        assert known in labels
        assert (base != name) == (known in histograms)
        assert set(re.findall(r"(\w+)[!=]~?=?\"", matchers)) <= labels[known]
    for grouped in re.findall(r"\bby \((.*?)\)", expression):
        named = {label for metric in METRICS for label in metric.all_labels} | {"process", "instance", "le"}
        assert set(grouped.split(", ")) <= named


def test_every_problem_raises_one_alert() -> None:
    """Those with which the server does not serve current data at once, the others after five minutes.

    The clock is untrusted for ten minutes after every downtime, which is no reason for an alert.
    """
    codes = lambda name: set(re.findall(r'"(.*?)"', rule(name)["expr"])[0].split("|"))  # noqa: E731
    unavailable = {code for code, problem in PROBLEMS.items() if problem.severity == "unavailable"}
    starting = {code for code, problem in PROBLEMS.items() if problem.severity == "starting"}
    assert codes("PTNUnavailable") == unavailable
    assert codes("PTNStarting") == starting
    assert 'code!~"' in rule("PTNDegraded")["expr"]
    assert codes("PTNDegraded") == unavailable | starting | codes("PTNClockUntrusted")
    assert codes("PTNClockUntrusted") == {"clock_untrusted"}
    assert rule("PTNClockUntrusted")["for"] == "15m"
    assert RestOptions().clock_settle_ms < 15 * 60_000


def rule(name: str) -> dict[str, Any]:
    return next(rule for rule in RULES if rule["alert"] == name)


@pytest.mark.parametrize("name", [rule["alert"] for rule in RULES])
def test_an_alert_names_a_heading_of_the_documentation(name: str) -> None:
    """The heading of a problem's alert is the problem's code."""
    file, _, anchor = rule(name)["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / file).read_text(), re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    assert (set(PROBLEMS) if anchor == "{{ $labels.code }}" else {anchor}) <= anchors
    assert rule(name)["labels"]["severity"] in ("critical", "warning")


def test_the_page_lists_every_alert() -> None:
    """docs/operators.md explains them."""
    page = (ROOT / "docs" / "operators.md").read_text()
    assert [rule["alert"] for rule in RULES if f"| `{rule['alert']}` |" not in page] == []


def test_alerts_fire_and_clear() -> None:
    """promtool's unit tests of the rules, each with a condition that begins and ends."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    tested = (MONITORING / "alerts_test.yml").read_text()
    assert [rule["alert"] for rule in RULES if f"alertname: {rule['alert']}\n" not in tested] == []
    for command in (("test", "rules", "alerts_test.yml"), ("check", "config", "prometheus.yml")):
        done = subprocess.run(
            [promtool, *command], cwd=MONITORING, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
