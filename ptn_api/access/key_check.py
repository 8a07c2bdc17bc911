"""The problems of a key file, each with its line, for `ptn keys check`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ptn_api.access.key_entry import faults_of, grants_of, unknown_fields
from ptn_api.access.key_file import parse_keys
from ptn_api.errors import KeyFileError

__all__ = ["KeyFileProblem", "check_keys"]

_decoder = json.JSONDecoder()
_blank = re.compile(r"[ \t\r\n]*")


class KeyFileProblem(NamedTuple):
    """`line` counts from 1. The sentence never contains a key."""

    line: int
    sentence: str


class _Member(NamedTuple):
    """A name and its value in the text of a JSON object."""

    name: str
    line: int
    value: Any
    value_at: int


def check_keys(content: bytes) -> list[KeyFileProblem]:
    """All problems by line, including those that the server tolerates, such as unknown fields."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        return [KeyFileProblem(content.count(b"\n", 0, error.start) + 1, "not UTF-8 text")]
    problems: list[KeyFileProblem] = []
    try:
        for problem in _problems_in(text):  # those before a syntax error count as well
            problems.append(problem)
    except json.JSONDecodeError as error:
        problems.append(KeyFileProblem(error.lineno, f"not JSON: {error.msg}"))
    except RecursionError:
        problems.append(KeyFileProblem(1, "nested too deeply"))
    if problems:
        return sorted(problems)
    try:
        parse_keys(content)  # the server has the last word
    except KeyFileError as error:
        return [KeyFileProblem(1, str(error))]
    return []


def _problems_in(text: str) -> Iterator[KeyFileProblem]:
    """The problems of each entry, and users or keys that appear twice. Raises JSONDecodeError."""
    lines_of_users: dict[str, int] = {}
    users_of_digests: dict[bytes, str] = {}
    for user, line, entry, entry_at in _members(text, 0):
        first = lines_of_users.setdefault(user, line)
        if first != line:  # the server would use the last one
            yield KeyFileProblem(line, f'user "{user}" is already in line {first}')
        lines = dict[str, int]()
        if isinstance(entry, dict):
            lines = {field.name: field.line for field in _members(text, entry_at)}
        for name in unknown_fields(entry):
            yield KeyFileProblem(lines[name], f'user "{user}": unknown field "{name}"')
        faults = list(faults_of(user, entry))
        for fault in faults:
            yield KeyFileProblem(lines.get(fault.field or "", line), fault.sentence)
        for grant in [] if faults else grants_of(user, entry):
            other = users_of_digests.setdefault(grant.digest, user)
            if other != user:
                yield KeyFileProblem(line, f'users "{other}" and "{user}" have the same key')


# --- JSON with positions ----------------------------------------------------------------------------------


def _members(text: str, at: int) -> Iterator[_Member]:
    """The members of the JSON object at this offset. Raises JSONDecodeError.

    json.loads would drop the lines, and all but the last of two equal names.
    """
    at = _expect(text, at, "{")
    if text[_skip(text, at) : _skip(text, at) + 1] == "}":
        return
    while True:
        start = _skip(text, at)
        if text[start : start + 1] != '"':
            raise json.JSONDecodeError("expected a name in quotes", text, start)
        name, at = _decoder.raw_decode(text, start)
        value_at = _skip(text, _expect(text, at, ":"))
        value, at = _decoder.raw_decode(text, value_at)
        yield _Member(name, text.count("\n", 0, start) + 1, value, value_at)
        at = _skip(text, at)
        if text[at : at + 1] == "}":
            return
        at = _expect(text, at, ",")


def _skip(text: str, at: int) -> int:
    """The offset after white space."""
    match = _blank.match(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, character: str) -> int:
    """The offset after the character, which may follow white space."""
    at = _skip(text, at)
    if text[at : at + 1] != character:
        raise json.JSONDecodeError(f"expected {character!r}", text, at)
    return at + 1
