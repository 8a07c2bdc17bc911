"""The operator's commands `ptn serve`, `ptn simulate` and `ptn resync`, and the script `api_manager.py`."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import msgspec
import typer

from ptn_api.cli.exit_status import run
from ptn_api.cli.settings_options import EPILOG, Command, takes_settings
from ptn_api.cli.time_arguments import speed_of
from ptn_api.errors import (
    InvalidInputError,
    LogError,
    LogLockedError,
    PTNError,
    ServerUnreachableError,
    SettingsError,
)
from ptn_api.process.settings import SETTINGS, Settings, unknown_variables
from ptn_api.simulator.options import Network, SimulatorOptions
from ptn_api.summary import counted, wrapped

__all__ = ["Embedding", "embedded", "main", "resync", "serve", "simulate"]


_LINE_EVERY_S = 5.0
_CONTAINER_INITS = ("docker-init", "dumb-init", "tini")


def main() -> None:
    """The main function of `api_manager.py`: serves with `--serve`, prints its help without."""
    arguments = sys.argv[1:] if "--serve" in sys.argv[1:] else ["--help"]
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(cls=Command, epilog=f"Without --serve, prints this help. {EPILOG}")(takes_settings(serve))
    run(app, f"{Path(sys.argv[0]).name} --serve", arguments)


def serve(settings: Settings) -> None:
    """Serve a validator's positions and orders over REST and WebSocket."""
    for name in unknown_variables():
        unknown = f"ptn: unknown environment variable {name}: is it misspelt?"
        typer.echo(wrapped(unknown, sys.stderr), err=True)
    has_source = settings.demo or settings.validator_dir or settings.checkpoint
    if "intake" in settings.chosen_processes() and not has_source:
        if not Path("validation").is_dir():
            raise SettingsError(
                "no validator in this directory: give --validator-dir DIR (with validation/ in it), or --demo"
            )
        settings = msgspec.structs.replace(settings, validator_dir=str(Path.cwd()))
    settings.check()
    try:
        from ptn_api.process import service
    except ModuleNotFoundError as error:
        if str(error.name).startswith("ptn_api"):
            raise
        missing = f"the server's dependencies are missing ({error.name})"
        raise SettingsError(f"{missing}: in the checkout, pip install '.[server]'") from None
    if not _is_attended():
        raise typer.Exit(service.serve(settings, announce=_announce))
    with contextlib.ExitStack() as bar:

        def announce(line: str) -> None:
            bar.close()
            _announce(line)

        def fail(reason: str) -> None:
            typer.echo(wrapped(f"ptn: {reason}", sys.stderr), err=True)

        show = _shown(bar)
        status = service.serve(
            settings,
            announce=announce,
            hint=_hint,
            show=lambda now: show(now.doing, now.done, now.total),
            fail=fail,
        )
    raise typer.Exit(status)


def _is_attended() -> bool:
    """Returns whether this is a person's terminal, and not that of a service manager or a container."""
    environ = os.environ
    if not sys.stderr.isatty() or os.getpid() == 1:
        return False
    with contextlib.suppress(OSError):
        # A container's shell may be its first process, too.
        if os.getppid() == 1 and Path("/proc/1/comm").read_text().strip() in _CONTAINER_INITS:
            return False
    # Terminals that systemd has started pass on its variables, too.
    is_service = "INVOCATION_ID" in environ or "JOURNAL_STREAM" in environ
    return not is_service or environ.get("SYSTEMD_EXEC_PID", str(os.getpid())) != str(os.getpid())


