"""The operator's word that removals which were held back are real: `ptn resync --accept-removals`.

The command and intake are different processes; an empty file in the data directory carries the word.
"""

from __future__ import annotations

from pathlib import Path

from ptn_api.errors import SettingsError

__all__ = ["request_resync", "resync_done", "resync_requested"]

_NAME = "accept-removals"


def request_resync(data_dir: str | Path) -> None:
    """Asks the running intake to apply what it holds back. It does so at its next sweep.

    Raises SettingsError where the data directory is missing or not writable.
    """
    try:
        (Path(data_dir) / _NAME).touch(mode=0o600)
    except OSError as error:
        raise SettingsError(f"data directory: {error.strerror}", code="bad_data_dir") from None


def resync_requested(data_dir: str | Path) -> bool:
    return (Path(data_dir) / _NAME).exists()


def resync_done(data_dir: str | Path) -> None:
    (Path(data_dir) / _NAME).unlink(missing_ok=True)
