"""Both models and the decision between them: predict, recommend, observe."""

import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import polars as pl
import torch

from corellarec.base.device import pick_device
from corellarec.base.errors import DataError
from corellarec.base.frames import Table, as_frame
from corellarec.base.metrics import Floats
from corellarec.cascade.budget import BudgetMeter
from corellarec.cascade.models import Models, OnServerError, connect, load_local
from corellarec.cascade.policy import known
from corellarec.cascade.prediction import CrmScored, Prediction, answer
from corellarec.cascade.ranking import (
    HeadLists,
    candidate_numbers,
    head_length,
    promising,
    ranked,
)
from corellarec.cascade.router import Router
from corellarec.cascade.store import Recipe, check_run, read_cascade, write_cascade
from corellarec.cascade.tables import Pairs, checked_numbers, read_events, read_new, read_pairs
from corellarec.crm.batch import Reader
from corellarec.crm.build import build_reader
from corellarec.crm.external import score_logits
from corellarec.data.extend import append
from corellarec.data.log import Log, Samples

CHUNK = 200_000  # pairs of a ranking scored at once


class Cascade:
    """A CRM, a language model and the router between them.

    The language model is loaded when a row is first routed to it. A set budget holds over all
    pairs that one object scores. Objects may be used from several threads.

    Args:
        recipe: Settings and router.
        log: Users, items and their rows.
        models: The CRM and the language model.
        adapter: Directory of the language model's adapter.

    Example:
        >>> cascade = Cascade.load("runs/quick")  # doctest: +SKIP
        >>> cascade.predict({"user": ["196"], "item": ["318"]})["p"].item()  # doctest: +SKIP
        0.83
    """

    def __init__(self, recipe: Recipe, log: Log, models: Models, adapter: Path) -> None:
        self.recipe, self.models, self.adapter = recipe, models, adapter
        self._log_lock = threading.Lock()
        self.router = recipe.router
        self._list_meter = BudgetMeter(recipe.lists.budget if recipe.lists else 0, recipe.seed)
        self._replace(log)

    @classmethod
    def load(
        cls,
        directory: str | Path,
        *,
        device: str = "auto",
        trust: str | None = None,
        llm: str | None = None,
        server: str | None = None,
        server_model: str = "corellarec",
        cache_salt: str | None = None,
        server_timeout_s: float = 120.0,
        server_job_timeout_s: float = 3600.0,
        on_server_error: OnServerError = "fail",
    ) -> "Cascade":
        """Read a cascade from the directory of a run, or of :meth:`save`.

        Args:
            directory: Where it is.
            device: ``auto``, ``cpu`` or ``cuda``.
            trust: ``package.module:Class`` of the CRM, if it is a class of your own.
            llm: The language model that the cascade was tuned on: a directory, or a name on the
                hub, which is fetched. By default it is the one that the cascade names, if that is
                a known model, a directory, or in the hub's cache: nothing else is fetched.
            server: URL of a vLLM server that answers in the language model's place.
            server_model: Its name for the tuned model.
            cache_salt: Keeps the server's cached prompts to this caller.
            server_timeout_s: Seconds that a request may take, with its repetitions.
            server_job_timeout_s: Seconds that all requests of one call may take.
            on_server_error: Where the server fails, takes too long or answers nonsense: ``fail``
                raises :class:`RemoteError`; ``crm`` keeps what it answered before and gives the
                other routed rows the CRM's answer, and ``models.unanswered`` counts them. Their
                share of the budget counts as spent.

        Raises:
            ArtifactError: If the directory is missing, incomplete or damaged.
            ConfigError: If the CRM is a class of one's own that ``trust`` does not name, or
                ``on_server_error`` is none of the two.
            ModelError: Later, when a row is first routed and the language model cannot be loaded.
        """
        path, torch_device = Path(directory), pick_device(device)
        run = path if (path / "cascade" / "cascade.json").is_file() else None
        path = path / "cascade" if run else path
        recipe, log, crm = read_cascade(path, torch_device, trust)
        if run:
            check_run(run, recipe)

        adapter, times = path / "adapter", (server_timeout_s, server_job_timeout_s)
        load_llm = (
            partial(connect, recipe, server, server_model, cache_salt, times, llm)
            if server
            else partial(load_local, recipe, log, adapter, torch_device, llm)
        )
        return cls(recipe, log, Models(crm, load_llm, torch_device, on_server_error), adapter)

    def save(self, directory: str | Path) -> None:
        """Write the cascade, with all that was observed and added, for :meth:`load`.

        Args:
            directory: Replaced if it exists.
        """
        log, _ = self._state
        write_cascade(
            Path(directory),
            replace(self.recipe, router=self._router),
            log,
            self.models.crm,
            lambda path: shutil.copytree(self.adapter, path),
        )

    @property
    def router(self) -> Router:
        """The decision; setting another one starts its budget anew."""
        return self._router

    @router.setter
    def router(self, router: Router) -> None:
        self._router, self._meter = router, BudgetMeter(router.limit, self.recipe.seed)

    @property
    def log(self) -> Log:
        """Users, items and rows as they are now."""
        return self._state[0]

    # Answers.

    def predict(
        self,
        pairs: Table,
        *,
        progress: Callable[[int], None] = lambda answered: None,
        name: str = "pairs",
        first_row: int = 1,
    ) -> pl.DataFrame:
        """Score (user, item) pairs.

        A user's history is what the log holds before ``time``, or, without times, all of it; but a
        pair that the log holds is then scored as of its latest row, since its own label would be in
        its history otherwise. Times that are text may be written as the log's own are
        (``data.interactions``). Users who are not known are scored without history.

        Args:
            pairs: A table, or its file, with the columns ``user`` and ``item``; perhaps ``time``;
                ``score`` where the CRM is external; other columns are kept.
            progress: Called with the number of pairs that the language model has just answered.
            name: What messages call the table.
            first_row: Number of the table's first row, for messages.

        Returns:
            The table, with ``p`` (0 to 1), ``p_crm``, ``p_llm`` (null where the language model was
            not asked), ``source`` (``crm``, ``blend`` or ``llm``), and ``entropy`` (nats) of
            ``p_crm``. Of a log without negatives ``p`` is that of a positive among drawn negatives,
            and ``p_next`` that of the user's next interaction being with the item.

        Raises:
            DataError: If a column is missing, a value cannot be used, or an item is not known.
        """
        columns = ("user", "item", "score") if self.models.crm is None else ("user", "item")
        table = as_frame(pairs, name, columns)
        state = self._state
        read = read_pairs(state[0], table, name, first_row, self.recipe.times)
        logit = None
        if self.models.crm is None:
            logit = score_logits(table, self.recipe.crm.external, Path(name), first_row).to_numpy()
        prediction = self._route(self._scored(state, read, logit), progress)
        return pl.concat([table, prediction.to_frame()], how="horizontal")

    def score_crm(self, pairs: Pairs, crm_logit: Floats | None = None) -> CrmScored:
        """The CRM's answer to pairs, and what the router knows of them.

        Args:
            pairs: In the numbers of :attr:`log`.
            crm_logit: ``(n,)`` the CRM's raw logits where they are known already.
        """
        return self._scored(self._state, pairs, crm_logit)

    def recommend(
        self,
        users: Sequence[str | int],
        k: int = 10,
        *,
        candidates: Sequence[str | int] | None = None,
        exclude_seen: bool = True,
    ) -> pl.DataFrame:
        """Rank items for users.

        The CRM scores all candidates. Of each user's ``max(50, 2 k)`` best, the router sends some
        to the language model, within the budget, and they are ranked anew. Where the cascade has a
        policy of lists (``recipe.lists``, kept by ``rank``), the whole list of some users is sent,
        within the policy's budget of lists, and put in the order of its blend; ``p`` is that of
        each item alone then.

        Args:
            users: Ids as in the log; who is not known gets the ranking of a new user.
            k: Items per user, at least 1.
            candidates: Ids of the items to rank; all of the log by default.
            exclude_seen: Leave out items of the user's rows.

        Returns:
            One row per user and rank: ``user`` (str), ``rank`` (1 is best), ``item`` (str), ``p``,
            ``p_crm``, ``p_llm``, ``source``; of a log without negatives ``p_next``. The items are
            ordered by ``p_next`` or ``p``, but for those of a list that was sent as a whole.

        Raises:
            ValueError: If ``k`` is below 1, or there are no users.
            DataError: If a candidate is not known, an id is a float, or the CRM is external.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, found {k}")
        if not len(users):
            raise ValueError("users: give at least one id")
        if self.models.crm is None:
            raise DataError("recommend scores all items, and this cascade's CRM is external")
        log, reader = self._state
        ids = pl.Series("user", [str(user) for user in users], dtype=pl.String)
        user = torch.from_numpy(checked_numbers(ids, log.users, "users").to_numpy().copy())
        items = candidate_numbers(log, candidates)
        score = partial(self.models.crm_logits, reader)
        found, length = [], head_length(k, self.recipe.lists)
        size = max(1, CHUNK // max(1, len(items)))
        for start in range(0, len(ids), size):
            part = slice(start, start + size)
            head = promising(
                log, score, self._router, user[part], items, length, exclude_seen=exclude_seen
            )
            scored = self._known(log, head.samples, head.crm_logit)
            if self.recipe.lists and len(head.user):
                lists = HeadLists(log, head, self.recipe.lists)
                first = f"list of {head.samples.user[:1].tolist()}"
                with self._list_meter.reserve(lists.above, lists.value, first) as asked:
                    prediction = answer(self._router, self.models, scored, lists.rows(asked))
                order = lists.order(prediction.llm_logit)
            else:
                prediction, order = self._route(scored), None
            found.append(ranked(log, ids[part], head, prediction, k, order))
        return pl.concat(found)

    # What came after training.

    def observe(self, events: Table) -> int:
        """Add interactions to the histories; no model is trained.

        Args:
            events: A table, or its file, with ``user``, ``item``, ``label`` (1 or 0) or
                ``rating``, and perhaps ``time``, by default now; who is not known becomes a user.
                A row that repeats another one's user, item and time is left out.

        Returns:
            How many rows were added.

        Raises:
            DataError: If a column is missing, a value cannot be used, or an item is not known.
        """
        table = as_frame(events, "events", ("user", "item"))
        with self._log_lock:
            log, _ = self._state
            positive, times = self.recipe.positive_rating, self.recipe.times
            rows, users = read_events(log, table, positive, "events", times)
            return self._replace(log.extended(rows, users, log.items)) - len(log)

    def add_items(self, items: Table) -> int:
        """Add items that the log does not know, so that they can be scored.

        Args:
            items: A table, or its file, with ``id`` (or ``item``), ``title``, and the features
                that the log's items have; those that it lacks are missing. Items that are known
                already are left as they are.

        Returns:
            How many items were added.

        Raises:
            DataError: If there are no ids or titles.
        """
        return self._add("items", as_frame(items, "items", ("title",)))

    def add_users(self, users: Table) -> int:
        """Add users that the log does not know, with their features.

        Args:
            users: A table, or its file, with ``id`` (or ``user``) and the features that the log's
                users have; those that it lacks are missing. Users who are known already are left as
                they are.

        Returns:
            How many users were added.

        Raises:
            DataError: If there are no ids, or a feature cannot be of the type of the log's.
        """
        return self._add("users", as_frame(users, "users"))

    # Parts of the above.

    def _add(self, kind: Literal["items", "users"], table: pl.DataFrame) -> int:
        with self._log_lock:
            log, _ = self._state
            entities, features = {"items": log.items, "users": log.users}, log.features
            coded = features.item if kind == "items" else features.user
            values = features.item_values if kind == "items" else features.user_values
            new = read_new(entities[kind], table, kind)
            entities[kind] = append(entities[kind], new, coded, values)
            self._replace(log.extended(log.rows.clear(), entities["users"], entities["items"]))
            return new.height

    def _replace(self, log: Log) -> int:
        self._state = log, build_reader(self.recipe.crm, log, self.models.device)
        return len(log)

    def _scored(
        self, state: tuple[Log, Reader], pairs: Pairs, crm_logit: Floats | None
    ) -> CrmScored:
        log, reader = state
        samples = log.pairs(pairs.user, pairs.item, pairs.time)
        if crm_logit is None:
            crm_logit = self.models.crm_logits(reader, samples)
        return self._known(log, samples, crm_logit)

    def _known(self, log: Log, samples: Samples, crm_logit: Floats) -> CrmScored:
        facts = known(log, samples, crm_logit, self.recipe.crm.history_length)
        return CrmScored(log, samples, facts)

    def _route(
        self, scored: CrmScored, progress: Callable[[int], None] = lambda answered: None
    ) -> Prediction:
        """The answer to rows that the CRM has scored, within the budget."""
        router, meter, samples = self._router, self._meter, scored.samples
        first = f"{samples.user[:1].tolist()} {samples.item[:1].tolist()}"
        above, value = router.above(scored.known), router.value(scored.known)
        with meter.reserve(above, value, first) as routed:
            return answer(router, self.models, scored, routed, progress)
