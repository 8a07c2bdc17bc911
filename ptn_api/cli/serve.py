"""`ptn serve` and the doors `api_manager.py` and `main.py`: one parser, one way to start."""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ptn_api.errors import SettingsError
from ptn_api.process.settings import Settings, add_arguments, from_arguments

__all__ = ["door", "embedded", "serve"]


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    """What a validator that embeds the API tells the supervisor on its standard input."""

    settings: Settings
    parent: int
    queue: int


def door(argv: Sequence[str] | None = None) -> int:
    """`python api_manager.py ...`: serves with `--serve`, prints its help without."""
    parser = _parser("api_manager.py --serve")
    parser.add_argument("--serve", action="store_true", help="start the API (without it: this help)")
    arguments = parser.parse_args(argv)
    if not arguments.serve:
        parser.print_help()
        return 0
    return _serve(parser, arguments)


def serve(argv: Sequence[str]) -> int:
    """`ptn serve ...`: the same options; `--serve` is accepted and needs not be said."""
    parser = _parser("ptn serve")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return _serve(parser, parser.parse_args(argv))


def embedded() -> int:
    """The supervisor's main function when a validator embeds the API."""
    from ptn_api.process import service
    from ptn_api.process.supervisor import FATAL

    os.setsid()  # a Ctrl-C is for the validator
    orders = msgspec.json.decode(sys.stdin.buffer.read(), type=Embedding)
    _close_all_but(orders.queue)
    status = service.serve(orders.settings, announce=_say, queue_fd=orders.queue, parent=orders.parent)
    return FATAL if status else 0


def _close_all_but(kept: int) -> None:
    """What the validator has open for whoever it starts is not ours."""
    os.closerange(3, kept)
    os.closerange(kept + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        usage=f"{program} [options]",
        description="Serves a validator's positions and orders over REST and WebSocket.",
        epilog="Every option is also an environment variable: --api-host is PTN_API_HOST.",
    )
    add_arguments(parser)
    return parser


def _serve(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    try:
        settings = from_arguments(arguments)
    except SettingsError as error:
        parser.error(str(error))
    if not (settings.demo or settings.validator_dir or settings.checkpoint):
        settings = msgspec.structs.replace(settings, validator_dir=str(Path.cwd()))
        if not Path("validation").is_dir():
            parser.error(
                "no validator here: give --validator-dir DIR (the one that holds validation/), or --demo"
            )
    try:
        from ptn_api.process import service
    except ModuleNotFoundError as error:
        if str(error.name).startswith("ptn_api"):
            raise
        parser.error(f"the server's dependencies are missing ({error.name}): pip install 'ptn-api[server]'")
    return service.serve(settings, announce=_say, hint=_hint)


def _say(line: str) -> None:
    """Past Python's buffer: a standard output that is gone, or on a full disk, ends nothing."""
    with contextlib.suppress(OSError):
        os.write(1, f"{line}\n".encode())


def _hint(settings: Settings, rest: str, stream: str) -> None:
    """What to try next, on standard error: standard output is for programs."""
    keys = Path(settings.api_keys_file)
    lines = [f"  docs      {rest}/docs"]
    if settings.demo and keys.name == "demo_api_keys.json":
        header = Path(settings.data_dir) / "demo-100.header"
        lines += [
            f"  keys      {keys}" + (_demo_keys(keys) if sys.stderr.isatty() else ""),
            f"  curl      curl --compressed -H @{header} {rest}/miner-positions",
            f"  stream    ptn stream --url {stream} --api-key-file {keys}",
        ]
    elif keys.exists():
        lines.append(f"  keys      {keys}")
    else:
        lines.append(f"  keys      none yet; add one: ptn keys add USER --tier 100 --api-keys-file {keys}")
    with contextlib.suppress(OSError):
        print("\nTry:", *lines, "", sep="\n", file=sys.stderr, flush=True)


def _demo_keys(keys: Path) -> str:
    from ptn_api.access import parse_keys

    grants = parse_keys(keys.read_bytes())
    return "".join(f"\n            tier {grant.tier:<3}  {grant.key!s}" for grant in grants)
