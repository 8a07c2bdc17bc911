"""What a request's headers accept: content codings, media types, and answers the client already has."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from ptn_api.http.body import CODINGS, Coding

__all__ = ["has_already", "negotiate", "prefers"]


@lru_cache(maxsize=256)
def negotiate(accept_encoding: str | None) -> Coding:
    """The coding to answer in (RFC 9110, 12.5.3); none asked for, or none acceptable: identity."""
    if not accept_encoding:
        return "identity"
    weights = dict(_weighted(accept_encoding))
    rest = weights.get("*", 0.0)
    best: Coding = "identity"
    best_weight = 0.0
    for coding in CODINGS:
        # A client that does not forbid identity accepts it, but wants whatever it names rather.
        weight = weights.get(coding, rest if coding != "identity" else min(rest, 0.0005))
        if weight > best_weight:
            best, best_weight = coding, weight
    return best


def prefers(accept: str | None, media_type: str, over: str) -> bool:
    """Whether a client's Accept wants `media_type` more than `over`, and by name."""
    weights = dict(_weighted(accept or ""))
    wanted = weights.get(media_type, 0.0)
    return wanted > 0 and wanted >= weights.get(over, 0.0)


def has_already(if_none_match: str | None, etag: str) -> bool:
    """Whether If-None-Match names this answer; tags are compared weakly (RFC 9110, 13.1.2)."""
    if not if_none_match:
        return False
    if if_none_match == etag:
        return True
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag in tags


def _weighted(header: str) -> Iterator[tuple[str, float]]:
    """(name, weight) of each element; one whose weight is no number from 0 to 1 is passed over."""
    for element in header.split(","):
        name, *parameters = (part.strip().lower() for part in element.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                weight = _weight(parameter[2:])
        if name and 0 <= weight <= 1:
            yield name, weight


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0