def _shown(stack: contextlib.ExitStack) -> Callable[[str, int, int], None]:
    """Returns what shows progress on standard error, until the stack is closed.

    On a terminal it is a bar, which appears at the first call; otherwise a line after every five seconds.
    """
    if not sys.stderr.isatty():
        last_s = monotonic()

        def line(doing: str, done: int, total: int) -> None:
            nonlocal last_s
            if monotonic() - last_s >= _LINE_EVERY_S:
                last_s = monotonic()
                typer.echo(f"{doing}: {done:,}{f' of {total:,}' if total else ''}", err=True)

        return line

    bar: Any = None
    task: Any = None

    def draw(doing: str, done: int, total: int) -> None:
        nonlocal bar, task
        if bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"))
            bar = stack.enter_context(
                Progress(
                    *columns,
                    TimeRemainingColumn(compact=True),
                    console=Console(stderr=True),
                    transient=True,
                    auto_refresh=False,
                    redirect_stdout=False,
                    redirect_stderr=False,
                )
            )
            task = bar.add_task(doing, count="")
        if bar.tasks[0].description != doing:
            bar.reset(task)
        count = f"{done:,}/{total:,}" if total else f"{done:,}"
        bar.update(task, description=doing, completed=done, total=total or None, count=count, refresh=True)

    return draw


def _announce(line: str) -> None:
    """Writes past Python's buffer to standard output, which may be a closed pipe or on a full disk."""
    with contextlib.suppress(OSError):
        os.write(1, f"{line}\n".encode())


def _hint(settings: Settings, rest: str, stream: str) -> None:
    """Prints what to try next in another terminal, on standard error: standard output is for programs."""
    from ptn_api.access import key_file_places, parse_keys
    from ptn_api.process.data_dir import DEMO_KEYS

    here = Path.cwd()

    def word(path: Path) -> str:
        """The path as a word of a shell in this directory."""
        return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))

    program = Path(sys.argv[0]).absolute()
    if program.name != "ptn":  # api_manager.py
        program = Path(sys.executable).parent / "ptn"
    in_path = shutil.which("ptn")
    is_everywhere = in_path == str(program) and "VIRTUAL_ENV" not in os.environ
    ptn = "ptn" if is_everywhere else word(program)
    keys = Path(settings.api_keys_file or key_file_places(settings.validator_dir)[0])
    grants = []
    with contextlib.suppress(OSError, PTNError):
        grants = parse_keys(keys.read_bytes()).grants
    none = "" if keys.exists() else "  (none yet)"
    lines = [f"  page      {rest}/", f"  docs      {rest}/docs", f"  keys      {keys}{none}"]
    commands = [f"cd {shlex.quote(str(here))}"]
    is_demo = settings.demo and keys == Path(settings.data_dir) / DEMO_KEYS
    if is_demo:
        lines += [f"            tier {g.tier:<3}  {g.key}" for g in grants if isinstance(g.key, str)]
        header = Path(settings.data_dir) / "demo-100.header"
        commands.append(f"curl --compressed -H @{word(header)} {rest}/miner-hotkeys")
    else:
        commands.append(f"curl {'--insecure ' if settings.tls_cert else ''}{rest}/health")
    # The clients check a certificate's name, and the machines of a cluster may share their keys.
    if not (settings.tls_cert or settings.cluster_options.cluster_keys):
        key_file = keys
        if not any(isinstance(grant.key, str) and grant.tier >= 100 for grant in grants):
            key_file = Path(settings.data_dir) / "my.key"
            if not (key_file.exists() and key_file.stat().st_size):
                is_known = any(grant.alias == "me" for grant in grants)
                change = "rotate me" if is_known else "add me --tier 100"
                files = f"--api-keys-file {word(keys)} --key-file {word(key_file)}"
                commands.append(f"{ptn} keys {change} {files}")
        commands += [
            f"{ptn} top --url {rest} --api-key-file {word(key_file)}",
            f"{ptn} stream --url {stream} --api-key-file {word(key_file)}",
        ]
    commands = [f"  {command}" for command in commands]
    with contextlib.suppress(OSError):
        print(*lines, "\nTry in another terminal:\n", *commands, "", sep="\n", file=sys.stderr, flush=True)


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    """What an embedding validator sends to the supervisor on its standard input."""

    settings: Settings
    parent: int
    queue: int


