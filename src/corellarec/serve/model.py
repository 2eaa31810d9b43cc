"""A cascade as the service holds it: numbers of ids, readers for its threads, one version."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from corellarec.base.artifacts import MANIFEST, sha256
from corellarec.base.errors import ConfigError
from corellarec.cascade.cascade import Cascade
from corellarec.cascade.tables import read_new
from corellarec.crm.batch import Reader
from corellarec.crm.build import build_reader
from corellarec.crm.score import crm_logits
from corellarec.data.histories import NO_ONE, candidates_over
from corellarec.data.levels import rating_levels
from corellarec.data.log import Log
from corellarec.serve.store import Kind


class ServedModel:
    """A cascade at one moment; items and users are added by making another one.

    Args:
        cascade: Its tables must not change any more.
        version: The checksum of its directory.

    Attributes:
        items, users: Numbers in the tables, by id.

    Raises:
        ConfigError: If its CRM is external: a service has no scores of it.
    """

    def __init__(self, cascade: Cascade, version: str) -> None:
        if cascade.models.crm is None:
            raise ConfigError(
                "this cascade's CRM is external: the service scores with the CRM itself"
            )
        self.crm, self.cascade, self.version = cascade.models.crm, cascade, version
        self.log, self.router, self.recipe = cascade.log, cascade.router, cascade.recipe
        self.items = {one: i for i, one in enumerate(self.log.items["id"])}
        self.users = {one: i for i, one in enumerate(self.log.users["id"])}
        if any(one.statistics or one.model == "stream" for one in self.recipe.crm.networks):
            _ = self.log.statistics  # now, not with the first request

    @classmethod
    def load(cls, directory: Path, *, device: str, trust: str | None, llm: str | None,
             server: Mapping[str, Any]) -> "ServedModel":  # fmt: skip
        """Read a cascade's directory, or a run's.

        Args:
            directory: Where it is.
            device: As for ``Cascade.load``.
            trust: Likewise.
            llm: Likewise.
            server: The arguments of ``Cascade.load`` that name a vLLM server, if there is one.
        """
        cascade = Cascade.load(directory, device=device, trust=trust, llm=llm, **server)
        inner = directory / "cascade"
        manifest = (inner if (inner / MANIFEST).is_file() else directory) / MANIFEST
        return cls(cascade, sha256(manifest)[:16])

    def warm_up(self) -> None:
        """Score once: the first pass takes longer than those that requests wait for."""
        log, samples = candidates_over(self.log, [-1], [NO_ONE[:0]], [np.zeros(1, np.int64)])
        crm_logits(self.crm, self.reader().over(log), samples)

    def reader(self) -> Reader:
        """What makes the CRM's batches; each thread has its own."""
        return build_reader(self.recipe.crm, self.log, torch.device("cpu"))

    def level(self, label: int, rating: float | None) -> int:
        """The level of an event, as :mod:`corellarec.data.levels` has it."""
        edges = self.log.features.ratings
        if rating is None or not edges:
            return label
        return int(rating_levels([rating], edges)[0])  # pyright: ignore[reportArgumentType]

    def check(self, kind: Kind, identity: str, attributes: Mapping[str, object]) -> None:
        """Refuse attributes that the log's items or users cannot have.

        Raises:
            DataError: If one is not of the type that it has there.
        """
        self._frame(kind, [(identity, json.dumps(attributes))])

    def with_more(
        self, items: Iterable[tuple[str, str]], users: Iterable[tuple[str, str]]
    ) -> "ServedModel":
        """The same with further items and users; those that it knows stay as they are.

        Args:
            items: Ids and attributes (JSON).
            users: Likewise.
        """
        new_items, new_users = self._frame("item", items), self._frame("user", users)
        if new_items is None and new_users is None:
            return self
        cascade = self.cascade_over(self.log)
        if new_items is not None:
            cascade.add_items(new_items)
        if new_users is not None:
            cascade.add_users(new_users)
        return ServedModel(cascade, self.version)

    def cascade_over(self, log: Log) -> Cascade:
        """The cascade with another log, or with this one, to be changed apart from it."""
        of = self.cascade
        return Cascade(replace(of.recipe, router=of.router), log, of.models, of.adapter)

    def _frame(self, kind: Kind, given: Iterable[tuple[str, str]]) -> pl.DataFrame | None:
        """The unknown ones as a table, each typed by itself: JSON's types may differ."""
        known, table = (
            (self.items, self.log.items) if kind == "item" else (self.users, self.log.users)
        )
        rows = [
            read_new(table, pl.DataFrame([{**json.loads(text), "id": one}]), f"{kind} {one!r}")
            for one, text in given
            if one not in known
        ]
        return pl.concat(rows, how="diagonal") if rows else None
