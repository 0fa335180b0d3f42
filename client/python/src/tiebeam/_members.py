"""Which member to ask next: the configured ones, the master once it is known, and those learned.

It remembers the last address that answered, and the members that the cluster named. It decides
nothing about retries.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

LEARN_EVERY_S = 60.0
"""How often the members are asked for: a cluster changes them by hand."""
LEARNED_MAX = 71
"""Learned members that are kept: 7 voters and 64 learners are all that a cluster can have."""


class Members:
    """The members of a cluster as far as one client knows them. Safe to share between threads."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(urls)
        self._lock = threading.Lock()
        self._master: str | None = None
        self._learned: tuple[str, ...] = ()
        self._due_at: float | None = None

    def __repr__(self) -> str:
        return f"Members({list(self._urls)!r})"

    @property
    def urls(self) -> tuple[str, ...]:
        """The configured members."""
        return self._urls

    def in_order(self) -> list[str]:
        """One round: who answered last, then each configured member once, then the learned ones."""
        with self._lock:
            first = () if self._master is None else (self._master,)
            return list(dict.fromkeys((*first, *self._urls, *self._learned)))

    def take_turn(self, now: float) -> bool:
        """Whether the members are to be asked for now; true once in `LEARN_EVERY_S`."""
        with self._lock:
            if self._due_at is not None and now < self._due_at:
                return False
            self._due_at = now + LEARN_EVERY_S
            return True

    def learn(self, urls: Sequence[str]) -> None:
        """The members that the cluster has now, in place of those learned before."""
        with self._lock:
            self._learned = tuple(urls)[:LEARNED_MAX]

    def prefer(self, url: str) -> None:
        """Asks this member first from now on."""
        with self._lock:
            self._master = url

    def avoid(self, url: str) -> None:
        """Forgets that this member answered, if it was the last that did."""
        with self._lock:
            if self._master == url:
                self._master = None
