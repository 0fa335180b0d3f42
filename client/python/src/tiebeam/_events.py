"""The event stream: subscribe, long-poll, subscribe again where the last one stopped.

A subscription belongs to one node. When the node is gone, or a new master does not know the
subscription, the stream subscribes again with `since` = the last cursor it handed out, so that
within the retained window nothing is lost and nothing comes twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from . import _errors as errors
from ._flow import Emit, FlowSteps
from ._protocol import Call, Protocol, Resend, Steps
from ._results import Event, Gap, event_from_wire

POLL_S = 25
"""How long a node holds a poll open: under the 30 s at which middle boxes begin to cut."""
CLOSING_S = 2.0
"""Time to end a subscription: the node drops it by itself when nobody polls."""

_SUBSCRIPTION_LOST = (
    errors.AnswerLost,
    errors.UnknownJobId,
    errors.InvalidArguments,
    errors.InvalidParameter,
    errors.OutcomeUnknown,
)


class EventStream:
    """One iteration over events."""

    def __init__(
        self,
        protocol: Protocol,
        *,
        jobs: str | Sequence[str],
        kinds: Sequence[str],
        since: str | None,
        idle_timeout: float | None,
    ) -> None:
        self._protocol = protocol
        self._filter: dict[str, Any] = {"jobs": jobs if isinstance(jobs, str) else list(jobs)}
        if kinds:
            self._filter["kinds"] = list(kinds)
        self._cursor = since
        self._idle_timeout = idle_timeout
        self._subscription: Any = None

    def steps(self) -> FlowSteps[Event | Gap]:
        """The stream itself. It ends only by `idle_timeout` or an error."""
        protocol = self._protocol
        last_event = protocol.now()
        lost_in_a_row = 0
        while True:
            if self._subscription is None:
                yield from self._subscribe()
            idle_s = protocol.now() - last_event
            if self._idle_timeout is not None and idle_s >= self._idle_timeout:
                return
            try:
                events = yield from self._poll(idle_s)
            except _SUBSCRIPTION_LOST:
                lost_in_a_row += 1
                if lost_in_a_row > 1:
                    raise
                self._subscription = None
                if self._cursor is None:
                    yield Emit(Gap(first=None, last=None))
                continue
            lost_in_a_row = 0
            for event in events:
                if self._is_news(event):
                    last_event = protocol.now()
                    yield Emit(event)

    def closing(self) -> Steps[None]:
        """Ends the subscription, if there is one."""
        if self._subscription is None:
            return
        subscription, self._subscription = self._subscription, None
        yield from self._protocol.run(
            Call("unsubscribe", [subscription], Resend.UNSENT, budget_s=CLOSING_S)
        )

    def _subscribe(self) -> Steps[None]:
        wanted = self._filter if self._cursor is None else {**self._filter, "since": self._cursor}
        self._subscription = yield from self._protocol.run(
            Call("subscribe", [wanted], Resend.FREELY)
        )

    def _poll(self, idle_s: float) -> Steps[list[Event | Gap]]:
        wait_s = POLL_S
        if self._idle_timeout is not None:
            wait_s = min(POLL_S, max(1, math.ceil(self._idle_timeout - idle_s)))
        # A poll takes events out of the subscription: repeating it could lose what the first
        # answer held, subscribing again cannot.
        answer = yield from self._protocol.run(
            Call("events", [self._subscription, wait_s], Resend.UNSENT, wait_s=wait_s)
        )
        if not isinstance(answer, list):
            raise errors.ProtocolError("not a list of events")
        return [event_from_wire(event) for event in answer]

    def _is_news(self, event: Event | Gap) -> bool:
        """Takes note of the event's place; false if it was handed out before."""
        if isinstance(event, Gap):
            self._cursor = event.last or self._cursor
            return True
        if event.cursor is None:
            return True
        if self._cursor is not None and _place(event.cursor) <= _place(self._cursor):
            return False
        self._cursor = event.cursor
        return True


def _place(cursor: str) -> tuple[int, int]:
    index, _, number = cursor.partition(".")
    try:
        return int(index), int(number or 0)
    except ValueError:
        raise errors.ProtocolError("a cursor is `<index>.<n>`") from None
