"""The language model's thread: a bounded queue, users' states, and what is too late left out."""

import asyncio
import copy
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch

from corellarec.base.errors import ModelError
from corellarec.base.metrics import Floats
from corellarec.data.histories import candidates_over, history_of
from corellarec.data.log import Log
from corellarec.llm.layout import Layout, StreamLayout
from corellarec.llm.remote import RemoteScorer
from corellarec.llm.score import LlmScorer, Scorer
from corellarec.llm.state import UserStates
from corellarec.serve.asks import LlmAsk, LlmWork
from corellarec.serve.breaker import Breaker
from corellarec.serve.histories import UserHistory
from corellarec.serve.model import ServedModel
from corellarec.serve.settings import LlmSettings

Refusal = Literal["late", "breaker", "queue_full", "llm_not_ready"]
Outcome = Literal["asked", "late", "breaker", "queue_full", "llm_not_ready", "llm_error"]
FIRST_GUESS = 200  # tokens for a row, before any was scored
SMOOTHING = 0.3  # weight of the newest call in mean times
WARM_UP_ROWS = 20
WARM_UP_S = 30.0  # for a server to answer first
STUCK_S = 1.0  # a call in hand for longer holds further ones back
HALF_LIFE_S = 20.0  # in which a time that was not measured again counts half


