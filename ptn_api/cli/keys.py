"""`ptn keys`: the server's API keys and their use, in a file or shared by the machines of a cluster."""

from __future__ import annotations

import contextlib
import inspect
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptn_api.cli.cluster import connected
from ptn_api.cli.row_options import View, prints_rows
from ptn_api.cli.settings_options import Command, CommandGroup
from ptn_api.cli.time_arguments import duration_ms, expiry_ms
from ptn_api.clock import wall_ms
from ptn_api.cluster.options import ClusterOptions
from ptn_api.errors import PTNError, SettingsError
from ptn_api.file_version import owner_of
from ptn_api.process.settings import SETTINGS
from ptn_api.summary import counted

if TYPE_CHECKING:
    from ptn_api.access import KeyFileContent, KeyStore
    from ptn_api.access.usage import UsageRow

__all__ = ["keys_app"]

keys_app = typer.Typer(cls=CommandGroup, help="Manage the server's API keys.", no_args_is_help=True)

DATA_DIR = Path(SETTINGS["data_dir"].default)
User = Annotated[str, typer.Argument(help="The user's name in the key file.")]
KeysFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The server's key file (default: as `ptn serve` finds it, see --validator-dir).",
        envvar=SETTINGS["api_keys_file"].variable,
    ),
]
ValidatorDir = Annotated[
    str,
    typer.Option(
        metavar="DIR",
        help="Look for vanta_api/api_keys.json and ptn_api/api_keys.json in this directory, after "
        "ptn_api/api_keys.json in the current one (default: the current directory).",
        envvar=SETTINGS["validator_dir"].variable,
    ),
]
DataDir = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        help="The server's data directory, which holds the usage records.",
        envvar=SETTINGS["data_dir"].variable,
    ),
]
Expires = Annotated[
    str,
    typer.Option(
        metavar="TIME", help="Expire the new key after this long (90d, 12h, 30m) or at this time (UTC)."
    ),
]
NewKeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write the new key to this new file, which only you can read, instead of printing it.",
    ),
]
Cluster = Annotated[
    str,
    typer.Option(
        metavar="URLS",
        help="Use what the machines of the cluster with these NATS servers share, instead of this machine's "
        f"(default: {SETTINGS['cluster'].variable} if {SETTINGS['cluster_keys'].variable} is true).",
    ),
]


