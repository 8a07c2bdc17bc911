"""How far the server's clock is from ours, estimated from questions and their answers."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

__all__ = ["ClockOffset"]


class _Sample(NamedTuple):
    round_trip_ms: int
    offset_ms: float


class ClockOffset:
    """Signed: server minus client. Positive where the server's clock is ahead of ours.

    An answer was given somewhere between asking and hearing it, so a sample is wrong by half its round trip
    at most. Of the last few the one with the shortest round trip is believed. Samples that contradict each
    other mean that one of the clocks was set: then only the newest counts.
    """

    def __init__(self, keep: int = 8) -> None:
        self._samples: deque[_Sample] = deque(maxlen=keep)

    @property
    def known(self) -> bool:
        return bool(self._samples)

    @property
    def ms(self) -> int:
        """The estimate, in ms; 0 while nothing is known."""
        return round(min(self._samples).offset_ms) if self._samples else 0

    def learn(self, asked_ms: int, server_ms: int, heard_ms: int) -> None:
        """Adds one exchange: asked and heard by our clock, answered by the server's."""
        round_trip = heard_ms - asked_ms
        if round_trip < 0:  # our clock was set back in between
            self._samples.clear()
            return
        sample = _Sample(round_trip, server_ms - (asked_ms + heard_ms) / 2)
        if any(_contradict(sample, other) for other in self._samples):
            self._samples.clear()
        self._samples.append(sample)


def _contradict(a: _Sample, b: _Sample) -> bool:
    # 2 ms: both clocks are read in whole milliseconds.
    return abs(a.offset_ms - b.offset_ms) > (a.round_trip_ms + b.round_trip_ms) / 2 + 2
