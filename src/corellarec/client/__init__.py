"""A client of the service (``corellarec serve``): scores, recommendations, events.

It needs httpx, and loads neither torch nor polars.
"""

from corellarec.client.async_client import AsyncClient
from corellarec.client.client import Client
from corellarec.client.values import (
    Added,
    Candidate,
    Event,
    Explanation,
    ModelInfo,
    NewItem,
    OverloadedError,
    PastEvent,
    Scores,
    ServiceError,
    UnavailableError,
)

__all__ = [
    "Added",
    "AsyncClient",
    "Candidate",
    "Client",
    "Event",
    "Explanation",
    "ModelInfo",
    "NewItem",
    "OverloadedError",
    "PastEvent",
    "Scores",
    "ServiceError",
    "UnavailableError",
]
