"""`ptn doctor`: is everything as a server needs it, and what to do where it is not. Changes nothing."""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import httpx
import msgspec

from ptn_api.access import check_keys, exposed_to, parse_keys, read_key_file
from ptn_api.access.address import is_loopback
from ptn_api.clock import wall_ms
from ptn_api.errors import PTNError, SettingsError
from ptn_api.process.certificate import Certificate
from ptn_api.process.data_dir import foreign_files, other_log
from ptn_api.process.settings import Settings, add_arguments, describe, from_arguments
from ptn_api.wire.about import Health

__all__ = ["CHECKS", "Finding", "doctor"]

FEW_BYTES = 1 << 30
FEW_FILES = 4_096
SOON_MS = 7 * 86_400_000
AHEAD_MS = 60_000
_TIMEOUT_S = 2


class Finding(NamedTuple):
    """`bad`: the server cannot work so; `warn`: it can, and somebody should look."""

    level: Literal["ok", "warn", "bad"]
    what: str
    sentence: str


def doctor(argv: Sequence[str]) -> int:
    """Prints what was found; 1 if something is bad. Takes the options that `ptn serve` is given."""
    parser = argparse.ArgumentParser(
        usage="ptn doctor [options of ptn serve]",
        description="Checks whether a server with these options can run, and what ails a running one.",
    )
    add_arguments(parser)
    try:
        settings = from_arguments(parser.parse_args(argv))
    except SettingsError as error:
        parser.error(str(error))
    findings = [finding for check in CHECKS for finding in check(settings)]
    for level, what, sentence in findings:
        print(f"{level:<4}  {what:<10}  {sentence}")
    return 1 if any(finding.level == "bad" for finding in findings) else 0


# --- the running server -----------------------------------------------------------------------------------

EXPLAINED = {
    "starting": "it is still reading the validator's files; wait, and look again",
    "log_unreadable": "it cannot read its event log; see its log, and whether the data directory is there",
    "log_unwritable": "it cannot write its event log: is the disk full, or read-only? Orders wait meanwhile",
    "process_down": "one of its processes does not run or hangs; its log says why it ended",
    "source_stale": "what it serves may no longer be what the validator has",
    "source_silent": "the validator's files were not looked through for minutes; is their disk slow or gone?",
    "not_watching": "inotify watches are short, so files are swept every second; raise "
    "fs.inotify.max_user_watches",
}
_STALE = {
    "mass_removal": "many positions vanished at once; if that is meant: ptn resync --accept-removals",
    "root_missing": "the validator's directory is not there; is it mounted?",
}


def _running(settings: Settings) -> Iterator[Finding]:
    health = _health(settings)
    if health is None:
        yield from _ports(settings)
        return
    for problem in health.problems:
        level: Literal["warn", "bad"] = "warn" if problem in ("starting", "not_watching") else "bad"
        yield Finding(level, "server", EXPLAINED.get(problem, problem))
    down = [name for name, state in health.processes.items() if state == "down"]
    if down:
        yield Finding("bad", "server", f"down: {', '.join(down)}")
    if reason := health.source.reason:
        yield Finding("warn", "server", _STALE.get(reason, f"the source says: {reason}"))
    if not health.problems:
        yield Finding("ok", "server", "runs, and says that all is well")


def _health(settings: Settings) -> Health | None:
    """What the running server says; None: there is none."""
    scheme = "https" if settings.tls_cert else "http"
    url = f"{scheme}://{_reachable(settings.api_host)}:{settings.api_rest_port}/health"
    try:
        # The name in the certificate is not this address; and nothing secret is said or heard here. A proxy
        # that the environment names is for the way to others.
        found = httpx.get(url, timeout=_TIMEOUT_S, verify=False, trust_env=False)  # noqa: S501
        return msgspec.json.decode(found.content, type=Health)
    except (httpx.HTTPError, ValueError):
        return None