def embedded() -> int:
    """The supervisor's main function when a validator embeds the API."""
    import resource  # Unix only, like everything that an embedding validator needs

    from ptn_api.process import service
    from ptn_api.process.control import FATAL

    os.setsid()  # Ctrl-C in the validator's terminal is for the validator
    embedding = msgspec.json.decode(sys.stdin.buffer.read(), type=Embedding)
    # Descriptors that the validator lets every child inherit are not ours to hold open.
    os.closerange(3, embedding.queue)
    os.closerange(embedding.queue + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    status = service.serve(
        embedding.settings, announce=_announce, queue_fd=embedding.queue, parent=embedding.parent
    )
    return FATAL if status else 0


_SIMULATED = SimulatorOptions()


def simulate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Create the validator's directory here.")],
    miners: Annotated[
        int, typer.Option(min=1, metavar="N", help=f"{SETTINGS['demo_miners'].description}.")
    ] = _SIMULATED.miners,
    positions: Annotated[
        int, typer.Option(min=0, metavar="N", help=f"{SETTINGS['demo_positions'].description}.")
    ] = _SIMULATED.positions,
    seed: Annotated[
        int, typer.Option(metavar="N", help=f"{SETTINGS['demo_seed'].description}.")
    ] = _SIMULATED.seed,
    network: Annotated[
        Network, typer.Option(metavar="NETWORK", help=f"{SETTINGS['demo_network'].description}.")
    ] = _SIMULATED.network,
    orders_per_minute: Annotated[
        float, typer.Option(min=0, metavar="N", help=f"{SETTINGS['demo_orders_per_minute'].description}.")
    ] = _SIMULATED.orders_per_minute,
    live: Annotated[bool, typer.Option("--live", help="Keep trading until interrupted.")] = False,
    speed: Annotated[
        str, typer.Option(help="Run at this multiple of real time, such as 10x.", metavar="SPEED")
    ] = "1x",
    journal: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append a record of every simulated action to this file."),
    ] = None,
) -> None:
    """Create the directory of a simulated validator, and keep trading in it with --live."""
    from ptn_api.simulator.simulator import holds_simulation, run_simulator

    options = SimulatorOptions(
        network=network, miners=miners, positions=positions, seed=seed, orders_per_minute=orders_per_minute
    )
    times_faster = speed_of(speed) or 1.0
    existed = holds_simulation(directory)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    with contextlib.ExitStack() as bar:
        show = _shown(bar)

        def built() -> None:
            bar.close()
            described = f"{miners} miners x {positions} positions, seed {seed}"
            if existed:
                found = sum(1 for _ in (directory / "validation" / "miners").iterdir())
                described = f"exists already, with {counted(found, 'miners')}"
                sizes = ("miners", "positions", "network")
                changed = [name for name in sizes if getattr(options, name) != getattr(_SIMULATED, name)]
                if changed:
                    described += f" (--{', --'.join(changed)}: ignored, since it is for new directories only)"
            typer.echo(f"{directory}: {described}", err=True)
            if not live:
                stop.set()

        run_simulator(
            options,
            directory,
            stop=stop,
            ready=built,
            speed=times_faster,
            journal=journal,
            progress=lambda done, total: show("simulating miners", done, total),
        )


def resync(
    accept_removals: Annotated[
        bool, typer.Option("--accept-removals", help="Confirm that the missing positions are really gone.")
    ] = False,
    data_dir: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="The server's data directory.", envvar=SETTINGS["data_dir"].variable
        ),
    ] = Path(SETTINGS["data_dir"].default),
) -> None:
    """Accept a mass removal that the running server is holding back."""
    from ptn_api.event_log import open_reader
    from ptn_api.event_log.sqlite_log import lock_directory
    from ptn_api.intake.removal import request_resync

    if not accept_removals:
        raise SettingsError("give --accept-removals to remove the missing positions from what is served")
    if not data_dir.is_dir():
        raise SettingsError(f"no such data directory: {data_dir} (give the server's with --data-dir)")
    with contextlib.suppress(LogLockedError):  # by the server
        os.close(lock_directory(data_dir))
        raise ServerUnreachableError(
            f"no server runs on {data_dir}; start it, and repeat this if it reports mass_removal"
        )
    with contextlib.suppress(LogError), contextlib.closing(open_reader(data_dir)) as log:
        if log.source().reason not in ("mass_removal", "root_missing"):
            raise InvalidInputError(f"the server on {data_dir} holds no removals back")
    request_resync(data_dir)
    typer.echo("Requested: the next sweep applies the removals.", err=True)
