"""Content negotiation: what a request's Accept, Accept-Encoding and If-None-Match headers ask for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from ptn_api.http.body import CODINGS, Coding

__all__ = ["matches_etag", "negotiate_coding", "prefers"]


_CACHED_CHARACTERS = 128
"""Longer headers are not cached: clients could fill the memory."""


def negotiate_coding(accept_encoding: str, offered: tuple[Coding, ...] = CODINGS) -> Coding:
    """Returns the coding to respond in (RFC 9110, 12.5.3); identity if none is acceptable."""
    long = len(accept_encoding) > _CACHED_CHARACTERS
    return (_negotiate if long else _cached_negotiate)(accept_encoding, offered)


def _negotiate(accept_encoding: str, offered: tuple[Coding, ...]) -> Coding:
    weights = dict(_weights(accept_encoding))
    default = weights.get("*", 0.0)
    best: Coding = "identity"
    best_weight = 0.0
    for coding in offered:
        # Identity is acceptable unless excluded, but any coding that the client names is preferred to it.
        weight = weights.get(coding, default if coding != "identity" else min(default, 0.0005))
        if weight > best_weight:
            best, best_weight = coding, weight
    return best


_cached_negotiate = lru_cache(256)(_negotiate)


def prefers(accept: str | None, media_type: str, over: str) -> bool:
    """Whether Accept names `media_type` with at least the weight of `over`."""
    weights = dict(_weights(accept or ""))
    weight = weights.get(media_type, 0.0)
    return weight > 0 and weight >= weights.get(over, 0.0)


def matches_etag(if_none_match: str, etag: str) -> bool:
    """Whether If-None-Match lists the tag, by weak comparison (RFC 9110, 13.1.2)."""
    if if_none_match == etag:
        return True
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag in tags


def _weights(header: str) -> Iterator[tuple[str, float]]:
    """Yields (name, weight) of each element; elements with an invalid weight are skipped."""
    for element in header.split(","):
        name, *parameters = (part.strip().lower() for part in element.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = -1.0
        if name and 0 <= weight <= 1:
            yield name, weight
