"""Accept headers are interpreted as in RFC 9110."""

from __future__ import annotations

import tracemalloc

import pytest

from ptn_api.http.negotiation import matches_etag, negotiate_coding, prefers


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("", "identity"),
        ("gzip", "gzip"),
        ("zstd", "zstd"),
        ("GZIP", "gzip"),
        ("gzip, deflate, br", "gzip"),
        ("gzip, deflate, br, zstd", "gzip"),
        ("gzip;q=0.5, zstd;q=0.8", "zstd"),
        ("gzip;q=0", "identity"),
        ("gzip;q=0, zstd;q=0.1", "zstd"),
        ("identity;q=0.5, gzip;q=0.4", "identity"),
        ("identity, gzip;q=1.0", "gzip"),
        ("br", "identity"),
        ("*", "gzip"),
        ("*;q=0", "identity"),
        ("*;q=0.1, gzip;q=0", "zstd"),
        ("identity;q=0, *", "gzip"),
        ("gzip;q=nonsense", "identity"),
        ("gzip;q=nan", "identity"),
        ("gzip;q=2", "identity"),
        (";;,,=;q", "identity"),
    ],
)
def test_negotiation(header: str, coding: str) -> None:
    """The best coding accepted by name or by star; malformed elements are ignored."""
    assert negotiate_coding(header) == coding


@pytest.mark.parametrize(
    ("header", "already"),
    [
        ('"a-gzip"', True),
        ('W/"a-gzip"', True),
        ('"b", "a-gzip"', True),
        ("*", True),
        ('"a-zstd"', False),
        ("a-gzip", False),
        (",,", False),
    ],
)
def test_if_none_match(header: str, already: bool) -> None:
    """Any listed tag, weak or strong, or a star."""
    assert matches_etag(header, '"a-gzip"') is already


@pytest.mark.parametrize(
    ("accept", "preferred"),
    [
        (None, False),
        ("*/*", False),
        ("application/x-ndjson", True),
        ("application/json;q=0.5, application/x-ndjson", True),
        ("application/json, application/x-ndjson;q=0.9", False),
    ],
)
def test_media_types(accept: str | None, preferred: bool) -> None:
    """Another type than JSON only if it is requested by name, with at least JSON's weight."""
    assert prefers(accept, "application/x-ndjson", over="application/json") is preferred


def test_long_headers_are_not_kept() -> None:
    """A client may send a new one each time."""
    tracemalloc.start()
    try:
        for n in range(300):
            assert negotiate_coding(f"x{n}, " * 3_000 + "gzip") == "gzip"
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()