class LlmThread:
    """Asks the language model of one served model.

    It is loaded in the background: until then, and whenever it is too slow, full, failing or gone,
    rows have the CRM's answer.

    Args:
        model: The served model.
        settings: Limits.
        count_tokens: Called with the tokens that a call took.
    """

    def __init__(
        self,
        model: ServedModel,
        settings: LlmSettings,
        count_tokens: Callable[[float], None] = lambda tokens: None,
    ) -> None:
        self.settings, self.breaker = settings, Breaker(settings.failures, settings.pause_s)
        self.error: str | None = None
        self.tokens_waiting = 0.0
        self._count_tokens = count_tokens
        self._asks: deque[LlmAsk] = deque()
        self._forgotten: list[str] = []
        self._wake = threading.Condition()
        self._ended, self._loaded = False, threading.Event()
        self._begun: float | None = None  # when the call in hand was made
        self._scorer: Scorer | None = None
        self._ready = False
        self._states: UserStates | None = None
        self._seconds_per_token, self._measured = 0.0, time.monotonic()
        self._tokens_per_row = float(FIRST_GUESS)
        self._model = self._wanted = model
        self._make_scorer = model.cascade.models.load_llm
        self._thread = threading.Thread(target=self._work, name="llm", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether it is loaded."""
        return self._ready

    def layout_of(self, log: Log) -> Layout | None:
        """How users become tokens with a log's tables; None until it is loaded."""
        if self._scorer is None:
            return None
        scorer = self._scorer if log is self._model.log else self._make(log)
        return getattr(scorer, "layout", None)

    @property
    def held_back(self) -> bool:
        """Whether it is not asked for now, after failures or while a call hangs."""
        return self.breaker.is_open or self._stuck(time.monotonic())

    def wait_until_loaded(self, seconds: float) -> None:
        """Return once it is loaded, or cannot be, or the time is over."""
        self._loaded.wait(seconds)

    def submit(self, ask: LlmAsk) -> Refusal | None:
        """Queue an ask; returns why it is not, where it is not."""
        if not self._ready or self._ended:
            return "llm_not_ready"
        with self._wake:
            ask.tokens = self._cost(ask)
            now = time.monotonic()
            if self.tokens_waiting + ask.tokens > self.settings.queue_tokens:
                return "queue_full"
            decay = 0.5 ** ((now - self._measured) / HALF_LIFE_S)
            wait = (self.tokens_waiting + ask.tokens) * self._seconds_per_token * decay
            if now + wait > ask.deadline:
                return "late"
            if self._stuck(now) or not self.breaker.allows():
                return "breaker"
            self.tokens_waiting += ask.tokens
            self._asks.append(ask)
            self._wake.notify()
        return None

    def use(self, model: ServedModel) -> None:
        """Go on with a model of more items and users."""
        with self._wake:
            self._wanted = model
            self._wake.notify()

    def forget(self, user: str) -> None:
        """Drop a user's state, and the waiting asks that would bring it back."""
        with self._wake:
            self._forgotten.append(user)
            for ask in [ask for ask in self._asks if ask.key == user]:
                self._asks.remove(ask)
                self.tokens_waiting -= ask.tokens
                self._skip(ask)
            self._wake.notify()

    def close(self, wait_s: float) -> None:
        """End the thread; one that hangs is left behind."""
        with self._wake:
            self._ended = True
            self._wake.notify()
        self._thread.join(wait_s)

    async def ask(self, ask: LlmAsk) -> tuple[Outcome, Floats | None]:
        """Ask and wait until the deadline; how that ended, and the logits if they came in time."""
        refusal = self.submit(ask)
        if refusal is not None:
            ask.unasked(len(ask.items))
            return refusal, None
        await asyncio.wait([ask.future], timeout=max(0.0, ask.deadline - time.monotonic()))
        if not ask.future.done():
            ask.future.cancel()
            return "late", None
        result = ask.future.result()
        if result is None:
            return "late", None
        if isinstance(result, Exception):
            return "llm_error", None
        return "asked", result

    def _cost(self, ask: LlmAsk) -> float:
        """Tokens that it will take, about."""
        if self._states is None:
            return len(ask.items) * self._tokens_per_row
        rows = len(ask.items)
        if ask.key is None or ask.key not in self._states.states:
            rows += min(len(ask.user.history), self._states.layout.history_length)
        return rows * self._tokens_per_row

    def _work(self) -> None:
        torch.set_num_threads(1)
        try:
            self._use(self._wanted, self._make_scorer())
            self._warm_up()
            self._ready = True
        except Exception as error:  # whatever is wrong with the model: the CRM answers
            self.error = f"{type(error).__name__}: {error}"
            return
        finally:
            self._loaded.set()
        while True:
            with self._wake:
                while not (self._asks or self._ended or self._forgotten
                           or self._wanted is not self._model):  # fmt: skip
                    self._wake.wait()
                if self._ended:
                    return
                forgotten, self._forgotten = self._forgotten, []
                wanted, asks = self._wanted, self._next_batch()
            if wanted is not self._model:
                self._use(wanted, self._make)
            if self._states is not None:
                for user in forgotten:
                    self._states.states.pop(user, None)
            if asks:
                self._answer(asks)

    def _use(self, model: ServedModel, make: Callable[..., Scorer]) -> None:
        """Read with the tables of a model from now on."""
        scorer = make(model.log)
        self._make, self._model, self._states = make, model, None
        if (
            isinstance(scorer, LlmScorer)
            and isinstance(scorer.layout, StreamLayout)
            and scorer.model.packs
        ):
            self._states = UserStates(scorer.model, scorer.layout, self.settings.states_mb << 20)
            self._tokens_per_row = float(len(scorer.layout.line(0)) + 2)
        self._scorer = scorer

    def _warm_up(self) -> None:
        """Score as for a request, twice: how long the second takes is the first expectation."""
        log = self._model.log
        user = UserHistory(0, history_of(log, 0), np.zeros(0, np.int32))
        items = np.arange(min(WARM_UP_ROWS, log.items.height))
        for _ in range(2):
            work = LlmWork(self._model, None, user, items)
            begun = time.monotonic()
            try:
                _, tokens = self._logits([work])
            except ModelError as error:  # a server that is away now may come later
                self.error = str(error)
                return
            self._seconds_per_token = (time.monotonic() - begun) / max(tokens, 1.0)
            self._measured = time.monotonic()

    def _stuck(self, now: float) -> bool:
        """Whether the call in hand takes much longer than any should."""
        begun = self._begun
        return begun is not None and now - begun > STUCK_S

    def _next_batch(self) -> list[LlmAsk]:
        """Asks to answer together: one where users have states, else some within the budget."""
        asks: list[LlmAsk] = []
        tokens = 0.0
        while self._asks:
            new = self._asks[0]
            if asks and (
                self._states is not None
                or asks[0].prepared
                or new.prepared
                or tokens + new.tokens > self.settings.tokens_per_batch
            ):
                break
            asks.append(self._asks.popleft())
            tokens += asks[-1].tokens
        return asks

    def _answer(self, asks: Sequence[LlmAsk]) -> None:
        self._begun = begun = time.monotonic()
        waiting = [ask for ask in asks if ask.deadline > begun and not ask.future.done()]
        for ask in asks:
            if ask not in waiting:
                self._skip(ask)
        if waiting:
            try:
                self._finish(waiting, *self._logits(waiting), begun)
            except Exception as error:  # the server's, a wrong answer, memory: the CRM answers
                self.breaker.failed()
                self.error = f"{type(error).__name__}: {error}"
                for ask in waiting:
                    ask.finish(error)
        self._begun = None
        with self._wake:
            self.tokens_waiting -= sum(ask.tokens for ask in asks)

    def _skip(self, ask: LlmAsk) -> None:
        """Leave an ask's rows to the CRM; no call was made for them."""
        ask.finish(None)
        ask.unasked(len(ask.items))

    def _finish(self, asks: Sequence[LlmAsk], logits: Floats, tokens: float, begun: float) -> None:
        if len(logits) != sum(len(ask.items) for ask in asks) or not np.isfinite(logits).all():
            raise ValueError("the language model's answers are not one number for each row")
        self._count_tokens(tokens)
        now, start, in_time = time.monotonic(), 0, False
        for ask in asks:
            ask.finish(logits[start : start + len(ask.items)])
            start += len(ask.items)
            in_time |= ask.deadline > now
        self.error = None
        if in_time:
            self.breaker.succeeded()
        else:
            self.breaker.failed()
        seconds = (now - begun) / max(tokens, 1.0)
        old = self._seconds_per_token
        self._seconds_per_token = seconds if old == 0 else old + SMOOTHING * (seconds - old)
        self._measured = now

    def _logits(self, asks: Sequence[LlmWork]) -> tuple[Floats, float]:
        """Raw logits of all rows, and the tokens that they took."""
        prepared = asks[0].prepared
        if prepared is None and self._states is not None:
            (ask,) = asks
            return self._from_state(self._states, ask)
        users, log = [ask.user for ask in asks], self._model.log
        if prepared is not None:
            (view, samples), log = prepared, asks[0].model.log
        else:
            view, samples = candidates_over(
                log,
                [user.number for user in users],
                [user.history for user in users],
                [ask.items for ask in asks],
            )
        scorer, layout = self._scorer, self.layout_of(log)
        assert scorer is not None
        if layout is not None:
            scorer = copy.copy(scorer)
            scorer.layout = layout.over(view)  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(scorer, RemoteScorer):
            left = max(ask.deadline for ask in asks) - time.monotonic()
            scorer.job_timeout_s = min(max(left, 0.001), WARM_UP_S)
        before = scorer.cost.tokens
        logits = scorer.logits(samples).double().numpy()
        tokens = scorer.cost.tokens - before
        self._tokens_per_row += SMOOTHING * (tokens / len(samples) - self._tokens_per_row)
        return logits, tokens

    def _from_state(self, states: UserStates, ask: LlmWork) -> tuple[Floats, float]:
        if self.settings.states_mb == 0 or ask.key is None:
            states.states.pop(ask.key, None)
        history, before = ask.user.history, states.tokens
        logits = states.score(
            ask.key,
            history.item,  # pyright: ignore[reportArgumentType]
            states.layout.said(history.label, history.level),  # pyright: ignore[reportArgumentType]
            ask.items.tolist(),
            ask.user.number,
            states.layout.liked(history.item, history.row),  # pyright: ignore[reportArgumentType]
        )
        return logits.double().numpy(), states.tokens - before
