"""What the service does now, from its metrics and from the rows that it answered lately."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corellarec.base.errors import CorellarecError
from corellarec.serve.estimate import estimate
from corellarec.serve.explore.charts import line_chart
from corellarec.serve.explore.words import number, percent
from corellarec.serve.service import Service

Samples = Sequence[tuple[Mapping[str, str], float]]
QUANTILES = (0.5, 0.95, 0.99)


def live(service: Service) -> dict[str, Any]:
    """Figures, a chart, rows by reason, requests by route and status, and drift.

    Args:
        service: What runs.
    """
    service.measure()
    samples = [sample for family in service.metrics.registry.collect() for sample in family.samples]

    def of(name: str) -> Samples:
        return [(one.labels, one.value) for one in samples if one.name == name]

    rows = [(label["source"], label["reason"], n) for label, n in of("corellarec_rows_total")]
    buckets = of("corellarec_request_seconds_bucket")
    requests = [
        (label["route"], label["code"], n, quantiles(buckets, label["route"]))
        for label, n in of("corellarec_requests_total")
        if label["route"].startswith("/v1/")
    ]
    total = sum(n for _, _, n in rows)
    asked = sum(n for _, reason, n in rows if reason == "asked")
    llm, bucket = service.now.llm, service.bucket
    state = "off"
    if llm:
        state = "held back" if llm.held_back else "ready" if llm.ready else "not loaded"
    allowed = f"{number(bucket.rows_per_s)} rows a second" if bucket.rows_per_s else (
        percent(bucket.share, 1)
    )  # fmt: skip
    points = list(service.recent.points)
    return {
        "figures": {
            "rows answered": number(total),
            "of these by the LLM, too": percent(asked / total, 1) if total else "-",
            "the budget": allowed,
            "rows that the budget allows now": number(bucket.level),
            "rows that wait for the CRM": number(service.crm.rows_waiting),
            "tokens that wait for the LLM": number(llm.tokens_waiting if llm else 0),
            "the LLM": state,
        },
        "chart": _chart(points) if len(points) > 1 else None,
        "drift": service.recent.drift(),
        "reasons": sorted(rows, key=lambda row: -row[2]),
        "requests": sorted(requests, key=lambda row: -row[2]),
        "logged": service.decisions is not None,
    }


def _chart(points: Sequence[tuple[int, int]]) -> object:
    answered, asked = np.array(points, float).T
    return line_chart(
        "In each second",
        np.arange(len(points), dtype=float),
        {"rows": ("crm", answered), "rows that the LLM answered, too": ("llm", asked)},
        (f"{number(len(points))} s ago", "now"),
        0,
        floor=0.0,
    )


def quantiles(buckets: Samples, route: str) -> list[float]:
    """Milliseconds below which half, 95 % and 99 % of a route's answers came, since the start.

    Within a bucket of the histogram they are taken to be spread evenly.
    """
    pairs = sorted((float(label["le"]), n) for label, n in buckets if label["route"] == route)
    edge, count = np.array(pairs).T
    edge[-1] = edge[-2]
    below = np.concatenate([[0.0], count])
    return [
        1000 * float(np.interp(q * count[-1], below, np.concatenate([[0.0], edge])))
        for q in QUANTILES
    ]


async def gain(service: Service) -> dict[str, Any]:
    """The estimate of what asking gained so far, from the log of decisions."""
    log, store = service.decisions, service.store
    assert log is not None
    try:
        await asyncio.to_thread(log.write)
        place = store.place if store.is_postgres else None
        rating = service.now.model.recipe.positive_rating
        found = await asyncio.to_thread(
            estimate, Path(str(service.config.decisions.directory)), place, positive_rating=rating
        )
    except (CorellarecError, OSError) as error:
        return {"gains": None, "why": str(error)}
    return {"gains": found.gains, "why": ""}
