"""The content of a key file: each entry stands alone; every problem with its line, never a key."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ptn_api.access import KeyRing, check_keys, parse_keys
from ptn_api.access.key_ring import digest_of
from ptn_api.errors import KeyFileError
from tests import newest

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
    assert len(parse_keys(GOOD.encode()).grants) == 3


def test_every_problem_is_reported_with_its_line() -> None:
    """Several per user, unknown fields, duplicate users and keys."""
    content = """{
  "alice": {
    "key": "s3cret",
    "tier": "100",
    "expires": "soon"
  },
  "bob": {"key": "s3cret-2", "tier": 30, "expire": "2027-01-01T00:00:00Z"},
  "carol": 7,
  "dave": {"tier": 0},
  "dora": {"key": "s3cret-4", "tier": 30, "tier": 50},
  "bob": {"key": "s3cret-3", "tier": 30},
  "eve":
     {"key_sha256": "zz", "tier": 30},
  "fred": "s3cret-3"
}"""
    found = check_keys(content.encode())
    assert [problem.line for problem in found] == [4, 5, 7, 8, 9, 10, 11, 13, 14]
    sentences = "\n".join(problem.sentence for problem in found)
    for words in (
        "tier must be a number; it counts as 0",
        "expires must be",
        'unknown field "expire"',
        "already in line 7",
        'users "bob" and "fred" have the same key; the last one counts',
        "tier occurs more than once",
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


@pytest.mark.parametrize(
    ("tier", "number", "told"),
    [
        ("0", 0, False),
        ("42", 42, False),
        ("100.0", 100, False),
        ("99.5", 99.5, False),
        ("-1", -1, False),
        ("500", 500, False),
        ("true", 0, True),
        ("null", 0, True),
        ('"100"', 0, True),
        ("[100]", 0, True),
        ("NaN", 0, True),
        ("1e999", 0, True),
        ("1" + 400 * "0", 0, True),
    ],
)
def test_a_tier_is_any_number(tier: str, number: float, told: bool) -> None:
    """What is no number counts as 0, and the user is named."""
    parsed = parse_keys(b'{"bob": {"key": "k", "tier": %s}}' % tier.encode())
    assert [(grant.tier, type(grant.tier)) for grant in parsed.grants] == [(number, type(number))]
    assert [problem.sentence for problem in parsed.problems] == (
        ['user "bob": tier must be a number; it counts as 0'] if told else []
    )
    assert parsed.left_out == 0


@pytest.mark.parametrize("field", ["expires", "max_connections", "requests_per_minute", "previous"])
def test_half_a_surrogate_pair_costs_no_more_than_its_entry(field: str) -> None:
    """All other keys hold."""
    entry = json.dumps({"key": "k1", field: "\ud800"})
    parsed = parse_keys(b'{"bob": %s, "carol": "k2"}' % entry.encode())
    assert [grant.alias for grant in parsed.grants] == ["carol"]
    assert [f"{field} must be" in problem.sentence for problem in parsed.problems] == [True]


def test_entries_stand_alone() -> None:
    """As on the network: text is a key of tier 100, no tier is 0, fields of others are ignored."""
    parsed = parse_keys(
        b'{"a": "k1", "b": {"key": "k2"}, "c": {"key": "k3", "tier": 200, "is_admin": [1]}, "d": null,'
        b' "e": ["k4"], "f": 7, "g": {"tier": 100}, "h": {"key": "", "tier": 100}, "i": {}}'
    )
    assert [(grant.alias, grant.tier) for grant in parsed.grants] == [("a", 100), ("b", 0), ("c", 200)]
    assert parsed.left_out == len(parsed.problems) == 6
    assert all("the entry is left out" in problem.sentence for problem in parsed.problems)


def test_the_key_file_of_a_present_validator() -> None:
    """Each key has the tier that the network's own server gives it; faulty entries are named."""
    content = newest.files()["vanta_api/api_keys.json"]
    parsed = parse_keys(content)
    ring = KeyRing()
    ring.replace(parsed.grants)
    holders = {key: ring.lookup(key) for key in newest.expected()["keys"]}
    assert {key: holder and holder.tier for key, holder in holders.items()} == newest.expected()["keys"]
    assert len(parsed.problems) >= parsed.left_out > 0
    assert not any("synth-key" in problem.sentence for problem in parsed.problems)


def test_of_two_entries_with_one_key_the_later_holds() -> None:
    """With its tier, also where one of them is a hash."""
    digest = digest_of("k").hex()
    parsed = parse_keys(b'{"a": {"key": "k", "tier": 100}, "b": {"key_sha256": "%s"}}' % digest.encode())
    assert [(grant.alias, grant.tier) for grant in parsed.grants] == [("b", 0)]
    assert [problem.sentence for problem in parsed.problems] == [
        'users "a" and "b" have the same key; the last one counts'
    ]
    assert parsed.left_out == 0


def test_of_two_entries_of_one_user_the_later_holds() -> None:
    """Even where it cannot be used: the earlier one is not in force again."""
    parsed = parse_keys(b'{"a": "k1", "b": "k2", "a": {"key": "k3", "tier": 30}, "b": null}')
    assert [(grant.alias, grant.key) for grant in parsed.grants] == [("a", "k3")]
    assert parsed.left_out == 1


def test_a_byte_order_mark_is_skipped_and_other_encodings_are_named() -> None:
    assert parse_keys(b"\xef\xbb\xbf" + GOOD.encode()) == parse_keys(GOOD.encode())
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        name = encoding.upper()[:6]
        with pytest.raises(KeyFileError, match=f"{name} text; save the file as UTF-8"):
            parse_keys(GOOD.encode(encoding))
    with pytest.raises(KeyFileError, match="line 2: not UTF-8 text"):
        parse_keys(b'{\n"a": "\xe4"}')


entries = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c\n"]),
        st.sampled_from(["k", "l", " ", 7, None])
        | st.dictionaries(
            st.sampled_from(["key", "key_sha256", "tier", "expires", "max_connections", "previous"]),
            st.sampled_from(
                ["k", DIGEST, 30, 100, 0, None, [], [{"key_sha256": DIGEST}], "2027-01-01T00:00:00Z"]
            ),
        ),
    )
)


@example([("b", "k"), ("a", "k"), ("b", "k")])
@given(entries)
def test_an_entry_alone_grants_what_it_grants_among_others(members: list[tuple[str, object]]) -> None:
    """Unless a later entry has its user or its key; `check` finds at least what the server reports."""

    def content(members: list[tuple[str, object]]) -> bytes:
        lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in members)
        return ("{" + ",\n".join(lines) + "}").encode()

    parsed = parse_keys(content(members))
    later_keys, later_users, expected = set[bytes](), set[str](), set[tuple[str, bytes]]()
    for alias, value in reversed(members):
        grants = parse_keys(content([(alias, value)])).grants if alias not in later_users else []
        expected |= {(alias, grant.digest) for grant in grants if grant.digest not in later_keys}
        later_keys |= {grant.digest for grant in grants}
        later_users.add(alias)
    assert {(grant.alias, grant.digest) for grant in parsed.grants} == expected
    assert {*parsed.problems} <= {*check_keys(content(members))}
