"""`ptn doctor`: checks of a server's prerequisites, each with a remedy. Changes nothing."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import resource
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import httpx
import msgspec

from ptn_api.access import (
    check_keys,
    exposed_to,
    key_file_places,
    load_key_file,
    missing_key_file,
    short_keys,
)
from ptn_api.access.address import is_loopback, url_host
from ptn_api.clock import wall_ms
from ptn_api.cluster.options import shared_key_file
from ptn_api.errors import InvalidInputError, LogError, LogMissingError, PTNError, SettingsError
from ptn_api.file_version import mount_of, owner_of
from ptn_api.problems import PROBLEMS
from ptn_api.process.certificate import Certificate
from ptn_api.process.data_dir import DEMO_KEYS, foreign_files, nearby_validator, other_log
from ptn_api.process.settings import Settings, unknown_variables
from ptn_api.summary import counted, wrapped
from ptn_api.wire.about import Health

__all__ = ["CHECKS", "Finding", "check_event_log", "diagnose"]

FEW_BYTES = 1 << 30
FEW_FILES = 4_096
FEW_MEMORY_BYTES = 1_000_000_000
MOST_OPENED = 20_000
"""The largest number of files to open, to see whether this user can read them."""
RUN_AS = "run the service, and this command, as the user they belong to:"
EXPIRY_WARNING_MS = 7 * 86_400_000
CLOCK_TOLERANCE_MS = 60_000
_TIMEOUT_S = 2
MOST_NAMED = 100
"""Damaged parts of the log that are named."""
MOST_PARSED = 5_000
"""Position files that are read as intake does, the others are only opened."""
WITHOUT_EVENTS = re.compile(
    r"nfs\d?|cifs|smb3?|9p|virtiofs|fuse(\..*|blk)?|sshfs|ceph|glusterfs|lustre|afs|gpfs|beegfs"
)
"""Kinds of file systems that do not tell of changes made elsewhere."""


class Finding(NamedTuple):
    """`bad`: the server cannot work; `warn`: it works, but the operator should look."""

    level: Literal["ok", "warn", "bad"]
    topic: str
    sentence: str


Check = Callable[[Settings], Iterator[Finding]]
CHECKS: list[Check] = []
"""All checks, in the order of the report."""


def check(function: Check) -> Check:
    """Adds a check to the report."""
    CHECKS.append(function)
    return function


def runs(settings: Settings, *processes: str) -> bool:
    """Whether this machine runs one of these processes; in a cluster, it may not."""
    with contextlib.suppress(SettingsError):  # which another check reports
        return not {*processes}.isdisjoint(settings.chosen_processes())
    return True


def diagnose(settings: Settings) -> int:
    """Prints all findings; returns 1 if one of them is bad."""
    return _report([finding for check in CHECKS for finding in check(settings)])


def check_event_log(settings: Settings) -> int:
    """Reads the whole log and prints what is damaged; returns 1 if anything is, or if it cannot be read."""
    return _report([*_check_event_log(Path(settings.data_dir).expanduser().absolute())])


def _check_event_log(path: Path) -> Iterator[Finding]:
    from ptn_api.event_log import open_reader

    unusable = "Stop the server, move log.sqlite3* away (or restore a backup), and start it again"
    try:
        with contextlib.closing(open_reader(path)) as log:
            damaged = log.find_damage()
            head, floor = log.head(), log.floor()
    except LogMissingError as error:
        yield Finding("bad", "log", str(error))
        return
    except LogError as error:
        yield Finding("bad", "log", f"{path}: {error}. {unusable}")
        return
    remedies = {
        "": unusable,
        "log": unusable,
        "events": "Clients are told of a gap until it is pruned",
        "removed_orders": "Messages of dropped orders are left out until they are pruned",
    }
    for damage in damaged[:MOST_NAMED]:
        if damage == ("log", ("source",)):
            yield Finding("bad", "log", "damaged: the status of the source. The next sweep writes it again")
            continue
        remedy = remedies.get(damage.table, "A running server writes it again from the validator's files")
        yield Finding("bad", "log", f"damaged: {damage.table or 'file'} {damage.label}. {remedy}")
    if damaged:
        yield Finding("bad", "log", f"{len(damaged):,} parts are damaged; check the disk and the memory")
    else:
        events = head.sequence - floor + 1
        yield Finding("ok", "log", f"{path} is intact, with {events:,} events up to sequence {head.sequence}")


def _report(findings: list[Finding]) -> int:
    for level, topic, sentence in findings:
        first = f"{level:<4}  {topic:<10}  "
        print(wrapped(sentence, sys.stdout, first=first, indent=" " * len(first)))
    return 1 if any(finding.level == "bad" for finding in findings) else 0


# --- the installation -------------------------------------------------------------------------------------


@check
def dependencies(settings: Settings) -> Iterator[Finding]:
    try:
        from ptn_api.process import service
    except ModuleNotFoundError as error:
        sentence = (
            f"the server's dependencies are missing ({error.name}): in the checkout, pip install '.[server]'"
        )
        yield Finding("bad", "install", sentence)
    else:
        package, version = service.__name__.partition(".")[0], ".".join(map(str, sys.version_info[:3]))
        yield Finding("ok", "install", f"{package} with its server, Python {version}")


@check
def environment(settings: Settings) -> Iterator[Finding]:
    for name in unknown_variables():
        yield Finding("warn", "settings", f"unknown environment variable {name}: is it misspelt?")
    try:
        settings.check()
    except SettingsError as error:
        yield Finding("bad", "settings", str(error))


# --- the running server -----------------------------------------------------------------------------------


@check
def running_server(settings: Settings) -> Iterator[Finding]:
    path = Path(settings.data_dir).expanduser().absolute()
    epoch: str | None = None
    try:
        from ptn_api.event_log import open_reader

        with contextlib.closing(open_reader(path)) as log:
            epoch = log.epoch
    except LogMissingError:
        epoch = ""
    except (ModuleNotFoundError, LogError, OSError):
        pass  # unknown; the other checks report those
    health = _health(settings, epoch or "")
    if health is None:
        return
    # Without a log there, its server can only be starting. Where the log cannot be read, nothing is claimed.
    is_ours = not (health.log.ready if epoch == "" else health.log.epoch_matches is False)
    if not is_ours:
        sentence = f"port {settings.api_rest_port} is another server's, not that of {path}"
        if holder := holder_of(settings.api_rest_port):
            sentence += f"; it belongs to {holder}"
        yield Finding("bad", "server", sentence)
    for code in health.problems:
        problem = PROBLEMS.get(code)  # type: ignore[call-overload]  # a newer server has other codes
        level: Literal["warn", "bad"] = "warn" if problem and problem.severity != "unavailable" else "bad"
        count = health.details[code].count if code in health.details else None
        number = f" ({counted(count, problem.counted)})" if problem and problem.counted and count else ""
        text = "see the server's documentation"
        if problem:
            remedy = problem.remedy_for(cluster=health.cluster is not None, data_dir=str(path))
            text = f"{problem.sentence}{number}. {remedy}"
        yield Finding(level, "server", f"{code}: {text.replace('`', '')}")
    down = [name for name, state in health.processes.items() if state == "down"]
    if down:
        yield Finding("bad", "server", f"down: {', '.join(down)}")
    if is_ours and not health.problems:
        yield Finding("ok", "server", "running, and reports that all is well")


def holder_of(port: int) -> str:
    """In words, which user and process listen on the port; empty if that is unknown."""
    try:
        from ptn_api.process.service import port_holder
    except ModuleNotFoundError:  # the first check reports it
        return ""
    return port_holder(port)


def _health(settings: Settings, epoch: str = "") -> Health | None:
    """The answer of the running server to /health; None if it does not answer."""
    scheme = "https" if settings.tls_cert else "http"
    try:
        # The certificate is for another name, and nothing here is secret: no verification. A proxy from the
        # environment is for other hosts.
        response = httpx.get(
            f"{scheme}://{url_host(settings.api_host)}:{settings.api_rest_port}/health",
            params={"epoch": epoch} if epoch else None,
            timeout=_TIMEOUT_S,
            verify=False,  # noqa: S501
            trust_env=False,
        )
        return msgspec.json.decode(response.content, type=Health)
    except (httpx.HTTPError, ValueError):
        return None


@check
def ports(settings: Settings) -> Iterator[Finding]:
    """Checks that the ports are free, unless a server is running."""
    if _health(settings) is not None:
        return
    ws_host_flag = "--api-ws-host" if settings.api_ws_host else "--api-host"
    wanted = [("127.0.0.1", max(settings.metrics_port, 0), "", "--metrics-port")]
    if runs(settings, "rest"):
        wanted.append((settings.api_host, settings.api_rest_port, "--api-host", "--api-rest-port"))
    if runs(settings, "stream"):
        ws_host = settings.api_ws_host or settings.api_host
        wanted.append((ws_host, settings.api_ws_port, ws_host_flag, "--api-ws-port"))
    all_free = True
    for host, port, host_flag, port_flag in wanted:
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family, socket.SOCK_STREAM) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((host, port))
                listener.listen(1)  # with SO_REUSEADDR, bind succeeds on a port in use; listen does not
        except OSError as error:
            all_free = False
            flag = port_flag if error.errno in (errno.EADDRINUSE, errno.EACCES) else host_flag
            sentence = f"{host} port {port}: {error.strerror}"
            if error.errno == errno.EADDRINUSE:
                sentence += f" by {holder}" if (holder := holder_of(port)) else ""
            yield Finding("bad", "ports", f"{sentence}; choose another with {flag}")
    if all_free:
        yield Finding("ok", "ports", "no server is running, and the ports are free")


# --- the cluster ------------------------------------------------------------------------------------------


@check
def cluster(settings: Settings) -> Iterator[Finding]:
    """Checks the servers, the credentials and this machine's copy, if it shares its log with others."""
    options = settings.cluster_options
    try:
        writes = "intake" in settings.chosen_processes()
        options.check()
    except SettingsError as error:
        yield Finding("bad", "cluster", str(error))
        return
    if not options.servers:
        return
    try:
        from ptn_api.cli.cluster import without_log_lines
        from ptn_api.cluster.survey import survey
    except ModuleNotFoundError as error:
        if str(error.name).startswith("ptn_api"):
            raise
        missing = f"the cluster's dependencies are missing ({error.name})"
        sentence = f"{missing}: in the checkout, pip install '.[cluster]'"
        yield Finding("bad", "cluster", sentence)
        return
    try:
        data_dir = Path(settings.data_dir).expanduser().absolute()
        with without_log_lines():
            for level, sentence in survey(options, data_dir, writes=writes):
                yield Finding(level, "cluster", sentence)
    except SettingsError as error:
        yield Finding("bad", "cluster", str(error))


