"""What the service does now, from its metrics."""

import time
from typing import Any

from corellarec.serve.service import Service

STARTED = time.monotonic()


def live(service: Service) -> dict[str, Any]:
    """Figures, rows by reason, and requests by route and status.

    Args:
        service: What runs.
    """
    service.measure()
    samples = [sample for family in service.metrics.registry.collect() for sample in family.samples]

    def of(name: str) -> list[tuple[dict[str, str], float]]:
        return [(one.labels, one.value) for one in samples if one.name == name]

    rows = [(label["source"], label["reason"], n) for label, n in of("corellarec_rows_total")]
    sums = {label["route"]: n for label, n in of("corellarec_request_seconds_sum")}
    counts = {label["route"]: n for label, n in of("corellarec_request_seconds_count")}
    requests = [
        (route, label["code"], n, 1000 * sums[route] / max(counts[route], 1))
        for label, n in of("corellarec_requests_total")
        if (route := label["route"]) in sums
    ]
    total = sum(n for _, _, n in rows)
    asked = sum(n for _, reason, n in rows if reason == "asked")
    llm = service.now.llm
    state = "off"
    if llm:
        state = "held back" if llm.held_back else "ready" if llm.ready else "not loaded"
    return {
        "figures": {
            "rows answered": f"{total:,.0f}",
            "of these by the LLM, too": f"{asked / total:.1%}" if total else "-",
            "rows that the budget allows now": f"{service.bucket.level:,.0f}",
            "rows that wait for the CRM": f"{service.crm.rows_waiting:,}",
            "tokens that wait for the LLM": f"{llm.tokens_waiting if llm else 0:,.0f}",
            "the LLM": state,
        },
        "reasons": sorted(rows, key=lambda row: -row[2]),
        "requests": sorted(requests, key=lambda row: -row[2]),
    }
