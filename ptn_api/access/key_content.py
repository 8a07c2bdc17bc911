"""The content of a key file: the keys of each entry, and the problems of the file, each with its line.

Entries are independent: one that cannot be used is left out, and all others count.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ptn_api.access.key_entry import FIELDS, faults_of, grants_of, printable, unknown_fields
from ptn_api.access.key_ring import Grant
from ptn_api.errors import KeyFileError

__all__ = ["KeyFileContent", "KeyFileProblem", "check_keys", "parse_keys", "parse_stepwise", "short_keys"]

SAFE_LENGTH = 16
"""Shorter keys are valid, but could be guessed."""
_blank = re.compile(r"[ \t\r\n]*")


class KeyFileProblem(NamedTuple):
    """`line` counts from 1. The sentence never contains a key."""

    line: int
    sentence: str


class _UnknownField(NamedTuple):
    line: int
    user: str
    name: str


@dataclass
class KeyFileContent:
    """The keys that a file grants, and what the server reports about it."""

    grants: list[Grant] = field(default_factory=list)
    problems: list[KeyFileProblem] = field(default_factory=list)
    unknown: list[_UnknownField] = field(default_factory=list)
    """Fields that are ignored."""
    left_out: int = 0
    """Number of users whose entry cannot be used."""

    def all_problems(self, *, named: bool) -> list[KeyFileProblem]:
        """Returns also the unknown fields, by line; if `named`, with their names, which may be keys."""
        unknown = [
            KeyFileProblem(line, f"{user}: unknown field" + f' "{printable(name)}"' * named)
            for line, user, name in self.unknown
        ]
        return sorted(self.problems + unknown)


def parse_keys(content: bytes) -> KeyFileContent:
    """Returns the keys of all usable entries, and the problems of the others.

    Raises KeyFileError if the content is not a JSON object.
    """
    parsed = KeyFileContent()
    for _ in parse_stepwise(content, parsed):
        pass
    return parsed


def parse_stepwise(content: bytes, parsed: KeyFileContent) -> Iterator[None]:
    """Does the same entry by entry, into `parsed`, which is complete at the end."""
    try:
        yield from _parse(_text_of(content), parsed)
    except json.JSONDecodeError as error:
        sentence = f"the key file is not a JSON object: line {error.lineno}: {error.msg}"
        raise KeyFileError(sentence, code="not_json") from None


def check_keys(content: bytes) -> list[KeyFileProblem]:
    """Returns all problems by line, including fields that the server ignores, and a syntax error."""
    parsed = KeyFileContent()
    try:
        for _ in _parse(_text_of(content), parsed):
            pass
    except json.JSONDecodeError as error:
        parsed.problems.append(KeyFileProblem(error.lineno, f"not a JSON object: {error.msg}"))
    return parsed.all_problems(named=True)


def short_keys(grants: Iterable[Grant]) -> list[str]:
    """Returns a warning for each user whose key is so short that it could be guessed."""
    short = {grant.alias for grant in grants if isinstance(grant.key, str) and len(grant.key) < SAFE_LENGTH}
    return [
        f'user "{printable(alias)}": the key has fewer than {SAFE_LENGTH} characters and could be guessed; '
        "`ptn keys rotate` makes a better one"
        for alias in sorted(short)
    ]


def _text_of(content: bytes) -> str:
    """Returns the text without a byte order mark. Raises JSONDecodeError."""
    encoding = json.detect_encoding(content)
    if not encoding.startswith("utf-8"):
        name = encoding[:6].upper()
        raise json.JSONDecodeError(f"{name} text; save the file as UTF-8", "", 0)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        before = content[: error.start].decode(errors="replace")
        raise json.JSONDecodeError("not UTF-8 text", before, len(before)) from None


def _parse(text: str, parsed: KeyFileContent) -> Iterator[None]:
    """Adds all entries to `parsed`; yields often. Raises JSONDecodeError."""
    repeated: list[str] = []

    def note_repeated(members: list[tuple[str, Any]]) -> dict[str, Any]:
        names = Counter(name for name, _ in members)
        repeated.extend(name for name, count in names.items() if count > 1 and name in FIELDS)
        return dict(members)

    decoder = json.JSONDecoder(object_pairs_hook=note_repeated)
    entries: dict[str, tuple[int, list[Grant]]] = {}
    for alias, line, entry, entry_at, entry_line in _members(text, 0, 1, decoder, whole=True):
        user = f'user "{printable(alias)}"'
        faults, unknown, lines = list(faults_of(alias, entry)), unknown_fields(entry), dict[str, int]()
        if isinstance(entry, dict) and (faults or unknown or repeated):
            fields = _members(text, entry_at, entry_line, json.JSONDecoder())
            lines = {member.name: member.line for member in fields}
        if alias in entries:
            sentence = f"{user} is already in line {entries[alias][0]}; the last entry counts"
            parsed.problems.append(KeyFileProblem(line, sentence))
        for fault in faults:
            sentence = f"{fault.sentence}; {'the entry is left out' if fault.fatal else 'it counts as 0'}"
            parsed.problems.append(KeyFileProblem(lines.get(fault.field or "", line), sentence))
        for name in repeated:
            sentence = f"{user}: {name} occurs more than once; the last one counts"
            parsed.problems.append(KeyFileProblem(lines.get(name, line), sentence))
        for name in unknown:
            parsed.unknown.append(_UnknownField(lines[name], user, name))
        repeated.clear()
        usable = not any(fault.fatal for fault in faults)
        entries.pop(alias, None)  # the last entry counts, also against another user's with the same key
        entries[alias] = (line, grants_of(alias, entry) if usable else [])
        yield
    by_digest: dict[bytes, Grant] = {}
    for line, grants in entries.values():
        parsed.left_out += not grants
        for grant in grants:
            other = by_digest.get(grant.digest, grant)
            by_digest[grant.digest] = grant
            if other.alias != grant.alias:
                sentence = f'users "{other.alias}" and "{grant.alias}" have the same key; the last one counts'
                parsed.problems.append(KeyFileProblem(line, sentence))
        yield
    parsed.grants = [*by_digest.values()]
    parsed.problems.sort()


# --- JSON with positions ----------------------------------------------------------------------------------


class _Member(NamedTuple):
    """A name and its value in the text of a JSON object."""

    name: str
    line: int
    value: Any
    value_at: int
    value_line: int


def _members(
    text: str, at: int, line: int, decoder: json.JSONDecoder, *, whole: bool = False
) -> Iterator[_Member]:
    """Yields the members of the JSON object at this offset, in this line. Raises JSONDecodeError.

    json.loads would drop the lines, and all but the last of two equal names. With `whole`, nothing may follow
    the object.
    """
    counted = at
    at = _expect(text, at, "{")
    more = text[_skip(text, at) : _skip(text, at) + 1] != "}"
    while more:
        start = _skip(text, at)
        if text[start : start + 1] != '"':
            raise json.JSONDecodeError("expected a name in quotes", text, start)
        line += text.count("\n", counted, start)
        name, at = _decode(decoder, text, start)
        value_at = counted = _skip(text, _expect(text, at, ":"))
        value, at = _decode(decoder, text, value_at)
        value_line = line + text.count("\n", start, value_at)
        yield _Member(name, line, value, value_at, value_line)
        line = value_line
        more = text[_skip(text, at) : _skip(text, at) + 1] != "}"
        if more:
            at = _expect(text, at, ",")
    end = _skip(text, _expect(text, at, "}"))
    if whole and end < len(text):
        raise json.JSONDecodeError("unexpected text after the object", text, end)


def _decode(decoder: json.JSONDecoder, text: str, at: int) -> tuple[Any, int]:
    try:
        return decoder.raw_decode(text, at)
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, at) from None
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer of thousands of digits
        raise json.JSONDecodeError("a number is too long", text, at) from None


def _skip(text: str, at: int) -> int:
    """Returns the offset after white space."""
    match = _blank.match(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, character: str) -> int:
    """Returns the offset after the character, which may follow white space."""
    at = _skip(text, at)
    if text[at : at + 1] != character:
        raise json.JSONDecodeError(f"expected {character!r}", text, at)
    return at + 1