class _Keys:
    """The keys that the options choose: those of a file, or of a cluster."""

    def __init__(self, api_keys_file: Path | None, validator_dir: str, cluster: str, **others: str) -> None:
        """`others` are further options of the cluster. Raises SettingsError."""
        from ptn_api.access import find_key_file, key_file_places

        self.cluster = _chosen_cluster(cluster, **others)
        if self.cluster and api_keys_file:
            raise SettingsError("the cluster's keys or those of --api-keys-file: give only one of them")
        self.places = [api_keys_file] if api_keys_file else key_file_places(validator_dir)
        """Where the file may be."""
        self.path = api_keys_file or find_key_file(validator_dir) or self.places[0]

    def __str__(self) -> str:
        return f"the cluster {self.cluster.cluster_name}" if self.cluster else str(self.path)

    @contextlib.contextmanager
    def store(self) -> Iterator[Path | KeyStore]:
        """Where to change them. Raises SettingsError if the file is missing and not to be created."""
        if self.cluster is None:
            from ptn_api.access import missing_key_file
            from ptn_api.errors import KeyFileError

            try:
                yield self.path
            except KeyFileError as error:
                if error.code != "no_file":
                    raise
                raise SettingsError(
                    f"{missing_key_file(self.places)} (see --api-keys-file)", code="no_file"
                ) from None
            return
        with connected(self.cluster) as broker:
            from ptn_api.cluster.key_copy import SharedKeyStore

            yield SharedKeyStore(broker)

    def read(self) -> bytes:
        """Their content, as of a key file. Raises SettingsError if the file is missing."""
        if self.cluster is None:
            return _read_keys(self.path, self.places)
        import json

        from ptn_api.cluster.key_copy import read_shared_keys

        with connected(self.cluster) as broker:
            return json.dumps(read_shared_keys(broker)).encode()

    def parsed(self) -> KeyFileContent:
        """The keys themselves, and the problems of their entries. Raises KeyFileError with the path."""
        from ptn_api.access import parse_keys
        from ptn_api.errors import KeyFileError

        try:
            return parse_keys(self.read())
        except KeyFileError as error:
            raise KeyFileError(f"{self}: {error}", code=error.code) from None

    def warn_if_exposed(self) -> None:
        from ptn_api.access import exposed_to

        if self.cluster is None and (danger := exposed_to(self.path)):
            remedy = (
                f"chown --reference={self.path.resolve().parent}" if "belongs to" in danger else "chmod o-rw"
            )
            typer.echo(f"ptn: warning: {danger}; {remedy} {self.path}", err=True)

    @contextlib.contextmanager
    def new_key(self, file: Path | None) -> Iterator[Callable[[str, str], None]]:
        """Yields what hands over a new key after a sentence about it: in this file, or on standard output.

        Everything else is printed on standard error. Raises SettingsError, before any key is changed, if the
        file cannot be written or has content already, such as another key.
        """
        if file is None:

            def hand_over(sentence: str, key: str) -> None:
                typer.echo(f"{sentence} The key is not shown again:", err=True)
                typer.echo(key)
                self.warn_if_exposed()

            yield hand_over
            return
        if file.exists() and not (file.is_file() and file.stat().st_size == 0):
            raise SettingsError(f"--key-file {file} exists already: choose another file, or remove it")
        try:
            handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".key-")  # mode 0600
        except OSError as error:
            raise SettingsError(f"--key-file {file} cannot be written: {error.strerror}") from None

        def keep(sentence: str, key: str) -> None:
            os.write(handle, f"{key}\n".encode())
            os.replace(temporary, file)
            typer.echo(f"{sentence} The key is in {file}.", err=True)
            self.warn_if_exposed()

        try:
            yield keep
        finally:
            os.close(handle)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def _chosen_cluster(
    cluster: str, cluster_name: str, cluster_credentials: str, cluster_ca: str
) -> ClusterOptions | None:
    """The cluster of the options, or of the environment if its server uses the cluster's keys."""
    shared = SETTINGS["cluster_keys"]
    if not cluster:
        if not shared.convert(os.environ.get(shared.variable, "false"), shared.variable):
            return None
        cluster = os.environ.get(SETTINGS["cluster"].variable, "")
    return ClusterOptions(
        cluster=cluster,
        cluster_name=cluster_name,
        cluster_credentials=cluster_credentials,
        cluster_ca=cluster_ca,
    )


def _with(choose: Callable[..., object]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options that `choose` takes, and its result as the first argument."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        first, *own = inspect.signature(command, eval_str=True).parameters.values()
        names = [name for name in _OPTIONS if choose is _Keys or name.startswith("cluster")]

        def run(**values: Any) -> None:
            chosen = choose(**{name: values.pop(name) for name in names})
            command(**{first.name: chosen}, **values)

        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for name, (kind, default) in _OPTIONS.items()
            if name in names
        ]
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        run.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *added]}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def _option_of(name: str) -> Any:
    setting = SETTINGS[name]
    return Annotated[
        str,
        typer.Option(
            setting.flag, metavar=setting.unit, help=f"{setting.description}.", envvar=setting.variable
        ),
    ]


_OPTIONS: dict[str, tuple[Any, Any]] = {
    "api_keys_file": (KeysFile, None),
    "validator_dir": (ValidatorDir, ""),
    "cluster": (Cluster, ""),
    "cluster_name": (_option_of("cluster_name"), SETTINGS["cluster_name"].default),
    "cluster_credentials": (_option_of("cluster_credentials"), ""),
    "cluster_ca": (_option_of("cluster_ca"), ""),
}


