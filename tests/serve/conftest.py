"""The tiny run, and services over it."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from services import asking

from corellarec.cascade.cascade import Cascade
from corellarec.cascade.tables import read_pairs
from corellarec.serve.model import ServedModel
from corellarec.serve.service import Service
from corellarec.serve.settings import ServeConfig
from corellarec.serve.store import Store


@pytest.fixture(scope="session")
def run(finished) -> Path:
    return finished[0]


@pytest.fixture(scope="session")
def middle(run) -> float:
    """A threshold that half of the pairs exceed."""
    cascade = Cascade.load(run, device="cpu")
    table = pl.DataFrame({"user": [str(u) for u in range(1, 31)]}).join(
        pl.DataFrame({"item": [str(i) for i in range(1, 50)]}), how="cross"
    )
    scored = cascade.score_crm(read_pairs(cascade.log, table, "pairs"))
    return float(np.median(cascade.router.value(scored.known)))


@pytest.fixture
def make_service(run, tmp_path):
    """Makes services over the tiny cascade; all are closed at the end."""
    made = []

    def make(
        threshold: float | None = None, place: str | None = None, load=None, **settings
    ) -> Service:
        cascade = Cascade.load(run, device="cpu")
        if threshold is not None:
            asking(cascade, threshold)
        settings.setdefault("llm", {"place": "off" if threshold is None else "local"})
        settings.setdefault("answer", {"deadline_ms": 20_000, "recommend_deadline_ms": 20_000})
        settings.setdefault("http", {"log_requests": False})
        store = Store(place or str(tmp_path / "store.sqlite"))
        service = Service(
            ServedModel(cascade, "v1"), ServeConfig.model_validate(settings), store, load
        )
        made.append(service)
        return service

    yield make
    for service in made:
        if service.store._thread.is_alive():
            service.close()


@pytest.fixture(scope="session")
def other(run, tmp_path_factory):
    """Another cascade: the CRM's calibration is shifted."""
    cascade = Cascade.load(run, device="cpu")
    router = cascade.router
    cascade.router = replace(router, crm=replace(router.crm, bias=router.crm.bias + 0.7))
    directory = tmp_path_factory.mktemp("other") / "cascade"
    cascade.save(directory)
    return directory


@pytest.fixture
def load():
    return partial(ServedModel.load, device="cpu", trust=None, llm=None, server={})
