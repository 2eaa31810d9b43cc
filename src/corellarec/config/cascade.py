"""Settings of the router, and of what is measured on the test split."""

import math
from typing import Annotated, Any, Literal

from pydantic import field_validator, model_validator

from corellarec.config.section import Count, Few, Range, Section, Share

DEFAULT_BUDGET = 0.1  # where neither a budget nor a threshold is set


class CascadeConfig(Section):
    """Which rows are routed to the LLM, and what a routed row gets."""

    policy: Literal["gain", "entropy"] = "gain"
    """Which rows are routed to the LLM first: those with the largest expected gain in log loss
    (``gain``), or those where the CRM is least confident (``entropy``, the paper)."""
    budget: Share | Literal["best"] | None = None
    """Share of the rows that may be routed, or ``best``: the share with the lowest log loss on
    validation, which may be 0. The default is 0.1 where no threshold is set."""
    threshold: Annotated[float, Range(ge=-100.0, le=100.0)] | None = None
    """Value of routing above which a row is routed, in place of a budget: expected gain in nats
    for ``gain``, the CRM's entropy in nats for ``entropy``."""
    combine: Literal["blend", "replace"] = "blend"
    """What a routed row gets: the blend of both models, or the LLM's own calibrated answer."""
    validation_rows: Count = 0
    """Random validation rows that the LLM scores to fit the cascade; 0 is all."""

    @field_validator("budget", mode="before")
    @classmethod
    def _is_a_share_or_best(cls, value: Any) -> Any:  # noqa: ANN401 (anything may be given)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None or value == "best" or (number and 0 <= value <= 1):
            return value
        raise ValueError("a share from 0 to 1, or the word 'best'")

    @model_validator(mode="after")
    def _one_limit(self) -> "CascadeConfig":
        if self.threshold is None:
            return self
        if self.budget is not None:
            raise ValueError(
                f"budget ({self.budget}) and threshold ({self.threshold}) exclude each other: "
                "leave one out"
            )
        if self.policy == "entropy" and not 0 <= self.threshold < math.log(2):
            raise ValueError(
                f"threshold {self.threshold} routes all rows or none: an entropy lies between 0 "
                "and ln 2 = 0.693 nats"
            )
        return self


class EvaluateConfig(Section):
    """What the final evaluation measures."""

    test_rows: Count = 0
    """Random test rows scored by the language model; 0 is all."""
    bootstrap: Annotated[int, Range(ge=2, le=100_000)] = 1000
    """Resamples behind every 95 % interval."""
    groups: Few = 3
    """Groups of equal size by CRM confidence."""
