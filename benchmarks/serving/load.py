"""A load generator: requests over kept connections, at a rate or as fast as they are answered.

It runs as a process of its own, and prints one JSON object.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter, deque

TIMEOUT_S = 30.0


class Connection:
    """One kept connection."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, path: str, body: bytes) -> int:
        """Send a request and read its answer; returns the status, 0 where the connection failed."""
        try:
            if self.writer is None:
                self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
            assert self.reader is not None
            head = (
                f"POST {path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            self.writer.write(head.encode() + body)
            headers = await self.reader.readuntil(b"\r\n\r\n")
            lines = headers.lower().split(b"\r\n")
            length = next(int(x.split(b":")[1]) for x in lines if x.startswith(b"content-length"))
            await self.reader.readexactly(length)
            return int(headers.split(b" ", 2)[1])
        except (OSError, asyncio.IncompleteReadError):
            if self.writer is not None:
                self.writer.close()
            self.writer = None
            return 0


async def load(given: argparse.Namespace) -> dict[str, object]:
    """Send requests until the time is over; what was answered, and when."""
    facts = json.loads(sys.stdin.read())
    chance = random.Random(given.seed)
    free = deque(Connection(given.host, given.port) for _ in range(given.connections))
    statuses: Counter[int] = Counter()
    seconds: list[float] = []
    refused: list[float] = []
    skipped = 0
    running: set[asyncio.Task[None]] = set()

    def body() -> bytes:
        asked = {
            "user": chance.choice(facts["users"]),
            "candidates": chance.sample(facts["items"], given.candidates),
        }
        if given.deadline_ms:
            asked["deadline_ms"] = given.deadline_ms
        return json.dumps(asked).encode()

    async def one(connection: Connection) -> None:
        text = body()
        begun = time.monotonic()
        status = await connection.ask(given.path, text)
        took = time.monotonic() - begun
        statuses[status] += 1
        (seconds if status == 200 else refused).append(took)
        free.append(connection)

    begun = time.monotonic()
    sent = 0
    while (now := time.monotonic()) < begun + given.seconds:
        due = given.connections if given.rate is None else int((now - begun) * given.rate) - sent
        for _ in range(due):
            if not free:
                if given.rate is not None:
                    skipped += 1
                    sent += 1
                continue
            sent += 1
            task = asyncio.create_task(one(free.popleft()))
            running.add(task)
            task.add_done_callback(running.discard)
        if running and given.rate is None:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(0.001)
    if running:
        await asyncio.wait(running, timeout=TIMEOUT_S)
    took = time.monotonic() - begun
    return {
        "seconds": took,
        "statuses": dict(statuses),
        "skipped": skipped,
        "rows_per_s": statuses[200] * given.candidates / took,
        "ms": quantiles(seconds),
        "refused_ms": quantiles(refused),
    }


def quantiles(seconds: list[float]) -> dict[str, float] | None:
    """Quantiles in milliseconds; None where there is nothing."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    places = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {
        name: round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)
        for name, share in places.items()
    }


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--path", default="/v1/score")
    options.add_argument("--rate", type=float)
    options.add_argument("--seconds", type=float, required=True)
    options.add_argument("--connections", type=int, default=32)
    options.add_argument("--candidates", type=int, default=20)
    options.add_argument("--deadline-ms", type=int)
    options.add_argument("--seed", type=int, default=1)
    print(json.dumps(asyncio.run(load(options.parse_args()))))


if __name__ == "__main__":
    main()
