"""Static checks of deploy/cluster/, and the programs' own checks of their configurations.

test_jetstream.py tests with a server that the permissions of nats.conf suffice, and keep nodes from writing.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from pathlib import Path
from typing import Any

import nkeys
import pytest
import yaml

from ptn_api.process.settings import SETTINGS, Settings, load_settings
from tests.cluster.servers import binary, missing
from tests.system.api import ROOT
from tests.system.certificates import certificates
from tests.system.nginx import CONFIGURATION, NGINX
from tests.waiting import PATIENCE_S

FOLDER = ROOT / "deploy" / "cluster"
NATS_CONF = FOLDER / "nats.conf"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
MANIFESTS: list[dict[str, Any]] = list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text()))
CHART: dict[str, Any] = yaml.safe_load((FOLDER / "kubernetes-nats.yaml").read_text())


def manifest(kind: str, name: str) -> dict[str, Any]:
    (found,) = (m for m in MANIFESTS if (m["kind"], m["metadata"]["name"]) == (kind, name))
    return found


WORKLOADS = [manifest("Deployment", "ptn-node"), manifest("StatefulSet", "ptn-intake")]


def pod(workload: dict[str, Any]) -> Any:
    return workload["spec"]["template"]["spec"]


def environments() -> dict[str, dict[str, str]]:
    """The settings of each service and pod."""
    found = {name: service.get("environment", {}) for name, service in SERVICES.items()}
    for workload in WORKLOADS:
        (container,) = pod(workload)["containers"]
        names = [source["configMapRef"]["name"] for source in container["envFrom"]]
        shared = {key: value for name in names for key, value in manifest("ConfigMap", name)["data"].items()}
        own = {entry["name"]: entry["value"] for entry in container["env"]}
        found[workload["metadata"]["name"]] = shared | own
    return {name: variables for name, variables in found.items() if "PTN_CLUSTER" in variables}


@pytest.mark.parametrize(("name", "variables"), environments().items())
def test_settings_exist(name: str, variables: dict[str, Any]) -> None:
    """With valid values; only the intakes run intake."""
    values = {key.removeprefix("PTN_").lower(): str(value) for key, value in variables.items()}
    assert set(values) <= SETTINGS.keys()
    settings = load_settings(values)
    settings.cluster_options.check()
    if name != "admin":
        assert ("intake" in settings.chosen_processes()) == ("intake" in name)


def test_the_composition_is_hardened() -> None:
    """Read-only file systems, no capabilities, only the proxy published, and time to stop in order."""
    for name, service in SERVICES.items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert ("ports" in service) == (name == "nginx")
        if service.get("image") == "ptn-api":
            assert int(service["stop_grace_period"].removesuffix("s")) * 1000 > 3 * Settings().stop_timeout_ms
        assert all(v.endswith(":ro") for v in service["volumes"] if ":/validator" in v or "secrets" in v)


def test_the_composition_fits_the_configurations() -> None:
    """Mounted files exist; the servers, nodes and the proxy's address are those that others name."""
    mounted = {v.split(":")[0] for service in SERVICES.values() for v in service["volumes"]}
    files = {name for name in mounted if name.startswith("./") and Path(name).suffix}
    assert files == {"./nats.conf", "./nginx.conf"}
    assert all((FOLDER / name).is_file() for name in files)
    servers = [name for name in SERVICES if name.startswith("nats-")]
    assert re.findall(r"nats://(nats-\d):6222", NATS_CONF.read_text()) == servers
    assert SERVICES["node-1"]["environment"]["PTN_CLUSTER"] == ",".join(f"tls://{n}:4222" for n in servers)
    nodes = {name for name in SERVICES if name.startswith("node-")}
    assert set(re.findall(r"server (\S+):", (FOLDER / "nginx.conf").read_text())) == nodes
    address = SERVICES["nginx"]["networks"]["default"]["ipv4_address"]
    assert {SERVICES[node]["environment"]["PTN_TRUSTED_PROXIES"] for node in nodes} == {address}
    named = set(re.findall(r"\$\{(\w+)", (FOLDER / "compose.yaml").read_text()))
    example = set(re.findall(r"^#?([A-Z_0-9]+)=", (FOLDER / "example.env").read_text(), re.MULTILINE))
    assert named == example


