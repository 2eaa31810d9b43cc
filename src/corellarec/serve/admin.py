"""Cascades loaded, compared and taken back while the service runs."""

import asyncio
from pathlib import Path

from corellarec.base.errors import CorellarecError
from corellarec.serve.problems import ProblemError
from corellarec.serve.schemas import LoadedModel, LoadModel, ModelsAnswer
from corellarec.serve.service import Service


def models(service: Service) -> ModelsAnswer:
    """What is loaded."""
    lineup = service.lineup
    beside = lineup.share or None
    found = [LoadedModel(version=lineup.live.model.version, role="live", share=1 - lineup.share)]
    if lineup.beside:
        role = "share" if beside else "shadow"
        version = lineup.beside.model.version
        found.append(LoadedModel(version=version, role=role, share=beside))
    if lineup.previous:
        version = lineup.previous.model.version
        found.append(LoadedModel(version=version, role="previous", share=None))
    return ModelsAnswer(models=found)


async def load_model(service: Service, body: LoadModel) -> ModelsAnswer:
    """Load a cascade; requests go on meanwhile.

    Raises:
        ProblemError: If it cannot be served; nothing changes then.
    """
    async with service.changing:
        try:
            await asyncio.to_thread(service.load, Path(body.path), body.mode, body.share or 0.0)
        except (CorellarecError, OSError) as error:
            raise ProblemError(422, f"path: {error}") from error
    return models(service)


async def roll_back(service: Service) -> ModelsAnswer:
    """Undo the last load.

    Raises:
        ProblemError: If there is nothing to go back to.
    """
    async with service.changing:
        if not await asyncio.to_thread(service.roll_back):
            raise ProblemError(409, "no other cascade is loaded: there is nothing to go back to")
    return models(service)