def _reachable(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - where it listens, not we
    return f"[{host}]" if ":" in host else host


def _ports(settings: Settings) -> Iterator[Finding]:
    """No server answers: could one listen?"""
    ports = [
        (settings.api_host, settings.api_rest_port, "--api-rest-port"),
        (settings.api_ws_host or settings.api_host, settings.api_ws_port, "--api-ws-port"),
        ("127.0.0.1", max(settings.metrics_port, 0), "--metrics-port"),
    ]
    taken = [(host, port, flag, why) for host, port, flag in ports if (why := _cannot_listen(host, port))]
    for host, port, flag, why in taken:
        yield Finding("bad", "ports", f"{host} port {port}: {why}; choose another with {flag}")
    if not taken:
        yield Finding("ok", "ports", "no server runs here, and its ports are free")


def _cannot_listen(host: str, port: int) -> str:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(1)  # SO_REUSEADDR lets a bind pass beside somebody who listens, not this
    except OSError as error:
        return str(error.strerror)
    return ""


def _tls(settings: Settings) -> Iterator[Finding]:
    hosts = (settings.api_host, settings.api_ws_host or settings.api_host)
    if settings.tls_cert and settings.tls_key:
        try:
            Certificate(Path(settings.tls_cert).expanduser(), Path(settings.tls_key).expanduser())
        except SettingsError as error:
            yield Finding("bad", "tls", str(error))
        else:
            yield Finding("ok", "tls", f"{settings.tls_cert} can be used with its key")
    elif settings.tls_cert or settings.tls_key:
        yield Finding("bad", "tls", "--tls-cert and --tls-key go together: give both")
    elif not all(is_loopback(host) for host in hosts):
        sentence = "it listens beyond this machine without TLS: only a proxy should be able to reach it"
        yield Finding("warn", "tls", sentence)


# --- files ------------------------------------------------------------------------------------------------


def _keys(settings: Settings) -> Iterator[Finding]:
    path = Path(settings.api_keys_file).expanduser().absolute()
    try:
        content = read_key_file(path)
        problems = check_keys(content)
    except FileNotFoundError:
        if settings.demo:
            yield Finding("ok", "keys", "the demo makes its own")
            return
        sentence = f"there is no key file {path}: everybody gets 401 until `ptn keys add` makes one"
        yield Finding("warn", "keys", sentence)
        return
    except OSError as error:
        yield Finding("bad", "keys", f"{path} cannot be read: {error.strerror}")
        return
    except PTNError as error:
        yield Finding("bad", "keys", str(error))
        return
    for line, sentence in problems:
        yield Finding("bad", "keys", f"{path}:{line}: {sentence}")
    if danger := exposed_to(path):
        yield Finding("warn", "keys", f"{danger}; chmod o-rw {path}")
    if not problems:
        yield from _ends(content)


def _ends(content: bytes) -> Iterator[Finding]:
    grants, now = parse_keys(content), wall_ms()
    ended = [grant.alias for grant in grants if grant.expires_ms is not None and grant.expires_ms <= now]
    soon = [g.alias for g in grants if g.expires_ms is not None and now < g.expires_ms < now + SOON_MS]
    yield Finding("ok", "keys", f"{len(grants) - len(ended)} keys are valid")
    if ended:
        yield Finding("warn", "keys", f"expired: {', '.join(ended)}")
    if soon:
        yield Finding("warn", "keys", f"expire within a week: {', '.join(soon)}")


def _data_dir(settings: Settings) -> Iterator[Finding]:
    path = Path(settings.data_dir).expanduser().absolute()
    if not path.exists():
        above = next(parent for parent in path.parents if parent.exists())
        if os.access(above, os.W_OK | os.X_OK):
            yield Finding("ok", "data", f"{path} is not there yet and can be made")
        else:
            yield Finding("bad", "data", f"{path} cannot be made: {above} is not writable for this user")
        return
    if not path.is_dir() or not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        yield Finding("bad", "data", f"{path} is no directory that this user can write; see --data-dir")
        return
    for name in foreign_files(path):
        yield Finding("bad", "data", f"{path / name} cannot be written by this user: whose is it?")
    if other := other_log(path, demo=settings.demo):
        yield Finding("bad", "data", f"{path} {other}")
    if path.stat().st_mode & 0o077:
        yield Finding("warn", "data", f"{path} is open to others; chmod 700 {path}")
    free = shutil.disk_usage(path).free
    level: Literal["ok", "warn"] = "ok" if free >= FEW_BYTES else "warn"
    yield Finding(level, "data", f"{path} is writable, {free >> 20:,} MiB are free on its disk")


def _validator(settings: Settings) -> Iterator[Finding]:
    if settings.demo:
        yield Finding("ok", "validator", "a simulated one (--demo)")
        return
    if settings.checkpoint and not settings.validator_dir:
        there = os.access(Path(settings.checkpoint).expanduser(), os.R_OK)
        yield Finding("ok" if there else "bad", "validator", f"checkpoint {settings.checkpoint}")
        return
    root = Path(settings.validator_dir or ".").expanduser().absolute()
    miners = root / "validation" / "miners"
    if not os.access(miners, os.R_OK | os.X_OK):
        sentence = f"{miners} is not there or not readable for this user; see --validator-dir"
        yield Finding("bad", "validator", sentence)
        return
    yield Finding("ok", "validator", f"{miners} has {len(os.listdir(miners)):,} miners")
    newest = max((entry.stat().st_mtime_ns // 1_000_000 for entry in os.scandir(miners)), default=0)
    if newest > wall_ms() + AHEAD_MS:
        yield Finding(
            "warn", "clock", "the validator's newest directory is from the future: whose clock is wrong?"
        )
    yield from _watches(miners)


def _watches(miners: Path) -> Iterator[Finding]:
    wanted = sum(1 for _ in os.walk(miners))
    allowed = _number("/proc/sys/fs/inotify/max_user_watches")
    if allowed is None:
        yield Finding("warn", "inotify", "this system does not say how many inotify watches it allows")
    elif allowed < wanted * 5 // 4:
        sentence = f"{wanted:,} watches are needed, {allowed:,} allowed; sysctl fs.inotify.max_user_watches"
        yield Finding("warn", "inotify", f"{sentence}={max(65_536, 2 * wanted)}")
    else:
        yield Finding("ok", "inotify", f"{wanted:,} watches are needed, {allowed:,} allowed")


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


# --- the system -------------------------------------------------------------------------------------------

OF_CLIENTS = {"PTN_API_KEY", "PTN_REST_URL", "PTN_WS_URL"}
"""Environment variables that are no settings of the server."""


def _environment(settings: Settings) -> Iterator[Finding]:
    known = {variable for _, _, variable, _, _ in describe()} | OF_CLIENTS
    for name in sorted(name for name in os.environ if name.startswith("PTN_") and name not in known):
        yield Finding("warn", "settings", f"the environment variable {name} means nothing here: misspelt?")


def _files(settings: Settings) -> Iterator[Finding]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or most >= FEW_FILES:
        yield Finding("ok", "files", "enough files may be open, one for each client")
    else:
        yield Finding("warn", "files", f"only {most} files may be open, one for each client; see ulimit -Hn")


def _clock(settings: Settings) -> Iterator[Finding]:
    if _synchronised():
        yield Finding("ok", "clock", "the kernel says that it is synchronised")
    else:
        sentence = "the kernel does not know it to be synchronised (NTP); what is shown late goes by it"
        yield Finding("warn", "clock", sentence)


def _synchronised() -> bool:
    """By adjtimex(2), asking only: mode 0 in a struct that is zero, 5 means that no clock is followed."""
    try:
        answer = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        return False
    return 0 <= int(answer) < 5


def _dependencies(settings: Settings) -> Iterator[Finding]:
    try:
        from ptn_api.process import service
    except ModuleNotFoundError as error:
        sentence = f"the server's dependencies are missing ({error.name}): pip install 'ptn-api[server]'"
        yield Finding("bad", "install", sentence)
    else:
        version = ".".join(map(str, sys.version_info[:3]))
        yield Finding(
            "ok", "install", f"{service.__name__.partition('.')[0]} with its server, Python {version}"
        )


CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _dependencies,
    _environment,
    _running,
    _tls,
    _keys,
    _data_dir,
    _validator,
    _files,
    _clock,
)