@keys_app.command(cls=Command)
@_with(_Keys)
def add(
    keys: _Keys,
    user: User,
    tier: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="TIER",
            help="Grant this tier: 0 = all positions 24 hours late, 30 or 50 = that percentage of them live, "
            "100 = everything live, and WebSocket, 200 = entities as well, without a limit of connections. "
            "Other numbers count as the next lower tier.",
        ),
    ],
    expires: Expires = "",
    max_connections: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Allow this many WebSocket connections (default: the server's limit)."
        ),
    ] = None,
    requests_per_minute: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Allow this many requests per minute (default: the server's limit)."
        ),
    ] = None,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="Store this note with the key.")] = None,
    key_file: NewKeyFile = None,
) -> None:
    """Add a user. The new key is printed once, or written to --key-file; only its hash is stored."""
    from ptn_api.access import add_key

    path, expires_ms = keys.path, expiry_ms(expires, wall_ms(), "--expires")
    created = keys.cluster is None and not path.exists()
    tier = int(tier) if tier.is_integer() else tier
    with keys.new_key(key_file) as hand_over:
        with keys.store() as store:
            key = add_key(
                store,
                user,
                tier,
                expires_ms=expires_ms,
                max_connections=max_connections,
                requests_per_minute=requests_per_minute,
                note=note,
            )
        if created and path.stat().st_uid != getattr(os, "geteuid", lambda: 0)():  # with sudo, for a service
            typer.echo(f"Created {path}, which belongs to {owner_of(path)}.", err=True)
        hand_over(f"Added {user} with tier {tier} to {keys}.", key)


@keys_app.command(cls=Command)
@_with(_Keys)
def rotate(
    keys: _Keys,
    user: User,
    grace: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="Keep the old key valid for this long (7d, 12h); 0 revokes it now."
        ),
    ] = "7d",
    expires: Expires = "",
    key_file: NewKeyFile = None,
) -> None:
    """Give a user a new key. The old one stays valid for a while (--grace)."""
    from ptn_api.access import rotate_key

    now_ms, grace_ms = wall_ms(), duration_ms(grace, "--grace")
    expires_ms = expiry_ms(expires, now_ms, "--expires")
    with keys.new_key(key_file) as hand_over:
        with keys.store() as store:
            key = rotate_key(store, user, grace_ms=grace_ms, now_ms=now_ms, expires_ms=expires_ms)
        old = f"stays valid for {grace}" if grace_ms else "is revoked"
        hand_over(f"{user} has a new key; the old one {old}.", key)


@keys_app.command(cls=Command)
@_with(_Keys)
def revoke(keys: _Keys, user: User) -> None:
    """Remove a user and all the user's keys. Open connections are closed within a second."""
    from ptn_api.access import revoke_key

    with keys.store() as store:
        revoke_key(store, user)
    typer.echo(f"Removed {user} from {keys}.", err=True)
    keys.warn_if_exposed()


@keys_app.command(cls=Command)
@_with(_chosen_cluster)
def push(
    cluster: ClusterOptions | None,
    file: Annotated[Path, typer.Argument(help="A key file.", exists=True, dir_okay=False)],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the cluster's keys, if it has any.")
    ] = False,
) -> None:
    """Copy a key file into a cluster, with the hash of each key instead of the key."""
    from ptn_api.access import Entries, hashed_entries
    from ptn_api.errors import KeyFileError

    if cluster is None:
        raise SettingsError("give --cluster, or set PTN_CLUSTER and PTN_CLUSTER_KEYS=true")
    entries = hashed_entries(_read_keys(file, [file]))

    def change(shared: Entries) -> None:
        if shared and not replace:
            raise KeyFileError("the cluster already has keys: give --replace to replace them", code="exists")
        shared.clear()
        shared.update(entries)

    with connected(cluster) as broker:
        from ptn_api.cluster.key_copy import SharedKeyStore

        SharedKeyStore(broker).edit(change, new_origin=replace)
    typer.echo(f"Copied {counted(len(entries), 'users')} from {file} into the cluster.", err=True)


@keys_app.command("list", cls=Command)
@prints_rows(rows="keys")
@_with(_Keys)
def list_(keys: _Keys, view: View, data_dir: DataDir = DATA_DIR) -> None:
    """List every key: user, tier, fingerprint, expiry and last use."""
    from ptn_api.access.usage import UsageFile
    from ptn_api.cli.show.table import DAY_AND_TIME, Column, Table, print_table

    parsed = keys.parsed()
    unused, last_seen = "never", dict[tuple[str, str], int]()
    try:
        if keys.cluster:
            from ptn_api.cluster.usage_copy import last_use

            with connected(keys.cluster) as broker:
                for grant in parsed.grants:
                    used = (grant.alias, grant.digest.hex()[:8])
                    last_seen[used] = last_use(broker, *used) or 0
        else:
            last_seen = UsageFile(_existing(data_dir)).last_seen()
    except (sqlite3.Error, PTNError) as error:
        typer.echo(f"ptn: the last use of keys cannot be read: {error}", err=True)
        unused = "unknown"
    rows = [
        (
            grant.alias,
            grant.tier,
            fingerprint := grant.digest.hex()[:8],
            grant.expires_ms or "never",
            last_seen.get((grant.alias, fingerprint)) or unused,
        )
        for grant in parsed.grants
    ]
    columns = (
        Column("user", "user"),
        Column("tier", "tier"),
        Column("fingerprint", "fingerprint"),
        Column("expires", "expires (UTC)", DAY_AND_TIME),
        Column("last_seen", "last seen (UTC)", DAY_AND_TIME),
    )
    print_table(Table(columns, rows, f"keys in {keys}"), view)
    if problems := parsed.all_problems(named=False):
        counts = f"{counted(len(problems), f'problems in {keys}')}, entries left out: {parsed.left_out}"
        typer.echo(f"ptn: warning: {counts}; see `ptn keys check`", err=True)
    keys.warn_if_exposed()


