"""Scoring by a vLLM server: the same prompts, token for token, answered over HTTP.

Source: https://docs.vllm.ai/en/latest/serving/online_serving/generative_scoring/
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, NamedTuple, TypeVar

import httpx
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, FailFast, Field
from torch import Tensor

from corellarec.base.errors import ConfigError, RemoteError, one_line
from corellarec.base.network import run_within
from corellarec.data.log import Samples
from corellarec.llm.layout import Layout
from corellarec.llm.score import Cost
from corellarec.llm.server import MissingPathError, Server

T = TypeVar("T")
# From here to 1 a double keeps fewer than four decimals of the logit.
SURE = 1 - 1e-12
# vLLM writes this where a log-probability is minus infinity.
NO_LOGPROB = -9999.0
# What vLLM gives by default, for servers that know no logprob_token_ids.
TOP_LOGPROBS = 20


class Prompt(NamedTuple):
    """The tokens before one answer.

    Args:
        sample: Index of the sample that it is for.
        ids: ``(length,)`` int64 token ids.
    """

    sample: int
    ids: NDArray[np.int64]


class UnansweredError(RemoteError):
    """The server failed; what it answered before is kept.

    Args:
        message: What failed.
        logits: ``(n,)`` fp32, NaN where there is no answer.
    """

    def __init__(self, message: str, logits: Tensor) -> None:
        super().__init__(message)
        self.logits = logits


# What is read of the server's answers. Lists stop at their first fault: each fault takes memory.


class _Card(BaseModel):
    id: str
    parent: str | None = None
    max_model_len: int | None = None


class _Cards(BaseModel):
    data: Annotated[list[_Card], FailFast()]


class _Usage(BaseModel):
    prompt_tokens: int | None = None


class _Score(BaseModel):
    index: int
    score: float | None = None


class _Scores(BaseModel):
    data: Annotated[list[_Score], FailFast()]
    usage: _Usage | None = None


class _Logprobs(BaseModel):
    top_logprobs: Annotated[list[dict[str, float | None]], FailFast()]


class _Choice(BaseModel):
    index: int
    logprobs: _Logprobs | None = None


class _Choices(BaseModel):
    data: Annotated[list[_Choice], FailFast(), Field(alias="choices")]
    usage: _Usage | None = None


class RemoteScorer:
    """Scores samples on a vLLM server; stands where :class:`~corellarec.llm.score.LlmScorer` can.

    Every place of a layout's sequences is a prompt of its own; the server's prefix cache is what
    keeps the lines that prompts share from being computed again. ``cost.tokens`` counts the
    tokens of all prompts, whatever the server had cached.

    Args:
        layout: How samples become tokens, by the tokenizer of the served model.
        url: The server, ``http://host:port``.
        model: Its name for the model, or for the adapter.
        api_key_variable: The environment variable that holds the key, if the server wants one.
        cache_salt: Keeps this caller's cached prefixes from callers with another; a secret.
        timeout_s: Seconds that a request may take, with its repetitions and the waits between.
        job_timeout_s: Seconds that all requests of one call may take.
        retries: How often a request is repeated after a lost connection, a 429 or a 5xx.
        parallel: Requests under way at once.
        prompts_per_request: Prompts in one request.

    Raises:
        ConfigError: If the URL, the key, the salt or a time cannot be used.
    """

    def __init__(
        self,
        layout: Layout,
        url: str,
        model: str,
        *,
        api_key_variable: str = "VLLM_API_KEY",
        cache_salt: str | None = None,
        timeout_s: float = 120.0,
        job_timeout_s: float = 3600.0,
        retries: int = 4,
        parallel: int = 8,
        prompts_per_request: int = 32,
    ) -> None:
        if cache_salt is not None and not _is_salt(cache_salt):
            raise ConfigError("cache_salt must have 1 to 128 characters and none of @ / \\ or NUL")
        if not min(timeout_s, job_timeout_s) > 0:
            raise ConfigError(
                f"a server's time must be above 0 s, found {timeout_s:g} for a request and "
                f"{job_timeout_s:g} for a job"
            )
        self.layout, self.model, self.job_timeout_s = layout, model, job_timeout_s
        self.parallel, self.prompts_per_request = parallel, prompts_per_request
        self.server = Server(url, api_key_variable, timeout_s, retries)
        self.cost = Cost()
        self._common = {"model": model} | ({"cache_salt": cache_salt} if cache_salt else {})
        self._has_scoring = len(layout.answers) == 2
        self._longest: int | None = None

    def logits(
        self, samples: Samples, progress: Callable[[int], None] = lambda answered: None
    ) -> Tensor:
        """``(n,)`` fp32 on the CPU: logit(yes) - logit(no) of each sample.

        Args:
            samples: What to score.
            progress: Called after each request with the number of samples it answered.

        Raises:
            UnansweredError: If a prompt is too long, the server fails or takes too long, or an
                answer is not a number; no further requests are made then.
        """
        start = time.perf_counter()
        prompts = [
            Prompt(int(sample), sequence.ids[: place + 1])
            for sequence in (one.whole() for one in self.layout.encode(samples))
            for place, sample in zip(sequence.places, sequence.samples, strict=True)
        ]
        logits = torch.full((len(samples),), float("nan"))
        try:
            run_within(self.job_timeout_s, self._fill(logits, prompts, progress))
        except TimeoutError as error:
            answered = int((~logits.isnan()).sum())
            raise UnansweredError(
                f"{self.server.url} answered {answered} of {len(samples)} samples in "
                f"{self.job_timeout_s:g} s: give the job more time, or the server",
                logits,
            ) from error
        except RemoteError as error:
            raise UnansweredError(str(error), logits) from error
        self.cost.samples += len(samples)
        self.cost.tokens += sum(len(prompt.ids) for prompt in prompts)
        self.cost.seconds += time.perf_counter() - start
        return logits

    async def _fill(
        self, logits: Tensor, prompts: Sequence[Prompt], progress: Callable[[int], None]
    ) -> None:
        """Ask for all prompts, several requests at once; after a failure no more are made."""
        size = self.prompts_per_request
        requests = iter([prompts[i : i + size] for i in range(0, len(prompts), size)])
        failures: list[RemoteError] = []

        async def work(client: httpx.AsyncClient) -> None:
            for request in requests:
                try:
                    found = await self._score(client, request)
                except RemoteError as error:
                    failures.append(error)
                else:
                    logits[[prompt.sample for prompt in request]] = torch.tensor(found)
                    progress(len(request))
                if failures:
                    return

        async with self.server.connect() as client:
            await self._check_lengths(client, prompts)
            await asyncio.gather(*(work(client) for _ in range(self.parallel)))
        if failures:
            raise failures[0]

    async def _check_lengths(self, client: httpx.AsyncClient, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts that the server would truncate silently."""
        if self._longest is None:
            self._longest = await self._max_length(client)
        longest = max((len(prompt.ids) + 1 for prompt in prompts), default=0)
        if longest > self._longest:
            raise RemoteError(
                f"a prompt and its answer have {longest} tokens, {self.model!r} at "
                f"{self.server.url} takes {self._longest}: lower llm.history_length (and "
                "llm.window, in the stream layout), or raise the server's --max-model-len"
            )

    async def _max_length(self, client: httpx.AsyncClient) -> int:
        """Most tokens of a prompt and its answer."""
        listed = await self.server.ask(client, "/v1/models", _Cards)
        cards = {card.id: card for card in listed.data}
        if self.model not in cards:
            raise RemoteError(
                f"{self.server.url} serves no model {self.model!r}; there are: "
                f"{one_line(', '.join(cards)) or 'none'}"
            )
        card = cards[self.model]
        # An adapter's card leaves the length to its base model's.
        parent = cards.get(card.parent or "", card)
        length = card.max_model_len or parent.max_model_len
        if length is None:
            raise RemoteError(
                f"{self.server.url} does not tell the max_model_len of {self.model!r}: is it vLLM?"
            )
        return length

    async def _score(self, client: httpx.AsyncClient, prompts: Sequence[Prompt]) -> list[float]:
        """Logits of the prompts of one request."""
        if self._has_scoring:
            try:
                return await self._from_scores(client, prompts)
            except MissingPathError:
                self._has_scoring = False
        return await self._from_logprobs(client, prompts)

    async def _from_scores(
        self, client: httpx.AsyncClient, prompts: Sequence[Prompt]
    ) -> list[float]:
        """Logits by ``/generative_scoring``, which gives p(yes) / (p(yes) + p(no))."""
        no, yes = self.layout.answers
        shared = _shared_length(prompts)
        body = {
            "query": prompts[0].ids[:shared].tolist(),
            "items": [prompt.ids[shared:].tolist() for prompt in prompts],
            "label_token_ids": [yes, no],
            "apply_softmax": True,
        }
        answer = await self.server.ask(client, "/generative_scoring", _Scores, self._common | body)
        entries = self._in_order({entry.index: entry for entry in answer.data}, answer, prompts)
        logits, unsure = [0.0] * len(prompts), []
        for i, entry in enumerate(entries):
            p = entry.score
            if p is None or not 0 <= p <= 1:
                raise RemoteError(
                    f"sample {prompts[i].sample}: {self.server.url} scores it {p!r}, "
                    "not a number from 0 to 1: check the server's log and its --dtype"
                )
            if 0 < p < SURE:
                logits[i] = math.log(p) - math.log1p(-p)
            else:
                unsure.append(i)
        if unsure:
            found = await self._from_logprobs(client, [prompts[i] for i in unsure])
            for i, logit in zip(unsure, found, strict=True):
                logits[i] = logit
        return logits

    async def _from_logprobs(
        self, client: httpx.AsyncClient, prompts: Sequence[Prompt]
    ) -> list[float]:
        """Logits by ``/v1/completions``, which gives the answers' log-probabilities."""
        body = {
            "prompt": [prompt.ids.tolist() for prompt in prompts],
            "max_tokens": 1,
            "logprobs": TOP_LOGPROBS,
            "logprob_token_ids": list(self.layout.answers),
            "return_tokens_as_token_ids": True,
            # Neutral, whatever the model's own defaults: some servers give what is left of the
            # probabilities after these.
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": -1,
            "repetition_penalty": 1.0,
        }
        answer = await self.server.ask(client, "/v1/completions", _Choices, self._common | body)
        choices = self._in_order({choice.index: choice for choice in answer.data}, answer, prompts)
        return [
            self._logit(prompt, choice) for prompt, choice in zip(prompts, choices, strict=True)
        ]

    def _logit(self, prompt: Prompt, choice: _Choice) -> float:
        given = choice.logprobs.top_logprobs if choice.logprobs else []
        first = given[0] if given else {}
        found = [first.get(f"token_id:{token}") for token in self.layout.answers]
        known = [one for one in found if one is not None and NO_LOGPROB < one < math.inf]
        if len(known) < len(found):
            raise RemoteError(
                f"sample {prompt.sample}: {self.server.url} gives no log-probabilities of all "
                f"{len(found)} answers: check that it serves the tuned model, and that its vLLM "
                "knows logprob_token_ids"
            )
        no, yes = np.split(np.array(known), [self.layout.negatives])
        return float(np.logaddexp.reduce(yes) - np.logaddexp.reduce(no))

    def _in_order(
        self, by_index: dict[int, T], answer: _Scores | _Choices, prompts: Sequence[Prompt]
    ) -> Iterator[T]:
        """The answer's entries in the prompts' order, if each is there once and was read whole."""
        if len(answer.data) != len(prompts) or by_index.keys() != set(range(len(prompts))):
            raise RemoteError(
                f"{self.server.url}: expected one answer to each of {len(prompts)} prompts, found "
                f"{len(answer.data)} to {len(by_index)}: is it vLLM?"
            )
        sent = sum(len(prompt.ids) for prompt in prompts)
        read = answer.usage.prompt_tokens if answer.usage else None
        if read is not None and read != sent:
            raise RemoteError(
                f"{self.server.url} read {read} tokens where {sent} were sent: check its "
                "--max-model-len, and what stands between it and here"
            )
        return (by_index[i] for i in range(len(prompts)))


def _is_salt(text: str) -> bool:
    """Whether vLLM takes ``text`` as a cache salt."""
    return 1 <= len(text) <= 128 and not set(text) & set("@/\\\0")


def _shared_length(prompts: Sequence[Prompt]) -> int:
    """Tokens that all prompts begin with, such that each has one more."""
    first, *others = (prompt.ids for prompt in prompts)
    length = min(len(prompt.ids) for prompt in prompts) - 1
    for ids in others:
        differ = np.flatnonzero(ids[:length] != first[:length])
        length = int(differ[0]) if len(differ) else length
    return length
