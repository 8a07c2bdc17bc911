"""A row of the table of routes."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from ptn_api.rest.room import Handler, NoQuery

__all__ = ["Access", "Route"]

Access = Literal["anyone", "key", "tier 100"]


class Route(NamedTuple):
    """`path` may end in `{hotkey}`. `answer` is the type of the 200 answer's JSON; `refused` the sentence
    for keys below tier 100 where those may not ask; `refusals` codes of the refusals (`refusal.STATUS`)
    besides those that every route with its access has.

    For the description only: `variant` is another type that a parameter turns the answer into, `line` that
    of a line where NDJSON is asked for; `standing`: the answer says how current it is (`room.standing`);
    `failing`: the answer comes with 503 too.
    """

    path: str
    handler: Handler
    summary: str
    answer: Any
    access: Access = "key"
    query: type[msgspec.Struct] = NoQuery
    refusals: tuple[str, ...] = ()
    refused: str = "This data requires tier 100 access"
    description: str = ""
    variant: Any = None
    line: Any = None
    standing: bool = False
    failing: bool = False
    media_type: str = "application/json"