# --- files ------------------------------------------------------------------------------------------------


@check
def tls(settings: Settings) -> Iterator[Finding]:
    if not runs(settings, "rest", "stream"):
        return
    hosts = (settings.api_host, settings.api_ws_host or settings.api_host)
    if settings.tls_cert and settings.tls_key:
        try:
            Certificate(Path(settings.tls_cert).expanduser(), Path(settings.tls_key).expanduser())
        except SettingsError as error:
            yield Finding("bad", "tls", str(error))
        else:
            yield Finding("ok", "tls", f"{settings.tls_cert} and its key are usable")
    elif settings.tls_cert or settings.tls_key:
        yield Finding("bad", "tls", "--tls-cert and --tls-key belong together: give both")
    elif not all(is_loopback(host) for host in hosts):
        sentence = "it listens beyond this machine without TLS: make sure that only a proxy can reach it"
        yield Finding("warn", "tls", sentence)


@check
def keys(settings: Settings) -> Iterator[Finding]:
    if not runs(settings, "rest", "stream"):
        return
    places = key_file_places(settings.validator_dir)
    if settings.demo:
        places = [Path(settings.data_dir).expanduser().absolute() / DEMO_KEYS]
    if settings.api_keys_file:
        places = [Path(settings.api_keys_file).expanduser().absolute()]
    is_shared, add = settings.cluster_options.cluster_keys, "`ptn keys add` creates it"
    if is_shared:
        if settings.api_keys_file:
            yield Finding("bad", "keys", "give --cluster-keys or --api-keys-file, not both")
        places = [shared_key_file(Path(settings.data_dir).expanduser().absolute())]
        add = "`ptn keys add --cluster` adds one, and this machine has a copy"
    path = next((place for place in places if os.path.exists(place)), places[0])
    try:
        content, parsed = load_key_file(path)
    except FileNotFoundError:
        if settings.demo:
            yield Finding("ok", "keys", "the demo creates its own")
            return
        yield Finding("warn", "keys", f"{missing_key_file(places)}; all requests get 401 until {add}")
        return
    except OSError as error:
        yield Finding("bad", "keys", f"{path} cannot be read: {error.strerror}")
        return
    except PTNError as error:
        yield Finding("bad", "keys", str(error))
        return
    for line, sentence in check_keys(content):
        yield Finding("warn", "keys", f"{path}:{line}: {sentence}")
    for sentence in short_keys(parsed.grants):
        yield Finding("warn", "keys", f"{path}: {sentence}")
    if danger := exposed_to(path):
        yield Finding("warn", "keys", f"{danger}; chmod o-rw {path}")
    detached = PROBLEMS["key_file_detached"]
    if path.stat().st_nlink == 0:
        yield Finding("bad", "keys", f"{path}: {detached.sentence}. {detached.remedy}")
    elif mount_of(path)[0] == str(path.resolve()):
        sentence = (
            "is mounted as a single file: if it is replaced outside, the server does not see the new one"
        )
        yield Finding("warn", "keys", f"{path} {sentence}; mount its folder instead")
    grants, now_ms = parsed.grants, wall_ms()
    expiring = [(grant.alias, grant.expires_ms - now_ms) for grant in grants if grant.expires_ms is not None]
    expired = [alias for alias, left_ms in expiring if left_ms <= 0]
    soon = [alias for alias, left_ms in expiring if 0 < left_ms < EXPIRY_WARNING_MS]
    valid = len(grants) - len(expired)
    are = "is" if valid == 1 else "are"
    yield Finding("ok", "keys", f"{counted(valid, 'keys')} in {path} {are} valid")
    if expired:
        yield Finding("warn", "keys", f"expired: {', '.join(expired)}")
    if soon:
        yield Finding("warn", "keys", f"expire within a week: {', '.join(soon)}")


