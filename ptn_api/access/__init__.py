"""Access: the key file, the ring of valid keys, rate limits, client addresses and usage records."""

from ptn_api.access.key_content import KeyFileContent, KeyFileProblem, check_keys, parse_keys, short_keys
from ptn_api.access.key_edit import (
    Entries,
    KeyStore,
    add_key,
    hashed_entries,
    make_demo_keys,
    revoke_key,
    rotate_key,
    write_key_file,
)
from ptn_api.access.key_file import (
    KeyFile,
    exposed_to,
    find_key_file,
    key_file_places,
    load_key_file,
    missing_key_file,
    read_key_file,
)
from ptn_api.access.key_ring import Grant, KeyHolder, KeyRing, fingerprint

__all__ = [
    "Entries",
    "Grant",
    "KeyFile",
    "KeyFileContent",
    "KeyFileProblem",
    "KeyHolder",
    "KeyRing",
    "KeyStore",
    "add_key",
    "check_keys",
    "exposed_to",
    "find_key_file",
    "fingerprint",
    "hashed_entries",
    "key_file_places",
    "load_key_file",
    "make_demo_keys",
    "missing_key_file",
    "parse_keys",
    "read_key_file",
    "revoke_key",
    "rotate_key",
    "short_keys",
    "write_key_file",
]