def test_pods_are_restricted_and_found() -> None:
    """By their service and disruption budget; secrets are unreadable to others; /ready decides readiness."""
    for workload in WORKLOADS:
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert workload["spec"]["selector"]["matchLabels"] == labels
        budget = manifest("PodDisruptionBudget", workload["metadata"]["name"])
        assert budget["spec"]["selector"]["matchLabels"] == labels
        assert pod(workload)["securityContext"]["runAsNonRoot"] is True
        (container,) = pod(workload)["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        claims = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
        volumes = {volume["name"] for volume in pod(workload)["volumes"]} | claims
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        for volume in pod(workload)["volumes"]:
            assert volume.get("secret", {"defaultMode": 0o440})["defaultMode"] == 0o440
    node = WORKLOADS[0]
    assert manifest("Service", "ptn-node")["spec"]["selector"] == {"app": "ptn-node"}
    probe = pod(node)["containers"][0]["readinessProbe"]["httpGet"]
    assert probe == {"path": "/ready", "port": "rest"}
    ports = {port["name"]: port["containerPort"] for port in pod(node)["containers"][0]["ports"]}
    assert ports == {"rest": Settings().api_rest_port, "stream": Settings().api_ws_port}


def test_the_chart_has_the_permissions_of_nats_conf() -> None:
    """And syncs every write."""
    users = re.findall(
        r"nkey: \$(\w+)\s+permissions \{\s+publish: \[(.*?)\]\s+subscribe: \[(.*?)\]",
        NATS_CONF.read_text(),
        re.DOTALL,
    )
    wanted = [
        {
            "nkey": name,
            "permissions": {
                "publish": re.findall('"(.+?)"', publish),
                "subscribe": re.findall('"(.+?)"', hear),
            },
        }
        for name, publish, hear in users
    ]
    assert len(wanted) == 3
    assert CHART["config"]["merge"]["authorization"]["users"] == wanted
    assert CHART["config"]["jetstream"]["merge"] == {"sync_interval": "always"}


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_nats_accepts_its_configuration(tmp_path: Path) -> None:
    """With other files, and public keys from the environment."""
    files = certificates(tmp_path / "tls")
    text = NATS_CONF.read_text().replace("/var/lib/nats", str(tmp_path))
    for name, path in (("cert", files.certificate), ("key", files.key), ("ca", files.authority)):
        text = text.replace(f"/etc/nats/tls/{name}.pem", str(path))
    (tmp_path / "nats.conf").write_text(text)
    variables = {"NATS_NAME": "nats-1"}
    for name in ("INTAKE", "NODE", "ADMIN"):
        seed = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
        variables[f"PTN_{name}_NKEY"] = nkeys.from_seed(bytearray(seed)).public_key.decode()
    command = [str(binary()), "-t", "-c", str(tmp_path / "nats.conf")]
    done = subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert 'http: "127.0.0.1:' in text
    assert "sync_interval: always" in text


def test_the_balancer_is_the_single_machines_proxy() -> None:
    """Except for the machines and where a failed request goes."""

    def rest(path: Path) -> str:
        text = path.read_text()
        text = re.sub(
            r"^upstream .*?^\}\n", "", text[text.index("\nupstream") :], flags=re.MULTILINE | re.DOTALL
        )
        return re.sub(r"^ *proxy_next_upstream.*\n", "", text, flags=re.MULTILINE).strip()

    assert rest(FOLDER / "nginx.conf") == rest(CONFIGURATION)
    assert "least_conn;" in (FOLDER / "nginx.conf").read_text()


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_nginx_accepts_the_balancer(tmp_path: Path) -> None:
    """With this machine's addresses and files."""
    files = certificates(tmp_path / "tls")
    text = re.sub(r"server node-\d:", "server 127.0.0.1:", (FOLDER / "nginx.conf").read_text())
    for name, path in (("fullchain", files.certificate), ("privkey", files.key)):
        text = text.replace(f"/etc/letsencrypt/live/api.example.com/{name}.pem", str(path))
    main = tmp_path / "nginx.conf"
    main.write_text(f"pid {tmp_path}/pid; error_log stderr;\nevents {{ }}\nhttp {{ {text} }}\n")
    command = [str(NGINX), "-t", "-p", str(tmp_path), "-c", str(main), "-e", "stderr"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
