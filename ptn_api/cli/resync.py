"""`ptn resync`: tells intake that removals it holds back are meant."""

from __future__ import annotations

from pathlib import Path

import typer

from ptn_api.errors import SettingsError
from ptn_api.intake.removal import request_resync

__all__ = ["run"]


def run(data_dir: Path, *, accept_removals: bool) -> None:
    if not accept_removals:
        raise typer.BadParameter("say --accept-removals: positions will be removed from what is served")
    if not data_dir.is_dir():
        raise SettingsError(f"there is no data directory {data_dir}")
    request_resync(data_dir)
    typer.echo("Asked; the next sweep applies what the validator's directory says.", err=True)
