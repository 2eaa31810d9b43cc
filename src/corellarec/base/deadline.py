"""Work with the network that ends in time, whatever the other side does."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def run_within(seconds: float, job: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; what it waits for is cancelled when its time is over.

    Unlike a limit for each read, this ends a server that sends a byte now and then. It runs in the
    calling thread or, where an event loop runs there already (a notebook), in another one.

    Args:
        seconds: How long it may take.
        job: What to run.

    Raises:
        TimeoutError: If it takes longer.
    """

    async def limited() -> T:
        async with asyncio.timeout(seconds):
            return await job

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(limited())
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, limited()).result()
