"""The offset between the server's clock and ours, estimated from requests and replies."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

__all__ = ["ClockOffset"]


class _Sample(NamedTuple):
    round_trip_ms: int
    offset_ms: float


class ClockOffset:
    """Server time minus client time: positive if the server's clock is ahead.

    The server replied at some time during the round trip, so a sample is wrong by at most half of it. The
    sample with the shortest round trip among the last few is used. Samples that contradict each other mean
    that a clock was set: then only the newest is kept.
    """

    def __init__(self, keep: int = 8) -> None:
        self._samples: deque[_Sample] = deque(maxlen=keep)
        self.ms = 0
        """The estimate in ms; 0 before the first sample."""

    @property
    def known(self) -> bool:
        return bool(self._samples)

    def learn(self, sent_ms: int, server_ms: int, received_ms: int) -> None:
        """Adds a sample: sent and received by our clock, replied to by the server's."""
        round_trip = received_ms - sent_ms
        if round_trip < 0:  # our clock was set back in between
            self._samples.clear()
            self.ms = 0
            return
        sample = _Sample(round_trip, server_ms - (sent_ms + received_ms) / 2)
        for other in self._samples:
            # The 2 ms: both clocks are read in whole milliseconds.
            tolerance_ms = (sample.round_trip_ms + other.round_trip_ms) / 2 + 2
            if abs(sample.offset_ms - other.offset_ms) > tolerance_ms:
                self._samples.clear()
                break
        self._samples.append(sample)
        self.ms = round(min(self._samples).offset_ms)
