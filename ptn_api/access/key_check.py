"""Every problem of a key file, with its line, for `ptn keys check`."""

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
    """`line` counts from 1. The sentence never holds a key."""

    line: int
    sentence: str


class _Member(NamedTuple):
    """A name and its value in the text of a JSON object."""

    name: str
    line: int
    value: Any
    value_at: int


def check_keys(content: bytes) -> list[KeyFileProblem]:
    """What is wrong with the file, in the order of its lines; also what the server lets pass."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        return [KeyFileProblem(content.count(b"\n", 0, error.start) + 1, "this is not UTF-8 text")]
    found: list[KeyFileProblem] = []
    try:
        entries = []
        for member in _members(text, 0):
            entries.append(member)
            found += _problems_of(member, text)
        found += _repeated(entries)
    except json.JSONDecodeError as error:
        found.append(KeyFileProblem(error.lineno, f"this is not JSON: {error.msg}"))
    except RecursionError:
        found.append(KeyFileProblem(1, "this is nested too deeply"))
    return sorted(found) or _what_the_server_says(content)


def _problems_of(member: _Member, text: str) -> Iterator[KeyFileProblem]:
    fields = dict[str, int]()
    if isinstance(member.value, dict):
        fields = {field.name: field.line for field in _members(text, member.value_at)}
    for fault in faults_of(member.name, member.value):
        yield KeyFileProblem(fields.get(fault.field or "", member.line), fault.sentence)
    for name in unknown_fields(member.value):
        yield KeyFileProblem(fields[name], f'user "{member.name}": "{name}" means nothing here')


def _repeated(entries: list[_Member]) -> Iterator[KeyFileProblem]:
    """Users, and keys, that stand there twice: the server would take the last."""
    names: dict[str, int] = {}
    digests: dict[bytes, str] = {}
    for member in entries:
        first = names.setdefault(member.name, member.line)
        if first != member.line:
            yield KeyFileProblem(member.line, f'user "{member.name}" is already in line {first}')
        if any(faults_of(member.name, member.value)):
            continue
        for grant in grants_of(member.name, member.value):
            other = digests.setdefault(grant.digest, member.name)
            if other != member.name:
                yield KeyFileProblem(member.line, f'users "{other}" and "{member.name}" have the same key')


def _what_the_server_says(content: bytes) -> list[KeyFileProblem]:
    try:
        parse_keys(content)
    except KeyFileError as error:
        return [KeyFileProblem(1, str(error))]
    return []


def _members(text: str, at: int) -> Iterator[_Member]:
    """The members of the JSON object that begins there. Raises JSONDecodeError where it is none."""
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
    match = _blank.match(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, what: str) -> int:
    at = _skip(text, at)
    if text[at : at + 1] != what:
        raise json.JSONDecodeError(f"expected {what!r}", text, at)
    return at + 1
