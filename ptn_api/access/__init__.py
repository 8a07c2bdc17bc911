"""Who may see what: the key ring and the key file it is filled from."""

from ptn_api.access.key_file import KeyFile, add_key, make_demo_keys, parse_keys
from ptn_api.access.key_ring import TIERS, KeyHolder, KeyRing, Tier, fingerprint

__all__ = [
    "TIERS",
    "KeyFile",
    "KeyHolder",
    "KeyRing",
    "Tier",
    "add_key",
    "fingerprint",
    "make_demo_keys",
    "parse_keys",
]
