"""REST readers that come to another machine with each request, and the comparison of what machines serve."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections import Counter
from typing import Any

import requests

from tests.soak.checker import Verdict

__all__ = ["Readers", "check_alike"]

TIMELESS = ("/statistics", "/eliminations", "/miner-hotkeys")
PATHS = ("/miner-positions", "/miner-positions?tier=50", "/miner-positions?tier=0", *TIMELESS)
PAUSE_S = 0.25
_REQUEST_S = 60.0


class _Reader:
    """Keeps a mirror by `since=`, and a document by its ETag; a new connection for each request."""

    def __init__(self, readers: Readers, key: str, seed: int) -> None:
        self.positions: dict[str, Any] = {}
        self.cursor = ""
        self._readers = readers
        self._headers = {"Authorization": f"Bearer {key}", "Connection": "close"}
        self._random = random.Random(seed)
        self._tags: dict[str, str] = {}

    def run(self, stopping: threading.Event) -> None:
        while not stopping.wait(PAUSE_S):
            self.update()
            self._check_document(self._random.choice(PATHS))

    def update(self) -> bool:
        """Takes the changes since the cursor; returns whether there was an answer."""
        if not self.cursor:
            response = self._get("/miner-positions")
            if response is None:
                return False
            entries = response.json().values()
            self.positions = {p["position_uuid"]: p for entry in entries for p in entry["positions"]}
            self._move(f"{response.headers['X-PTN-Epoch']}:{response.headers['X-PTN-Revision']}")
            return True
        response = self._get(f"/miner-positions?since={self.cursor}")
        if response is None:
            return False
        changes = response.json()
        for _, uuid in changes["removed"]:
            self.positions.pop(uuid, None)
        for listed in changes["positions"].values():
            self.positions.update({position["position_uuid"]: position for position in listed})
        self._move(changes["cursor"])
        return True

    def _move(self, cursor: str) -> None:
        if self.cursor and int(cursor.rpartition(":")[2]) < int(self.cursor.rpartition(":")[2]):
            self._readers.fault("out_of_order", f"the cursor {cursor} after {self.cursor}")
        self.cursor = cursor
        self._readers.cursors.add(cursor)

    def _check_document(self, path: str) -> None:
        """The ETag of one machine stands for the same document on all."""
        tag = self._tags.get(path)
        response = self._get(path, **({"If-None-Match": tag} if tag else {}))
        if response is not None and response.status_code == 200:
            self._tags[path] = response.headers["ETag"]
            self._readers.saw(response.headers["ETag"], response.content)

    def _get(self, path: str, **headers: str) -> requests.Response | None:
        """None without an answer, and for one that asks to come again."""
        try:
            response = requests.get(
                self._readers.url + path, headers=self._headers | headers, timeout=_REQUEST_S
            )
        except requests.RequestException:
            self._readers.counts["no answer"] += 1
            return None
        self._readers.counts[str(response.status_code)] += 1
        if response.status_code in (200, 304):
            return response
        if response.status_code != 503 or "Retry-After" not in response.headers:
            self._readers.fault("wrong_answers", f"{path}: {response.status_code} {response.text[:200]}")
        return None


class Readers:
    """Several readers in threads. `counts` has their answers by status."""

    def __init__(self, url: str, keys: list[str], verdict: Verdict, *, seed: int) -> None:
        self.url = url
        self.counts: Counter[str] = Counter()
        self.cursors: set[str] = set()
        self._verdict = verdict
        self._digests: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._all = [_Reader(self, key, seed + number) for number, key in enumerate(keys)]
        self._threads = [
            threading.Thread(target=reader.run, args=(self._stopping,), daemon=True) for reader in self._all
        ]

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def finish(self) -> list[dict[str, Any]]:
        """Ends the threads, lets every reader catch up, and returns their positions."""
        self.__exit__()
        for reader in self._all:
            self._verdict.expect("behind", "a REST reader gets no answer", reader.update)
        return [reader.positions for reader in self._all]

    def saw(self, tag: str, content: bytes) -> None:
        digest = hashlib.blake2b(content).digest()
        with self._lock:
            if self._digests.setdefault(tag, digest) != digest:
                self._verdict.add("state_differences", f"two documents with the ETag {tag}")

    def fault(self, kind: str, problem: str) -> None:
        with self._lock:
            self._verdict.add(kind, f"REST reader: {problem}")


def check_alike(urls: list[str], key: str, cursors: list[str], verdict: Verdict) -> None:
    """Without changes for a second, all machines have the same ETags, and every cursor is good everywhere."""
    headers = {"Authorization": f"Bearer {key}"}

    def get(url: str, path: str) -> requests.Response:
        return requests.get(url + path, headers=headers, timeout=_REQUEST_S)

    def tags(path: str) -> set[str]:
        return {get(url, path).headers.get("ETag", url) for url in urls}

    time.sleep(1)
    # A machine that does not trust its clock, because the log was older than a minute when it started, shows
    # for ten minutes what it would have shown then: lower tiers are late, and price sources age out later.
    trusted = all("clock_untrusted" not in get(url, "/health").json()["problems"] for url in urls)
    for path in PATHS if trusted else TIMELESS:
        what = f"{path} has different ETags"
        # The machines' clocks may be read on both sides of a moment at which something ages out.
        verdict.expect("state_differences", what, lambda: len(tags(path)) == 1, seconds=10)  # noqa: B023
    for cursor in cursors:
        answers = [get(url, f"/miner-positions?since={cursor}") for url in urls]
        if {answer.status_code for answer in answers} != {200}:
            verdict.add("unexplained_gaps", f"the cursor {cursor}: {[a.status_code for a in answers]}")
        elif len({_changes(answer.json()) for answer in answers}) != 1:
            verdict.add("state_differences", f"changes since {cursor}")


def _changes(body: dict[str, Any]) -> str:
    """The part of the answer that does not depend on the time."""
    positions = [position for listed in body["positions"].values() for position in listed]
    for position in positions:
        for order in position["orders"]:
            order.pop("price_sources", None)
    return json.dumps([sorted(body["removed"]), sorted(map(json.dumps, positions))])
