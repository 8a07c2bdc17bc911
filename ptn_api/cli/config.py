"""The user's own file of settings: ~/.config/ptn-api/config.json on Linux, wherever it belongs elsewhere.

    {"api_key": "...", "rest_url": "https://...", "ws_url": "wss://..."}

Instead of the key itself, `api_key_file` may say where it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import platformdirs

from ptn_api.errors import SettingsError

__all__ = ["Config", "config_path", "read_config"]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything is optional; options and the environment win."""

    api_key: str = ""
    api_key_file: str = ""
    rest_url: str = ""
    ws_url: str = ""


def config_path() -> Path:
    return platformdirs.user_config_path("ptn-api") / "config.json"


def read_config() -> Config:
    """An empty one where there is no file. Raises SettingsError for one that cannot be used.

    A file that holds a key and that others may read is told on standard error.
    """
    path = config_path()
    try:
        config = msgspec.json.decode(path.read_bytes(), type=Config)
        others = path.stat().st_mode & 0o077
    except (FileNotFoundError, NotADirectoryError):
        return Config()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from None
    if config.api_key and others and sys.platform != "win32":
        print(f"ptn: warning: others can read your API key; chmod 600 {path}", file=sys.stderr)
    return config