@check
def data_dir(settings: Settings) -> Iterator[Finding]:
    path = Path(settings.data_dir).expanduser().absolute()
    if not path.exists():
        parent = next(parent for parent in path.parents if parent.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            yield Finding("ok", "data", f"{path} does not exist yet and can be created")
        else:
            yield Finding("bad", "data", f"{path} cannot be created: this user cannot write {parent}")
        return
    if not path.is_dir() or not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        yield Finding("bad", "data", f"{path} is not a directory that this user can write; see --data-dir")
        return
    for name in foreign_files(path):
        yield Finding(
            "bad", "data", f"this user cannot write {path / name}: did another user start a server?"
        )
    if other := other_log(path, demo=settings.demo):
        yield Finding("bad", "data", f"{path} {other}")
    if path.stat().st_mode & 0o077:
        yield Finding("warn", "data", f"other users can access {path}; chmod 700 {path}")
    free = shutil.disk_usage(path).free
    level: Literal["ok", "warn"] = "ok" if free >= FEW_BYTES else "warn"
    yield Finding(level, "data", f"{path} is writable, with {free >> 20:,} MiB free on its disk")


@check
def log_of_another(settings: Settings) -> Iterator[Finding]:
    """Checks that the log is this validator's, as intake does when it starts."""
    if settings.demo or (settings.checkpoint and not settings.validator_dir) or not runs(settings, "intake"):
        return
    path = Path(settings.data_dir).expanduser().absolute()
    with contextlib.suppress(ModuleNotFoundError, LogError, OSError):  # which other checks report
        from ptn_api.event_log import open_reader
        from ptn_api.intake.directory import other_validator

        with contextlib.closing(open_reader(path)) as log:
            if foreign := other_validator(log, path, _miners_dir(settings).parents[1]):
                yield Finding("bad", "data", foreign)


def _miners_dir(settings: Settings) -> Path:
    return Path(settings.validator_dir or ".").expanduser().absolute() / "validation" / "miners"


def _files_below(miners: Path) -> Iterator[Path]:
    """Yields all files, and in the end the folders that cannot be listed."""
    locked: list[Path] = []
    for folder, _, names in os.walk(miners, onerror=lambda error: locked.append(Path(error.filename))):
        yield from (Path(folder, name) for name in names)
    yield from locked


def _is_locked(path: Path) -> bool:
    """Returns whether this user may not read the file. Tries it: a container may forbid more."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:  # moved or removed meanwhile, for example
        return isinstance(error, PermissionError)
    return False


@check
def validator(settings: Settings) -> Iterator[Finding]:
    if not runs(settings, "intake"):
        return
    if settings.demo:
        yield Finding("ok", "validator", "simulated (--demo)")
        return
    if settings.checkpoint and not settings.validator_dir:
        yield from _checkpoint(settings.checkpoint)
        return
    miners = _miners_dir(settings)
    try:
        changed_ms = [entry.stat().st_mtime_ns // 1_000_000 for entry in os.scandir(miners)]
    except PermissionError:
        yield Finding("bad", "validator", f"{miners} cannot be read; {RUN_AS} {owner_of(miners)}")
        return
    except OSError as error:
        meant = nearby_validator(miners.parent.parent)
        yield Finding("bad", "validator", f"{miners}: {error.strerror}; see --validator-dir{meant}")
        return
    yield Finding("ok", "validator", f"{miners} has {len(changed_ms):,} miners")
    root = miners.parent.parent
    documents = [file for folder in ("validation", "runnable") for file in root.glob(f"{folder}/*.*")]
    for what, files in (("files of miners", _files_below(miners)), ("documents", documents)):
        opened = list(islice(files, MOST_OPENED))
        if locked := [file for file in opened if _is_locked(file)]:
            share = f"{len(locked):,} of {len(opened):,} {what}"
            yield Finding("bad", "validator", f"{share} cannot be read; {RUN_AS} {owner_of(locked[0])}")
    yield from _refused_files(miners)
    if max(changed_ms, default=0) > wall_ms() + CLOCK_TOLERANCE_MS:
        sentence = "the validator's newest directory has a time in the future: which clock is wrong?"
        yield Finding("warn", "clock", sentence)


def _checkpoint(path: str) -> Iterator[Finding]:
    """Reads the checkpoint as a first start does."""
    try:
        from ptn_api.cli.cluster import without_log_lines
        from ptn_api.event_log.contract import PositionWritten
        from ptn_api.intake.checkpoint import read_checkpoint
    except ModuleNotFoundError:  # the first check reports it
        return

    try:
        with without_log_lines():
            positions = sum(isinstance(change, PositionWritten) for change in read_checkpoint(Path(path)))
    except InvalidInputError as error:
        yield Finding("bad", "validator", f"--checkpoint {path} cannot be used: {error}")
        return
    yield Finding("ok", "validator", f"checkpoint {path} is usable, with {counted(positions, 'positions')}")


def _refused_files(miners: Path) -> Iterator[Finding]:
    """Reads position files as intake does; those that are out of reach are reported before."""
    try:
        from ptn_api.intake.files import read_file
        from ptn_api.intake.options import IntakeSettings
        from ptn_api.intake.position_files import parse_file
    except ModuleNotFoundError:  # the first check reports it
        return

    files = list(islice(miners.glob("*/positions/*/*/*"), MOST_PARSED))
    limit = IntakeSettings().position_limit_bytes
    refused: list[str] = []
    for file in files:
        problems: list[str] = []
        with contextlib.suppress(OSError):  # moved meanwhile
            try:
                parse_file(read_file(str(file), limit)[0], (file.parents[3].name, file.name), problems)
            except InvalidInputError as error:
                problems += [str(error)] if error.code != "unreadable" else []
        refused += [f"{file}: {problem}" for problem in problems[:1]]
    if refused:
        count = f"{len(refused):,} of {len(files):,} position files are refused, or a part of them"
        yield Finding("warn", "validator", f"{count}; the first is {refused[0]}")


@check
def file_system(settings: Settings) -> Iterator[Finding]:
    """Looks at the kind of file system: some never tell of an order."""
    miners = _miners_dir(settings)
    simulated = settings.demo or (settings.checkpoint and not settings.validator_dir)
    if simulated or not runs(settings, "intake") or not os.path.isdir(miners):
        return
    place, kind = mount_of(miners)
    if WITHOUT_EVENTS.fullmatch(kind):
        problem = PROBLEMS["events_missing"]
        sentence = f"{place} is a {kind} file system, which tells nothing of changes made on other machines"
        yield Finding("warn", "validator", f"{sentence}: orders come up to seconds late. {problem.remedy}")


@check
def inotify(settings: Settings) -> Iterator[Finding]:
    """Checks the limit on watches: intake watches every directory below a miner's."""
    miners = _miners_dir(settings)
    simulated = settings.demo or (settings.checkpoint and not settings.validator_dir)
    if simulated or not runs(settings, "intake") or not os.path.isdir(miners):
        return
    needed = sum(1 for _ in os.walk(miners))
    try:
        allowed = int(Path("/proc/sys/fs/inotify/max_user_watches").read_text())
    except (OSError, ValueError):
        yield Finding("warn", "inotify", "the number of allowed inotify watches is unknown")
        return
    if allowed < needed * 5 // 4:
        sentence = f"{needed:,} watches are needed, {allowed:,} allowed; sysctl fs.inotify.max_user_watches"
        yield Finding("warn", "inotify", f"{sentence}={max(65_536, 2 * needed)}")
    else:
        yield Finding("ok", "inotify", f"{needed:,} watches are needed, {allowed:,} allowed")


# --- the system -------------------------------------------------------------------------------------------


@check
def open_files(settings: Settings) -> Iterator[Finding]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or most >= FEW_FILES:
        yield Finding("ok", "files", "enough open files are allowed, one per client")
    else:
        yield Finding("warn", "files", f"only {most} open files are allowed, one per client; see ulimit -Hn")


@check
def memory(settings: Settings) -> Iterator[Finding]:
    """Compares the memory that the server may have with what a validator of the network needs."""
    from ptn_api.process.memory import memory_uses

    uses = memory_uses({"server": os.getpid()}, settings.memory_limit_bytes)
    least = min(uses, key=lambda use: use.limit_bytes, default=None)
    if least is None:
        yield Finding("ok", "memory", "neither a cgroup nor ulimit -v limits the memory")
        return
    level: Literal["ok", "warn"] = "warn" if least.limit_bytes < FEW_MEMORY_BYTES else "ok"
    sentence = f"limited to {least.limit_bytes >> 20:,} MiB ({least.limit.replace('_', ' ')})"
    yield Finding(level, "memory", f"{sentence}; a server of all miners needs about 1 GiB")


@check
def clock(settings: Settings) -> Iterator[Finding]:
    try:
        # adjtimex(2) with a zeroed struct (mode 0) only reads. TIME_ERROR is 5.
        state = int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)))
    except (OSError, AttributeError):  # not Linux
        state = -1
    if 0 <= state < 5:
        yield Finding("ok", "clock", "the kernel reports it as synchronised")
    else:
        sentence = "not synchronised (NTP), as far as the kernel knows; delayed tiers depend on it"
        yield Finding("warn", "clock", sentence)
