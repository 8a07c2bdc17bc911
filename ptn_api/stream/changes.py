"""What changed in the log's state since a revision, of one instant."""

from __future__ import annotations

from ptn_api.event_log.contract import EventLog, Head, LoggedPosition, RemovedPosition

__all__ = ["changes_since"]


def changes_since(log: EventLog, revision: int) -> tuple[Head, list[LoggedPosition], list[RemovedPosition]]:
    """The head, and the positions changed and removed since `revision`.

    Like the log's `snapshot`, which from 0 on tells no removals, for those who hold nothing yet. Here a
    follower of an empty log may have heard of a position that is gone again.
    """
    head, changed, removed = log.snapshot(revision)
    if revision == 0:
        removed = [gone for gone in log.removed(0) if gone.revision <= head.revision]
    return head, changed, removed
