"""`ptn keys`: the server's API keys, and who uses how much."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Annotated

import typer

from ptn_api.cli.time_arguments import moment_ms
from ptn_api.clock import wall_ms
from ptn_api.errors import PTNError, SettingsError

__all__ = ["keys_app", "length_ms"]

keys_app = typer.Typer(help="API keys of a server.", no_args_is_help=True)

KeysFile = Annotated[Path, typer.Option(help="The server's key file.", envvar="PTN_API_KEYS_FILE")]
DataDir = Annotated[
    Path, typer.Option(help="The server's data directory, for what was used.", envvar="PTN_DATA_DIR")
]
Expires = Annotated[
    str, typer.Option(help="How long it is good (90d, 12h, 30m), or until when (2027-01-01, UTC).")
]
KEYS_FILE = Path("ptn_api/api_keys.json")
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_LONGEST_MS = 36_525 * 86_400_000


@keys_app.command()
def add(
    user: str,
    tier: Annotated[int, typer.Option(help="0, 30, 50 or 100.")],
    expires: Expires = "",
    max_connections: Annotated[
        int | None, typer.Option(min=1, help="WebSocket connections; the server's default if not given.")
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="The server's default if not given.")
    ] = None,
    note: Annotated[str | None, typer.Option(help="Anything, for yourself.")] = None,
    api_keys_file: KeysFile = KEYS_FILE,
) -> None:
    """Add a user; the key is printed once and stored only as its hash."""
    from ptn_api.access import add_key
    from ptn_api.model.tiers import TIERS

    chosen = next((t for t in TIERS if t == tier), None)
    if chosen is None:
        raise typer.BadParameter("must be 0, 30, 50 or 100", param_hint="--tier")
    key = add_key(
        api_keys_file,
        user,
        chosen,
        expires_ms=_moment_ms(expires, "--expires"),
        max_connections=max_connections,
        requests_per_minute=requests_per_minute,
        note=note,
    )
    _print_key(f"Added {user} with tier {tier} to {api_keys_file}.", key, api_keys_file)


@keys_app.command()
def rotate(
    user: str,
    grace: Annotated[
        str, typer.Option(help="How long the old key is good yet: 7d, 12h; 0 ends all old ones now.")
    ] = "7d",
    expires: Expires = "",
    api_keys_file: KeysFile = KEYS_FILE,
) -> None:
    """Give a user a new key; the old one is good for a while yet."""
    from ptn_api.access import rotate_key

    key = rotate_key(
        api_keys_file,
        user,
        grace_ms=length_ms(grace, "--grace"),
        now_ms=wall_ms(),
        expires_ms=_moment_ms(expires, "--expires"),
    )
    old = "ends now" if length_ms(grace, "--grace") == 0 else f"is good for {grace} yet"
    _print_key(f"{user} has a new key; the old one {old}.", key, api_keys_file)


@keys_app.command()
def revoke(user: str, api_keys_file: KeysFile = KEYS_FILE) -> None:
    """Remove a user; open connections are closed within a second."""
    from ptn_api.access import revoke_key

    revoke_key(api_keys_file, user)
    typer.echo(f"Removed {user} from {api_keys_file}.", err=True)
    _warn(api_keys_file)


@keys_app.command("list")
def list_(api_keys_file: KeysFile = KEYS_FILE, data_dir: DataDir = Path(".ptn")) -> None:
    """Every key: user, tier, fingerprint, its end and when it was last used."""
    from ptn_api.access import parse_keys
    from ptn_api.access.usage import UsageFile
    from ptn_api.cli.table import print_rows, utc

    grants = parse_keys(_read(api_keys_file))
    unseen, seen = "never", dict[tuple[str, str], int]()
    try:
        seen = UsageFile(_existing(data_dir)).last_seen()
    except (sqlite3.Error, PTNError) as error:
        typer.echo(f"ptn: when keys were last used cannot be read: {error}", err=True)
        unseen = "unknown"
    rows = [
        (
            grant.alias,
            str(grant.tier),
            print_,
            utc(grant.expires_ms) or "never",
            utc(seen.get((grant.alias, print_))) or unseen,
        )
        for grant in grants
        for print_ in [grant.digest.hex()[:8]]
    ]
    print_rows(("user", "tier", "fingerprint", "expires", "last seen"), rows)
    _warn(api_keys_file)


@keys_app.command()
def check(api_keys_file: KeysFile = KEYS_FILE) -> None:
    """Find every problem of the key file; exit status 1 if there is one."""
    from ptn_api.access import check_keys, exposed_to, parse_keys

    content = _read(api_keys_file)
    problems = [f"{api_keys_file}:{line}: {sentence}" for line, sentence in check_keys(content)]
    if danger := exposed_to(api_keys_file):
        problems.append(f"{api_keys_file}: {danger}")
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise typer.Exit(1)
    typer.echo(f"{api_keys_file}: {len(parse_keys(content))} keys, no problem")


@keys_app.command()
def usage(
    days: Annotated[int, typer.Option(min=1, help="How many days, today included.")] = 30,
    data_dir: DataDir = Path(".ptn"),
) -> None:
    """Requests, bytes and stream messages by user and day (UTC)."""
    from ptn_api.access.usage import UsageFile, day_of
    from ptn_api.cli.table import print_rows

    since = day_of(wall_ms() - (days - 1) * 86_400_000)
    totals: dict[tuple[str, str], list[int]] = {}
    try:
        for row in UsageFile(_existing(data_dir)).read(since_day=since):
            total = totals.setdefault((row.alias, row.day), [0, 0, 0])
            for n, amount in enumerate((row.requests, row.sent_bytes, row.messages)):
                total[n] += amount
    except sqlite3.Error as error:
        raise PTNError(f"what was used cannot be read: {error}") from None
    rows = [(alias, day, *map(str, total)) for (alias, day), total in totals.items()]
    print_rows(("user", "day", "requests", "bytes", "messages"), rows)


# --- words in, words out ----------------------------------------------------------------------------------


def length_ms(text: str, flag: str) -> int:
    """`90d`, `12h`, `30m`, `10s`, `2w` or 0."""
    match = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    length = int(match[1]) * _UNITS_MS[match[2]] if match else 0
    if length > _LONGEST_MS:
        raise typer.BadParameter(f"{text} is over 100 years", param_hint=flag)
    if match or text == "0":
        return length
    raise typer.BadParameter(f"{text!r} is no length of time like 90d, 12h or 30m", param_hint=flag)


def _moment_ms(text: str, flag: str) -> int | None:
    if not text:
        return None
    now_ms = wall_ms()
    if re.fullmatch(r"\d+[smhdw]", text):
        return now_ms + length_ms(text, flag)
    try:
        until_ms = moment_ms(text)
    except SettingsError:
        message = f"{text!r} is neither a length like 90d nor a time like 2027-01-01T00:00:00Z"
        raise typer.BadParameter(message, param_hint=flag) from None
    if until_ms is None or until_ms <= now_ms:
        raise typer.BadParameter(f"{text} is over already", param_hint=flag)
    return until_ms


def _existing(data_dir: Path) -> Path:
    """Raises SettingsError for a data directory that is not there: no server has counted anything in it."""
    if not data_dir.is_dir():
        raise SettingsError(f"there is no data directory {data_dir}; give the server's with --data-dir")
    return data_dir


def _read(path: Path) -> bytes:
    from ptn_api.access import read_key_file
    from ptn_api.errors import KeyFileError

    try:
        return read_key_file(path)
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from None


def _print_key(sentence: str, key: str, path: Path) -> None:
    """The key alone on standard output."""
    typer.echo(f"{sentence} The key is not shown again:", err=True)
    typer.echo(key)
    _warn(path)


def _warn(path: Path) -> None:
    from ptn_api.access import exposed_to

    if danger := exposed_to(path):
        typer.echo(f"ptn: warning: {danger}; chmod o-rw {path}", err=True)
