"""What a type checker sees: mypy is the test, pytest only proves that the file is looked at."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import TYPE_CHECKING, Any, Union

from tiebeam import AsyncClient, Client, Event, Gap, JobRecord, JobResult, Login

if TYPE_CHECKING:
    from typing_extensions import assert_type

    Happening = Union[Event, Gap]

    def plain(client: Client) -> None:
        assert_type(client.job_list(), list[str])
        assert_type(client.exec("x", {"a": 1}, check=False, reason="r"), JobResult)
        assert_type(client.start("x"), str)
        assert_type(client.config_get("app"), Any)
        assert_type(client.config_set("app/x", 1, timeout=5, reason="r"), JobResult)
        assert_type(client.login(), Login)
        assert_type(client.history(user="a"), Iterator[JobRecord])
        assert_type(client.events(), Iterator[Happening])
        assert_type(client.jobs.anything(a=1), JobResult)
        client.exec("x", reasn="r")  # type: ignore[call-arg]
        client.start("x", check=False)  # type: ignore[call-arg]
        client.history(nam="x")  # type: ignore[call-arg]
        client.exec(1)  # type: ignore[arg-type]
        Client("n11", passwd="x")  # type: ignore[call-arg]

    async def awaitable(client: AsyncClient) -> None:
        assert_type(await client.job_list(), list[str])
        assert_type(await client.exec("x"), JobResult)
        assert_type(client.jobs.anything(a=1), Awaitable[JobResult])
        assert_type(client.history(), AsyncIterator[JobRecord])
        assert_type(client.events(), AsyncIterator[Happening])
        async with AsyncClient("n11") as entered:
            assert_type(entered, AsyncClient)


def test_the_clients_are_typed() -> None:
    assert Client.asynchronous is False
    assert AsyncClient.asynchronous is True
