"""Makes one call into a method of both clients: plain on `Client`, awaitable on `AsyncClient`.

`operation` and `stream` wrap a method of `Calls`. Looked up on a client, they give a real function
with the call's own name, signature and docstring, which drives the call's steps in the client's
way. To a type checker they are descriptors with an overload for each client.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import TYPE_CHECKING, Any, Callable, Generic, TypeVar, overload

if TYPE_CHECKING:
    from typing_extensions import Concatenate, ParamSpec

    from ._calls import Calls
    from ._client import AsyncClient, Client
    from ._flow import Flow
    from ._protocol import Steps

    P = ParamSpec("P")
    T = TypeVar("T")

    class Operation(Generic[P, T]):
        """A call, as a type checker sees it."""

        @overload
        def __get__(self, client: Client, owner: Any = ...) -> Callable[P, T]: ...
        @overload
        def __get__(self, client: AsyncClient, owner: Any = ...) -> Callable[P, Awaitable[T]]: ...
        def __get__(self, client: Any, owner: Any = None) -> Any: ...

    class Stream(Generic[P, T]):
        """An iteration, as a type checker sees it."""

        @overload
        def __get__(self, client: Client, owner: Any = ...) -> Callable[P, Iterator[T]]: ...
        @overload
        def __get__(
            self, client: AsyncClient, owner: Any = ...
        ) -> Callable[P, AsyncIterator[T]]: ...
        def __get__(self, client: Any, owner: Any = None) -> Any: ...

    def operation(call: Callable[Concatenate[Calls, P], Steps[T]]) -> Operation[P, T]:
        """Makes a call a method."""

    def stream(call: Callable[Concatenate[Calls, P], Flow[T]]) -> Stream[P, T]:
        """Makes a call that yields many values a method."""

else:

    class _Bound:
        """Holds the two methods that one call becomes."""

        def __init__(self, plain, awaitable):
            self._plain, self._awaitable = plain, awaitable
            self.__doc__ = plain.__doc__

        def __get__(self, client, owner):
            method = self._awaitable if owner.asynchronous else self._plain
            return method if client is None else method.__get__(client, owner)

    def operation(call):
        """Makes a call a method."""

        @functools.wraps(call)
        def plain(self, *args, **kwargs):
            return self._drive(call(self._calls, *args, **kwargs))

        @functools.wraps(call)
        async def awaitable(self, *args, **kwargs):
            return await self._drive(call(self._calls, *args, **kwargs))

        _returns(plain, call, "{}")
        _returns(awaitable, call, "{}")
        return _Bound(plain, awaitable)

    def stream(call):
        """Makes a call that yields many values a method."""

        @functools.wraps(call)
        def plain(self, *args, **kwargs):
            return self._iterate(call(self._calls, *args, **kwargs))

        @functools.wraps(call)
        def awaitable(self, *args, **kwargs):
            return self._iterate(call(self._calls, *args, **kwargs))

        _returns(plain, call, "Iterator[{}]")
        _returns(awaitable, call, "AsyncIterator[{}]")
        return _Bound(plain, awaitable)

    def _returns(method, call, form):
        """Shows what a method returns to its caller, in place of the generator behind it."""
        signature = inspect.signature(call)
        _, _, inner = signature.return_annotation.partition("[")
        shown = form.format(inner[:-1])
        method.__signature__ = signature.replace(return_annotation=shown)
        method.__annotations__ = {**call.__annotations__, "return": shown}
