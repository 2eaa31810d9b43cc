"""The parts of the service, and their life: what they share, how they start and end."""

import asyncio
import contextlib
import itertools
import secrets
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from corellarec.base.errors import CorellarecError
from corellarec.cascade.router import explain
from corellarec.serve.budget import Bucket
from corellarec.serve.crm import CrmThread
from corellarec.serve.decisions import DecisionLog
from corellarec.serve.estimate import KEY
from corellarec.serve.histories import Histories
from corellarec.serve.llm import LlmThread
from corellarec.serve.metrics import Metrics
from corellarec.serve.model import ServedModel
from corellarec.serve.pace import Pace
from corellarec.serve.schemas import ModelAnswer
from corellarec.serve.settings import ServeConfig
from corellarec.serve.store import Store, StoreError

WRITE_EVERY_S = 10
CREDIT = "budget_credit"


@dataclass(frozen=True)
class InService:
    """What answers.

    Args:
        model: The CRM, the router and the tables.
        llm: The language model's thread; None where it is off.
    """

    model: ServedModel
    llm: LlmThread | None


class Service:
    """Models, queues, histories, budget and store; requests use it from one event loop.

    Args:
        model: What is served.
        config: All settings.
        store: Events and entities.
    """

    def __init__(self, model: ServedModel, config: ServeConfig, store: Store) -> None:
        self.config, self.store, self.metrics = config, store, Metrics()
        model = model.with_more(store.entities("item"), store.entities("user"))
        answer, budget = config.answer, config.budget
        self.histories = Histories(store, answer.users_kept, answer.max_history)
        self.crm = CrmThread(self.histories, answer.batch_rows)
        self.rankings = CrmThread(self.histories, 1)  # one user's after another's
        self.bucket = Bucket(
            budget.burst,
            model.router.limit if budget.share is None else budget.share,
            budget.rows_per_s,
            float(store.fact(CREDIT) or 0.0),
        )
        self.pace = Pace()
        self.decisions: DecisionLog | None = None
        if config.decisions.directory is not None:
            place = "" if store.is_postgres else str(Path(store.place).resolve())
            self.decisions = DecisionLog(config.decisions, _key(store), place)
        self._save_credit().result()
        llm = LlmThread(model, config.llm, self._count) if config.llm.place != "off" else None
        if llm:  # loading one keeps the interpreter busy, and answers would be late
            llm.wait_until_loaded(config.llm.wait_s)
        self.now = InService(model, llm)
        self.refreshing = asyncio.Lock()
        self._set_info()

    async def keep_saving(self) -> None:
        """Keep the budget's credit and the decisions on disk, until cancelled."""
        for second in itertools.count(1):
            await asyncio.sleep(1.0)
            # What was saved before is not more than there is.
            with contextlib.suppress(StoreError):
                await asyncio.wrap_future(self._save_credit())
            if self.decisions and second % WRITE_EVERY_S == 0:
                with contextlib.suppress(OSError, CorellarecError):
                    await asyncio.to_thread(self.decisions.write)

    def close(self) -> None:
        """Stop all threads; what waits is finished, a language model that hangs is not."""
        self.crm.close()
        self.rankings.close()
        if self.now.llm:
            self.now.llm.close(1.0)
        if self.decisions:
            self.decisions.write()
        self.store.set_fact(CREDIT, repr(self.bucket.level))
        self.store.close()

    def refresh(self) -> None:
        """Read the store's items and users into the model; in a thread of its own."""
        llm = self.now.llm
        model = self.now.model.with_more(self.store.entities("item"), self.store.entities("user"))
        if llm:
            llm.use(model)
        self.now = InService(model, llm)
        self.histories.clear()

    def describe(self) -> ModelAnswer:
        """What is served."""
        model, llm = self.now.model, self.now.llm
        return ModelAnswer(
            version=model.version,
            crm=model.recipe.crm.model,
            llm=model.recipe.llm.model if llm else "off",
            llm_ready=llm is not None and llm.ready,
            llm_error=llm.error if llm else None,
            router=explain(model.router),
            items=len(model.items),
            users=len(model.users),
        )

    def measure(self) -> bytes:
        """All metrics, as they are now."""
        of, llm = self.metrics, self.now.llm
        of.budget_credit.set(self.bucket.level)
        of.queue_depth.labels("crm").set(self.crm.rows_waiting)
        of.queue_depth.labels("llm").set(llm.tokens_waiting if llm else 0)
        of.breaker_open.set(bool(llm and llm.held_back))
        return of.text()

    def _count(self, name: str, amount: float) -> None:
        if name == "tokens":
            self.metrics.llm_tokens.inc(amount)
        else:
            self.bucket.give_back(int(amount))

    def _save_credit(self) -> "Future[object]":
        value = self.bucket.to_save()
        future = self.store.set_fact(CREDIT, repr(value))
        future.add_done_callback(
            lambda done: None if done.exception() else self.bucket.saved(value)
        )
        return future

    def _set_info(self) -> None:
        model = self.now.model
        llm = model.recipe.llm.model if self.now.llm else "off"
        self.metrics.model_info.clear()
        self.metrics.model_info.labels(model.version, model.recipe.crm.model, llm).set(1)


def _key(store: Store) -> str:
    """The secret of the decision log's hashes, made once."""
    if store.fact(KEY) is None:
        store.set_fact(KEY, secrets.token_hex(32)).result()
    return store.fact(KEY) or ""
