"""Options of a server that shares its log with others."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from ptn_api.errors import SettingsError
from ptn_api.options import BEHIND_MS, Behind, Bytes, Count, NodeName, Period, setting

__all__ = ["ClusterOptions", "shared_key_file"]

_NAME = re.compile("[a-z][a-z0-9_-]{0,30}")
_NODE_NAME = re.compile("[A-Za-z0-9._-]{1,63}")
_SCHEMES = ("nats", "tls")
_MONITOR_PORT = 8222


def shared_key_file(data_dir: str | Path) -> Path:
    """Where a machine has its copy of the keys that all machines share (key_copy.py)."""
    return Path(data_dir) / "cluster_keys.json"


class ClusterOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Times are milliseconds, sizes bytes."""

    cluster: Annotated[
        str,
        setting(
            "Cluster",
            "Share the log with other machines over these NATS servers (nats:// or tls://, comma-separated)",
            unit="URLS",
            default="this machine alone",
        ),
    ] = ""
    cluster_name: Annotated[
        str,
        setting("Cluster", "Use this name for the log's streams; one for each validator", unit="NAME"),
    ] = "ptn"
    cluster_credentials: Annotated[
        str,
        setting("Cluster", "Authenticate with this NATS credentials file or nkey seed", unit="FILE"),
    ] = ""
    cluster_ca: Annotated[
        str,
        setting("Cluster", "Trust NATS servers with certificates of this authority (PEM)", unit="FILE"),
    ] = ""
    node_name: NodeName = ""
    monitors: Annotated[
        str,
        setting(
            "Cluster",
            "Ask these monitoring ports whether the NATS servers sync every write (`ptn cluster init`,"
            " `ptn doctor`)",
            unit="URLS",
            default="port 8222 of each server",
        ),
    ] = ""
    cluster_keys: Annotated[
        bool,
        setting(
            "Cluster",
            "Use the API keys that all machines share (`ptn keys --cluster`) instead of a key file of this "
            "machine",
        ),
    ] = False
    usage_publish_ms: Annotated[
        Period,
        setting("Cluster", "Publish this machine's usage records to the others at this interval"),
    ] = 60_000
    replicas: Annotated[
        Count, setting("Cluster", "Store the streams on this many NATS servers (`ptn cluster init`)")
    ] = 3
    ack_ms: Annotated[
        Period, setting("Cluster", "Take the outcome of a commit as unknown without an answer for this long")
    ] = 500
    behind_ms: Behind = BEHIND_MS
    takeover_ms: Annotated[
        Period, setting("Cluster", "Take over from an active intake that has been silent for this long")
    ] = 5_000
    snapshot_ms: Annotated[Period, setting("Cluster", "Publish a snapshot of the log at this interval")] = (
        3_600_000
    )
    snapshot_bytes: Annotated[
        Bytes, setting("Cluster", "Publish a snapshot earlier once the stream has grown by this")
    ] = 256 << 20

    request_ms: int = 1_000
    """How long servers may take for everything except for publishing."""
    ping_ms: int = 2_000
    keys_poll_ms: int = 400
    """How often to look for changed keys, whose announcement may be lost; a revocation may take a second."""
    beat_ms: int = 1_000
    """How often a machine with intake shows that it runs."""

    @property
    def servers(self) -> list[str]:
        return [url.strip() for url in self.cluster.split(",") if url.strip()]

    @property
    def name(self) -> str:
        """This machine's name in the cluster; empty for a single machine."""
        return (self.node_name or socket.gethostname()) if self.servers else ""

    @property
    def monitoring_ports(self) -> list[str]:
        given = [url.strip().rstrip("/") for url in self.monitors.split(",") if url.strip()]
        usual = (f"http://{urlsplit(server).hostname}:{_MONITOR_PORT}" for server in self.servers)
        return given or [*dict.fromkeys(usual)]

    def prepared(self) -> ClusterOptions:
        """The same with absolute paths, checked. Raises SettingsError."""
        self.check()
        files = {
            name: str(Path(value).expanduser().absolute())
            for name in ("cluster_credentials", "cluster_ca")
            if (value := getattr(self, name))
        }
        return msgspec.structs.replace(self, **files)

    def check(self) -> None:
        """Raises SettingsError for addresses and names that cannot be used."""
        if not _NAME.fullmatch(self.cluster_name):
            raise SettingsError(
                f"--cluster-name {self.cluster_name!r}: expected lower-case letters, digits, - and _"
            )
        if self.node_name and not _NODE_NAME.fullmatch(self.node_name):
            raise SettingsError(
                f"--node-name {self.node_name!r}: expected up to 63 letters, digits, -, _ and dots"
            )
        for url in self.servers:
            parts = urlsplit(url)
            if parts.username or parts.password:  # not repeated: it may be a secret
                raise SettingsError("--cluster must not contain credentials: use --cluster-credentials")
            try:
                usable = parts.scheme in _SCHEMES and parts.hostname and parts.port != 0
            except ValueError:
                usable = False
            if not usable or parts.path or parts.query or parts.fragment:
                raise SettingsError(f"--cluster {url!r}: expected nats://HOST:PORT or tls://HOST:PORT")
