"""Calls that yield many values: the shape of an iterator before somebody drives it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Callable, Generic, TypeVar, Union

from ._protocol import Step, Steps

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Done(Generic[T]):
    """The end of steps, with what they return."""

    value: T


def advance(steps: Generator[S, object, T], outcome: object) -> S | Done[T]:
    """The step after `outcome` (None at the beginning), or the end: for both clients the same."""
    try:
        return steps.send(outcome)
    except StopIteration as end:
        return Done(end.value)


@dataclass(frozen=True)
class Emit(Generic[T]):
    """A value for whoever iterates."""

    value: T


FlowSteps = Generator[Union[Step, Emit[T]], object, None]
"""Steps as in a call, with values in between."""


def nothing() -> Steps[None]:
    """The steps that close a flow which holds nothing in the cluster."""
    yield from ()


@dataclass(frozen=True)
class Flow(Generic[T]):
    """An iteration in progress."""

    steps: FlowSteps[T]
    closing: Callable[[], Steps[None]] = nothing
    """Makes the steps that give back what the iteration holds in the cluster. They are carried
    out once, however the iteration ends, and what goes wrong in them is nobody's concern."""
