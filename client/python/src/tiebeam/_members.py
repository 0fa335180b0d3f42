"""Which member to ask next: the configured ones, and the master once it is known.

It remembers one address only, the last that answered. It decides nothing about retries.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence


class Members:
    """The members of a cluster as far as one client knows them. Safe to share between threads."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(urls)
        self._lock = threading.Lock()
        self._master: str | None = None

    def __repr__(self) -> str:
        return f"Members({list(self._urls)!r})"

    @property
    def urls(self) -> tuple[str, ...]:
        """The configured members."""
        return self._urls

    def in_order(self) -> list[str]:
        """One round: the member that answered last first, then each configured one once."""
        with self._lock:
            master = self._master
        if master is None:
            return list(self._urls)
        return [master, *(url for url in self._urls if url != master)]

    def prefer(self, url: str) -> None:
        """Asks this member first from now on."""
        with self._lock:
            self._master = url

    def avoid(self, url: str) -> None:
        """Forgets that this member answered, if it was the last that did."""
        with self._lock:
            if self._master == url:
                self._master = None
