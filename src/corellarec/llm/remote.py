"""Scoring by a vLLM server: the same prompts, token for token, answered over HTTP.

Source: https://docs.vllm.ai/en/latest/serving/online_serving/generative_scoring/
"""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corellarec.base.errors import ConfigError, RemoteError
from corellarec.data.log import Samples
from corellarec.llm.layout import Layout
from corellarec.llm.score import Cost
from corellarec.llm.server import MissingPathError, Server

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
        timeout_s: Longest wait for the next bytes of an answer.
        retries: How often a request is repeated after a lost connection, a timeout, a 429 or a 5xx.
        parallel: Requests under way at once.
        prompts_per_request: Prompts in one request.

    Raises:
        ConfigError: If the URL, the key or the salt cannot be used.
    """

    def __init__(
        self,
        layout: Layout,
        url: str,
        model: str,
        *,
        api_key_variable: str = "VLLM_API_KEY",
        cache_salt: str | None = None,
        timeout_s: float = 60.0,
        retries: int = 4,
        parallel: int = 8,
        prompts_per_request: int = 32,
    ) -> None:
        if cache_salt is not None and not _is_salt(cache_salt):
            raise ConfigError("cache_salt must have 1 to 128 characters and none of @ / \\ or NUL")
        self.layout, self.model = layout, model
        self.parallel, self.prompts_per_request = parallel, prompts_per_request
        self.server = Server(url, api_key_variable, timeout_s, retries)
        self.cost = Cost()
        self._common = {"model": model} | ({"cache_salt": cache_salt} if cache_salt else {})
        self._has_scoring = True

    @cached_property
    def max_length(self) -> int:
        """Most tokens of a prompt and its answer; requested from the server once.

        Raises:
            RemoteError: If the server does not serve the model or does not tell the length.
        """
        listed = self.server.ask("/v1/models").get("data")
        listed = listed if isinstance(listed, list) else []
        cards = {card["id"]: card for card in listed if isinstance(card, dict) and "id" in card}
        if self.model not in cards:
            raise RemoteError(
                f"{self.server.url} serves no model {self.model!r}; there are: "
                f"{', '.join(cards) or 'none'}"
            )
        card = cards[self.model]
        # An adapter's card leaves the length to its base model's.
        parent = cards.get(card.get("parent"), {})
        length = card.get("max_model_len") or parent.get("max_model_len")
        if not isinstance(length, int):
            raise RemoteError(
                f"{self.server.url} does not tell the max_model_len of {self.model!r}: is it vLLM?"
            )
        return length

    def logits(
        self, samples: Samples, progress: Callable[[int], None] = lambda answered: None
    ) -> Tensor:
        """``(n,)`` fp32 on the CPU: logit(yes) - logit(no) of each sample.

        Args:
            samples: What to score.
            progress: Called after each request with the number of samples it answered.

        Raises:
            RemoteError: If a prompt is too long, the server fails, or an answer is not a number;
                nothing is scored then.
        """
        start = time.perf_counter()
        prompts = [
            Prompt(int(sample), sequence.ids[: place + 1])
            for sequence in (one.whole() for one in self.layout.encode(samples))
            for place, sample in zip(sequence.places, sequence.samples, strict=True)
        ]
        self._check_lengths(prompts)
        logits = torch.full((len(samples),), float("nan"))
        size = self.prompts_per_request
        with ThreadPoolExecutor(self.parallel) as pool:
            requests = {
                pool.submit(self._score, chunk): [prompt.sample for prompt in chunk]
                for chunk in (prompts[i : i + size] for i in range(0, len(prompts), size))
            }
            try:
                for request in as_completed(requests):
                    logits[requests[request]] = torch.tensor(request.result())
                    progress(len(requests[request]))
            finally:
                pool.shutdown(cancel_futures=True)
        self.cost.samples += len(samples)
        self.cost.tokens += sum(len(prompt.ids) for prompt in prompts)
        self.cost.seconds += time.perf_counter() - start
        return logits

    def _check_lengths(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts that the server would truncate silently."""
        longest = max((len(prompt.ids) + 1 for prompt in prompts), default=0)
        if longest > self.max_length:
            raise RemoteError(
                f"a prompt and its answer have {longest} tokens, {self.model!r} at "
                f"{self.server.url} takes {self.max_length}: lower llm.history_length (and "
                "llm.window, in the stream layout), or raise the server's --max-model-len"
            )

    def _score(self, prompts: Sequence[Prompt]) -> list[float]:
        """Logits of the prompts of one request."""
        if self._has_scoring:
            try:
                return self._from_scores(prompts)
            except MissingPathError:
                self._has_scoring = False
        return self._from_logprobs(prompts)

    def _from_scores(self, prompts: Sequence[Prompt]) -> list[float]:
        """Logits by ``/generative_scoring``, which gives p(yes) / (p(yes) + p(no))."""
        no, yes = self.layout.answers
        shared = _shared_length(prompts)
        body = {
            "query": prompts[0].ids[:shared].tolist(),
            "items": [prompt.ids[shared:].tolist() for prompt in prompts],
            "label_token_ids": [yes, no],
            "apply_softmax": True,
        }
        answer = self.server.ask("/generative_scoring", self._common | body)
        logits, unsure = [0.0] * len(prompts), []
        for i, entry in enumerate(self._entries(answer, "data", prompts)):
            p = entry.get("score")
            if not isinstance(p, float | int) or not 0 <= p <= 1:
                raise RemoteError(
                    f"sample {prompts[i].sample}: {self.server.url} scores it {p!r}, "
                    "not a number from 0 to 1: check the server's log and its --dtype"
                )
            if 0 < p < SURE:
                logits[i] = math.log(p) - math.log1p(-p)
            else:
                unsure.append(i)
        if unsure:
            found = self._from_logprobs([prompts[i] for i in unsure])
            for i, logit in zip(unsure, found, strict=True):
                logits[i] = logit
        return logits

    def _from_logprobs(self, prompts: Sequence[Prompt]) -> list[float]:
        """Logits by ``/v1/completions``, which gives log p(yes) and log p(no)."""
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
        answer = self.server.ask("/v1/completions", self._common | body)
        return [
            self._logprob_difference(prompt, choice)
            for prompt, choice in zip(
                prompts, self._entries(answer, "choices", prompts), strict=True
            )
        ]

    def _logprob_difference(self, prompt: Prompt, choice: dict[str, Any]) -> float:
        try:
            given = choice["logprobs"]["top_logprobs"][0]
            no, yes = (float(given[f"token_id:{token}"]) for token in self.layout.answers)
        except (KeyError, IndexError, TypeError, ValueError):
            no = yes = math.nan
        if not NO_LOGPROB < min(no, yes) <= max(no, yes) < math.inf:
            raise RemoteError(
                f"sample {prompt.sample}: {self.server.url} gives no log-probabilities of both "
                "answers: check that it serves the tuned model, and that its vLLM knows "
                "logprob_token_ids"
            )
        return yes - no

    def _entries(
        self, answer: dict[str, Any], key: str, prompts: Sequence[Prompt]
    ) -> list[dict[str, Any]]:
        """The answer's entries in the prompts' order, if each is there once and was read whole."""
        entries = answer.get(key)
        by_index: dict[int, dict[str, Any]] = {}
        if isinstance(entries, list) and len(entries) == len(prompts):
            for entry in entries:
                if isinstance(entry, dict) and isinstance(entry.get("index"), int):
                    by_index[entry["index"]] = entry
        if by_index.keys() != set(range(len(prompts))):
            raise RemoteError(
                f"{self.server.url}: expected one answer in {key!r} to each of {len(prompts)} "
                "prompts: is it vLLM?"
            )
        sent = sum(len(prompt.ids) for prompt in prompts)
        usage = answer.get("usage")
        read = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        if read is not None and read != sent:
            raise RemoteError(
                f"{self.server.url} read {read} tokens where {sent} were sent: check its "
                "--max-model-len, and what stands between it and here"
            )
        return [by_index[i] for i in range(len(prompts))]


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
