"""The parts of the service, and their life: what they share, how they start and end."""

import asyncio
import contextlib
import itertools
import secrets
from concurrent.futures import Future
from pathlib import Path

from corellarec.base.errors import ConfigError, CorellarecError
from corellarec.cascade.router import explain
from corellarec.serve.budget import Bucket
from corellarec.serve.crm import CrmThread
from corellarec.serve.decisions import DecisionLog
from corellarec.serve.estimate import KEY
from corellarec.serve.histories import Histories
from corellarec.serve.lineup import InService, Lineup, Load, Mode
from corellarec.serve.llm import LlmThread
from corellarec.serve.metrics import Metrics
from corellarec.serve.model import ServedModel
from corellarec.serve.recent import Recent
from corellarec.serve.schemas import ModelAnswer
from corellarec.serve.settings import ServeConfig
from corellarec.serve.store import Store, StoreError
from corellarec.serve.tracing import Tracing

WRITE_EVERY_S = 10
CREDIT = "budget_credit"


class Service:
    """Models, queues, histories, budget and store; requests use it from one event loop.

    Args:
        model: What is served.
        config: All settings.
        store: Events and entities.
        load: Reads another cascade, for :meth:`load`.
    """

    def __init__(
        self, model: ServedModel, config: ServeConfig, store: Store, load: Load | None = None
    ) -> None:
        self.config, self.store, self.metrics = config, store, Metrics()
        self._load, self.changing = load, asyncio.Lock()
        answer, budget = config.answer, config.budget
        self.histories = Histories(store, answer.users_kept, answer.max_history)
        self.crm = CrmThread(self.histories, answer.batch_rows)
        self.rankings = CrmThread(self.histories, 1)  # one user's after another's
        self.bucket = Bucket(
            budget.burst,
            self._share(model),
            budget.rows_per_s,
            float(budget.burst if (credit := store.fact(CREDIT)) is None else credit),
        )
        self.tracing = Tracing.from_environment()
        self.recent = Recent()
        self.shadow_tasks = set[asyncio.Task[None]]()
        self.decisions: DecisionLog | None = None
        if config.decisions.directory is not None:
            place = "" if store.is_postgres else str(Path(store.place).resolve())
            self.decisions = DecisionLog(config.decisions, secret_key(store), place)
        self._save_credit().result()
        self.lineup = Lineup(self._start(model))
        self._set_info()

    async def keep_saving(self) -> None:
        """Keep the budget's credit and the decisions on disk, until cancelled."""
        for second in itertools.count(1):
            await asyncio.sleep(1.0)
            self.recent.tick()
            # What was saved before is not more than there is.
            with contextlib.suppress(StoreError):
                await asyncio.wrap_future(self._save_credit())
            if self.decisions and second % WRITE_EVERY_S == 0:
                with contextlib.suppress(OSError, CorellarecError):
                    await asyncio.to_thread(self.decisions.write)

    def close(self) -> None:
        """Stop all threads; what waits is finished, a language model that hangs is not."""
        self.histories.close()
        self.crm.close()
        self.rankings.close()
        for one in self.lineup.all:
            one.close()
        self.tracing.close()
        if self.decisions:
            self.decisions.write()
        self.store.set_fact(CREDIT, repr(self.bucket.level))
        self.store.close()

    @property
    def now(self) -> InService:
        """The cascade that is live."""
        return self.lineup.live

    def refresh(self) -> None:
        """Read the store's items and users into the models; in a thread of its own."""
        items, users = self.store.entities("item"), self.store.entities("user")
        newer = {}
        for one in self.lineup.all:
            model = one.model.with_more(items, users)
            if one.llm:
                one.llm.use(model)
            newer[one] = InService(model, one.llm)
        old = self.lineup
        self.lineup = Lineup(
            newer[old.live],
            old.beside and newer[old.beside],
            old.share,
            old.previous and newer[old.previous],
        )
        self.histories.clear()

    def load(self, path: Path, mode: Mode, share: float) -> None:
        """Read another cascade, warm it, and take it into the line-up; in a thread of its own.

        Args:
            path: Directory of a run or a cascade.
            mode: ``live`` in place of the one in service, ``share`` for a share of the users, or
                ``shadow``, whose answers are logged and not served.
            share: Of the users.

        Raises:
            CorellarecError: If it cannot be served; nothing changes then.
        """
        if self._load is None:
            raise ConfigError("this service was started without a way to load others")
        new = self._start(self._load(path))
        self._put(self.lineup.with_loaded(new, mode, share))

    def roll_back(self) -> bool:
        """Undo the last :meth:`load`; False where there is nothing to go back to."""
        found = self.lineup.rolled_back()
        if found is not None:
            self._put(found)
        return found is not None

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
        of.budget_share.set(0.0 if self.bucket.rows_per_s else self.bucket.share)
        of.queue_depth.labels("crm").set(self.crm.rows_waiting)
        of.queue_depth.labels("llm").set(llm.tokens_waiting if llm else 0)
        of.breaker_open.set(bool(llm and llm.held_back))
        for one in self.recent.drift():
            of.drift.labels(one.name).set(one.psi)
        return of.text()

    def _start(self, model: ServedModel) -> InService:
        """A model with the store's items and users, warm, and its language model's thread.

        Raises:
            ConfigError: If the budget never holds a list that the cascade sends as a whole.
        """
        store, config = self.store, self.config
        lists, burst = model.recipe.lists, config.budget.burst
        if lists and config.llm.place != "off" and burst < lists.length:
            raise ConfigError(
                f"budget.burst is {burst}, and the cascade sends whole lists of {lists.length} "
                f"rows, which would never be sent: set it to {lists.length} or more"
            )
        model = model.with_more(store.entities("item"), store.entities("user"))
        model.warm_up()
        llm = None
        if config.llm.place != "off":
            llm = LlmThread(model, config.llm, self.metrics.llm_tokens.inc)
            # loading one keeps the interpreter busy, and answers would be late
            llm.wait_until_loaded(config.llm.wait_s)
        return InService(model, llm)

    def _put(self, lineup: Lineup) -> None:
        """Take another line-up into service, and end what is in it no longer."""
        old, self.lineup = self.lineup, lineup
        self.bucket.share = self._share(lineup.live.model)
        self.histories.clear()
        self.recent.clear()
        self._set_info()
        kept = {id(one) for one in lineup.all}
        for one in old.all:
            if id(one) not in kept:
                one.close()

    def _share(self, model: ServedModel) -> float:
        share = self.config.budget.share
        return model.router.limit if share is None else share

    def _save_credit(self) -> "Future[object]":
        value = self.bucket.to_save()
        future = self.store.set_fact(CREDIT, repr(value))
        future.add_done_callback(
            lambda done: None if done.exception() else self.bucket.saved(value)
        )
        return future

    def _set_info(self) -> None:
        self.metrics.model_info.clear()
        for one in self.lineup.all:
            model = one.model
            llm = model.recipe.llm.model if one.llm else "off"
            role = "previous"
            if one is self.lineup.live:
                role = "live"
            elif one is self.lineup.beside:
                role = "share" if self.lineup.share else "shadow"
            self.metrics.model_info.labels(model.version, model.recipe.crm.model, llm, role).set(1)


def secret_key(store: Store) -> str:
    """The secret of the decision log's hashes and of pseudonyms, made once."""
    if store.fact(KEY) is None:
        store.set_fact(KEY, secrets.token_hex(32)).result()
    return store.fact(KEY) or ""
