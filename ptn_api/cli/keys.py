"""`ptn keys`: the server's API keys."""

from __future__ import annotations

from pathlib import Path

import typer

from ptn_api.access import TIERS, add_key

__all__ = ["add"]


def add(user: str, tier: int, path: Path) -> None:
    """Prints the new key, alone, on standard output."""
    chosen = next((t for t in TIERS if t == tier), None)
    if chosen is None:
        raise typer.BadParameter("must be 0, 30, 50 or 100", param_hint="--tier")
    key = add_key(path, user, chosen)
    typer.echo(f"Added {user} with tier {tier} to {path}. The key is not shown again:", err=True)
    typer.echo(key)
