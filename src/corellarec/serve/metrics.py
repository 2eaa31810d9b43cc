"""What the service counts, for Prometheus; no label holds an id of a user or an item."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
DIFFERENCES = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
ROWS = (1, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class Metrics:
    """Counters, gauges and histograms of one service."""

    def __init__(self) -> None:
        self.registry = of = CollectorRegistry()
        self.requests = Counter(
            "corellarec_requests", "Requests by route and status code.", ["route", "code"],
            registry=of,
        )  # fmt: skip
        self.request_seconds = Histogram(
            "corellarec_request_seconds", "Time from a request's arrival to its answer.", ["route"],
            buckets=SECONDS, registry=of,
        )  # fmt: skip
        self.rows = Counter(
            "corellarec_rows", "Rows answered, by whose answer it is and why.",
            ["source", "reason"], registry=of,
        )  # fmt: skip
        self.llm_calls = Counter(
            "corellarec_llm_calls", "Requests that asked the language model, by outcome.",
            ["outcome"], registry=of,
        )  # fmt: skip
        self.llm_tokens = Counter(
            "corellarec_llm_tokens", "Tokens that the language model computed.", registry=of
        )
        self.budget_credit = Gauge(
            "corellarec_budget_credit", "Rows that may be asked about now.", registry=of
        )
        self.budget_share = Gauge(
            "corellarec_budget_share",
            "Share of the rows that the budget allows; 0 where it counts rows a second.",
            registry=of,
        )
        self.queue_depth = Gauge(
            "corellarec_queue_depth", "What waits: the CRM's rows, the language model's tokens.",
            ["queue"], registry=of,
        )  # fmt: skip
        self.batch_rows = Histogram(
            "corellarec_batch_rows", "Rows that the CRM scored at once.", buckets=ROWS, registry=of
        )
        self.breaker_open = Gauge(
            "corellarec_breaker_open", "Whether the language model is left alone.", registry=of
        )
        self.store_seconds = Histogram(
            "corellarec_store_seconds", "Time of a write to be on disk.", buckets=SECONDS,
            registry=of,
        )  # fmt: skip
        self.model_info = Gauge(
            "corellarec_model_info",
            "What is loaded.",
            ["version", "crm", "llm", "role"],
            registry=of,
        )

        self.drift = Gauge(
            "corellarec_drift",
            "How far the last 10,000 rows differ from the first (population stability index).",
            ["of"],
            registry=of,
        )
        self.shadow_difference = Histogram(
            "corellarec_shadow_difference", "Between the shadow's CRM and what was served.",
            buckets=DIFFERENCES, registry=of,
        )  # fmt: skip

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)
