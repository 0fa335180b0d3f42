"""Start many jobs, wait for all of them, and tell which ones failed and why."""

from __future__ import annotations

import asyncio

import tiebeam

NUMBERS = range(8)


async def main() -> None:
    """Writes some values concurrently."""
    async with tiebeam.AsyncClient.from_environment() as client:
        await client.login()  # a token is checked faster than a password, eight times over
        results = await asyncio.gather(
            *(client.config_set(f"app/many/n{number}", number, check=False) for number in NUMBERS)
        )
        await client.logout()
    for result in results:
        print(result.job_id, result.name, result.description)
    failed = [result for result in results if not result.ok]
    if failed:
        raise SystemExit(f"{len(failed)} of {len(results)} failed")


if __name__ == "__main__":
    asyncio.run(main())
