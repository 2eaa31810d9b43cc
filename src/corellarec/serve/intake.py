"""What callers tell the service: interactions, new items and users, users to erase."""

import asyncio
import json
import time

from corellarec.base.errors import CorellarecError
from corellarec.serve.problems import ProblemError
from corellarec.serve.schemas import EventsAnswer, EventsRequest
from corellarec.serve.service import Service
from corellarec.serve.store import Event, Kind


async def add_events(service: Service, body: EventsRequest) -> EventsAnswer:
    """Add interactions; they are on disk, and in the next answer.

    Raises:
        ProblemError: If an item is not known.
        StoreError: If they cannot be written.
    """
    known, now = [one.model.items for one in service.lineup.all], time.time_ns() // 1000
    for place, event in enumerate(body.events):
        if not any(event.item in items for items in known):
            raise ProblemError(
                422,
                f"events.{place}.item: {event.item!r} is not known: give it with its title "
                "first (PUT /v1/items/ID)",
            )
    rows = [
        Event(
            event.event_id,
            event.user,
            event.item,
            now if event.time is None else int(event.time.timestamp() * 1_000_000),
            event.label,
            event.rating,
        )
        for event in body.events
    ]
    begun = time.monotonic()
    accepted = await asyncio.wrap_future(service.store.add_events(rows))
    service.metrics.store_seconds.observe(time.monotonic() - begun)
    service.histories.changed([event.user for event in body.events])
    return EventsAnswer(accepted=accepted, duplicates=len(rows) - accepted)


async def put(service: Service, kind: Kind, identity: str, attributes: dict[str, object]) -> bool:
    """Add an item or a user; whether it is new.

    Raises:
        ProblemError: If an attribute cannot be of the type that the log's have.
        StoreError: If it cannot be written.
    """
    if _knows(service, kind, identity):
        return False
    try:
        service.now.model.check(kind, identity, attributes)
    except CorellarecError as error:
        raise ProblemError(422, str(error)) from error
    await asyncio.wrap_future(service.store.put_entity(kind, identity, json.dumps(attributes)))
    async with service.changing:
        if not _knows(service, kind, identity):  # nobody else has read the store since
            await asyncio.to_thread(service.refresh)
    return True


async def erase_user(service: Service, user: str) -> int:
    """Remove all that is kept of a user; how many events there were.

    Raises:
        StoreError: If the store cannot be written.
    """
    now = time.time_ns() // 1000
    events = await asyncio.wrap_future(service.store.erase_user(user, now))
    service.histories.erase(user, now)
    for one in service.lineup.all:
        if one.llm:
            one.llm.forget(user)
    if service.decisions:
        await asyncio.to_thread(service.decisions.erase, user)
    return events


def _knows(service: Service, kind: Kind, identity: str) -> bool:
    models = [one.model for one in service.lineup.all]
    return all(identity in (m.items if kind == "item" else m.users) for m in models)
