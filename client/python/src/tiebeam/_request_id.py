"""Idempotency keys: UUIDv7 whose time is the cluster's, not this machine's.

The cluster refuses a key that is older than the oldest one it remembers, by the time inside the
key. A client with a slow clock would be refused for no fault of its own calls; so the time comes
from the `Date` of the newest answer, carried on by the monotonic clock.
"""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from email.utils import parsedate_to_datetime
from typing import Callable


class ClusterClock:
    """What the time is for the cluster. Safe to share between threads."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._seen: tuple[float, float] | None = None

    def observe(self, date: str | None) -> None:
        """Takes the time from an answer's `Date` header; what is not a date is left alone."""
        if not date:
            return
        try:
            seconds = parsedate_to_datetime(date).timestamp()
        except (TypeError, ValueError, IndexError):
            return
        with self._lock:
            self._seen = (seconds, self._monotonic())

    def now_ms(self) -> int:
        """Milliseconds since 1970; by this machine's clock until an answer was seen."""
        with self._lock:
            seen = self._seen
        if seen is None:
            return int(self._wall() * 1000)
        seconds, at = seen
        return int((seconds + self._monotonic() - at) * 1000)


def request_id(clock: ClusterClock) -> str:
    """A new key: a UUIDv7 (RFC 9562) with 74 random bits."""
    milliseconds = clock.now_ms() & ((1 << 48) - 1)
    random = secrets.randbits(74)
    number = milliseconds << 80
    number |= 0x7 << 76
    number |= (random >> 62) << 64
    number |= 0b10 << 62
    number |= random & ((1 << 62) - 1)
    return str(uuid.UUID(int=number))
