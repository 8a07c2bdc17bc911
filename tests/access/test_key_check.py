"""`ptn keys check`: every problem with its line, never a key."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptn_api.access import check_keys, parse_keys
from ptn_api.errors import KeyFileError

DIGEST = "ab" * 32
GOOD = f"""{{
  "alice": {{"key_sha256": "{DIGEST}", "tier": 100, "expires": "2027-01-01T00:00:00Z", "note": "pays"}},
  "bob": "legacy-key",
  "carol": {{"key": "carols-key", "tier": 0, "max_connections": 1, "requests_per_minute": 5}}
}}"""


def test_a_good_file_has_no_problems() -> None:
    """In every form that the server reads, and as an empty object."""
    assert check_keys(GOOD.encode()) == []
    assert check_keys(b" { } ") == []
    assert len(parse_keys(GOOD.encode())) == 3


def test_every_problem_is_reported_with_its_line() -> None:
    """Several per user, unknown fields, duplicate users and keys."""
    content = """{
  "alice": {
    "key": "s3cret",
    "tier": 31,
    "expires": "soon"
  },
  "bob": {"key": "s3cret-2", "tier": 30, "expire": "2027-01-01T00:00:00Z"},
  "carol": 7,
  "dave": {"tier": 0},
  "bob": {"key": "s3cret-3", "tier": 30},
  "eve":
     {"key_sha256": "zz", "tier": 30},
  "fred": "s3cret-2"
}"""
    found = check_keys(content.encode())
    assert [problem.line for problem in found] == [4, 5, 7, 8, 9, 10, 12, 13]
    sentences = "\n".join(problem.sentence for problem in found)
    for words in (
        "tier must be",
        "expires must be",
        'unknown field "expire"',
        "already in line 7",
        "same key",
    ):
        assert words in sentences
    assert "s3cret" not in sentences


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", 1),
        (b"[]", 1),
        (b'{\n"a": "k"\n"b": "l"}', 3),
        (b'{\n"a": "k",\n}', 3),
        (b'{\n\n"a": \xff}', 3),
        (b'{"a": "k"', 1),
        (b'{"a": "k"} and more', 1),
        (b'{"a": ' + b"[" * 100_000, 1),
    ],
)
def test_malformed_json_is_reported_with_its_line(content: bytes, line: int) -> None:
    """The line of the first error."""
    assert [problem.line for problem in check_keys(content)] == [line]


entries = st.dictionaries(
    st.sampled_from(["a", "b", "c\n"]),
    st.sampled_from(["k", "l", " ", 7, None])
    | st.dictionaries(
        st.sampled_from(["key", "key_sha256", "tier", "expires", "max_connections", "previous"]),
        st.sampled_from(
            ["k", DIGEST, 30, 100, 0, None, [], [{"key_sha256": DIGEST}], "2027-01-01T00:00:00Z"]
        ),
    ),
)


@given(entries)
def test_every_file_that_the_server_refuses_has_a_problem(value: dict[str, object]) -> None:
    """The server accepts every file without problems."""
    content = json.dumps(value, indent=1).encode()
    try:
        parse_keys(content)
    except KeyFileError:
        assert check_keys(content)
