"""The user's own configuration: the API key and the server's addresses.

The config file is ~/.config/ptn-api/config.json on Linux, and in the platform's usual place elsewhere:

    {"api_key": "...", "rest_url": "https://...", "ws_url": "wss://..."}

Instead of the key, `api_key_file` may name a file that holds it. A key is never taken from an argument, which
every process list shows, and never printed; nor is a file name that could be a key.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec
import platformdirs

from ptn_api.access import parse_keys
from ptn_api.errors import AuthenticationError, KeyFileError, SettingsError

__all__ = ["ApiKey", "Config", "config_path", "read_api_key", "read_config"]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file's content. Every field is optional; options and the environment take precedence."""

    api_key: str = ""
    api_key_file: str = ""
    rest_url: str = ""
    ws_url: str = ""


def config_path() -> Path:
    return platformdirs.user_config_path("ptn-api") / "config.json"


def read_config() -> Config:
    """The configuration, empty without a file. Raises SettingsError for a malformed one.

    Warns on standard error if the file holds a key and other users can read it.
    """
    path = config_path()
    try:
        config = msgspec.json.decode(path.read_bytes(), type=Config)
        exposed = path.stat().st_mode & 0o077
    except (FileNotFoundError, NotADirectoryError):
        return Config()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from None
    if config.api_key and exposed and sys.platform != "win32":
        print(f"ptn: warning: other users can read your API key: chmod 600 {path}", file=sys.stderr)
    return config


class ApiKey(NamedTuple):
    """`source` is where the key came from, for error messages."""

    value: str
    source: str


def read_api_key(file: Path | None, *, required: bool = True) -> ApiKey:
    """The key in the file, in PTN_API_KEY, or in the config file, in this order.

    Empty without any, unless `required`. Raises AuthenticationError if all are missing, SettingsError for a
    file that cannot be read.
    """
    if file is not None:
        return _key_in_file(file, "--api-key-file")
    if key := os.environ.get("PTN_API_KEY", "").strip():
        return _checked(key, "PTN_API_KEY")
    config = read_config()
    if config.api_key:
        return _checked(config.api_key, str(config_path()))
    if config.api_key_file:
        source = f"api_key_file in {config_path()}"
        return _key_in_file(Path(config.api_key_file).expanduser(), source)
    if not required:
        return ApiKey("", "")
    raise AuthenticationError(
        f"no API key: give one with --api-key-file, PTN_API_KEY or {config_path()}", code="no_key"
    )


def _key_in_file(file: Path, source: str) -> ApiKey:
    """The file's only content, or the key of the highest tier in a server's key file, such as the demo's."""
    name = _shown_name(file)
    try:
        content = sys.stdin.read() if str(file) == "-" else file.read_text()
    except OSError as error:
        raise SettingsError(f"{source}: {name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{source}: {name} is not a text file") from None
    content = content.removeprefix("\ufeff")
    if not content.strip() and str(file) != "-":
        raise AuthenticationError(f"no usable API key in {source}: {name} is empty", code="no_key")
    if content.lstrip().startswith("{"):
        try:
            grants = parse_keys(content.encode(errors="surrogatepass")).grants
        except KeyFileError:
            problem = f"{name} is neither an API key nor a server's key file"
            raise SettingsError(f"{source}: {problem}") from None
        # A hashed key cannot be recovered from the file.
        keys = [(grant.tier, grant.key) for grant in grants if isinstance(grant.key, str)]
        content = max(keys, default=(0, ""))[1]
        if not content:
            problem = f"{name} has no key itself; `ptn keys` stores only hashes"
            raise AuthenticationError(f"no usable API key in {source}: {problem}", code="no_key")
    return _checked(content, source)


def _shown_name(file: Path) -> str:
    """The file's name for errors, unless it may be a key that was given by mistake."""
    if str(file) == "-":
        return "standard input"
    in_folder = len(file.parts) > 1 + file.is_absolute() and os.path.isdir(file.parent)
    if in_folder or os.path.exists(file) or file.suffix in (".key", ".json", ".txt"):
        return str(file)
    return "the file"


def _checked(key: str, source: str) -> ApiKey:
    key = key.strip()
    if not key or not key.isascii() or len(key.split()) != 1:
        raise AuthenticationError(f"no usable API key in {source}", code="no_key")
    return ApiKey(key, source)