@keys_app.command(cls=Command)
@_with(_Keys)
def check(keys: _Keys) -> None:
    """Print all problems in the key file; exit with status 1 if there are any.

    Keys that are so short that they could be guessed are valid; a warning names them on standard error.
    """
    from ptn_api.access import check_keys, exposed_to, parse_keys, short_keys
    from ptn_api.errors import KeyFileError

    content = keys.read()
    problems = [f"{keys}:{line}: {sentence}" for line, sentence in check_keys(content)]
    if keys.cluster is None and (danger := exposed_to(keys.path)):
        problems.append(f"{keys}: {danger}")
    for problem in problems:
        typer.echo(problem)
    grants = []
    with contextlib.suppress(KeyFileError):  # not a JSON object, which is one of the problems
        grants = parse_keys(content).grants
    for sentence in short_keys(grants):
        typer.echo(f"ptn: warning: {keys}: {sentence}", err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo(f"{keys}: {counted(len(grants), 'keys')}, no problems")


@keys_app.command(cls=Command)
@prints_rows(rows="rows")
@_with(_chosen_cluster)
def usage(
    cluster: ClusterOptions | None,
    view: View,
    days: Annotated[
        int, typer.Option(min=1, metavar="N", help="Cover this many days, including today.")
    ] = 30,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Print requests, bytes and stream messages per user and day (UTC).

    The server records them in its data directory (--data-dir), so there is no --api-keys-file.
    """
    from ptn_api.access.usage import UsageFile, day_of
    from ptn_api.cli.show.table import COUNT, Column, Table, print_table

    first_day = day_of(wall_ms() - (days - 1) * 86_400_000)
    totals: dict[tuple[str, str], list[int]] = {}

    def add(found: Iterable[UsageRow]) -> None:
        for row in found:
            total = totals.setdefault((row.alias, row.day), [0, 0, 0])
            for n, amount in enumerate((row.requests, row.sent_bytes, row.messages)):
                total[n] += amount

    if cluster:
        from ptn_api.cluster.usage_copy import usage_since

        with connected(cluster) as broker:
            add(usage_since(broker, first_day, days))
    else:
        try:
            add(UsageFile(_existing(data_dir)).read(since_day=first_day))
        except sqlite3.Error as error:
            raise PTNError(f"the usage records in {data_dir} cannot be read: {error}") from None
    rows = [(user, day, *total) for (user, day), total in sorted(totals.items())]
    columns = (
        Column("user", "user"),
        Column("day", "day"),
        Column("requests", "requests", COUNT),
        Column("bytes", "bytes", COUNT),
        Column("messages", "messages", COUNT),
    )
    print_table(Table(columns, rows, "rows, one for each user and day (UTC)"), view)


def _existing(data_dir: Path) -> Path:
    """The data directory. Raises SettingsError if it is missing, which must not look like an idle server."""
    if not data_dir.is_dir():
        raise SettingsError(f"no such data directory: {data_dir} (give the server's with --data-dir)")
    return data_dir


def _read_keys(path: Path, places: Sequence[Path]) -> bytes:
    """The file's content. Raises SettingsError if none of the places has it."""
    from ptn_api.access import missing_key_file, read_key_file
    from ptn_api.errors import KeyFileError

    try:
        return read_key_file(path)
    except FileNotFoundError:
        raise SettingsError(f"{missing_key_file(places)} (see --api-keys-file)", code="no_file") from None
    except OSError as error:
        raise KeyFileError(f"the key file {path} cannot be read: {error.strerror}") from None
