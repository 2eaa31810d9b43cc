"""What scoring takes, up to a billion users, from measured rates: the table of docs/scale.md.

A user's history is read once for all rows of the user that the LLM is asked about.

    rows = users * items
    tokens = rows * budget * (line + history / max(1, items * budget))
    hours = (rows / freezing rows/s + (rows / CRM rows/s + tokens / LLM tokens/s) / machines) / 3600
    price = hours * machines * price of a machine and hour

    python benchmarks/scale.py [--freeze-rows-per-s N] [--crm-rows-per-s N] [--llm-tokens-per-s N]
        [--line-tokens N] [--history-tokens N] [--price-per-hour N] [--json]
"""

from dataclasses import asdict, dataclass

from harness import emit, parse, parser


@dataclass(frozen=True)
class Size:
    """A job.

    Args:
        users: Whose candidates are scored.
        items: Candidates of each.
        budget: Share of the rows for the LLM.
        machines: That share the work.
    """

    users: int
    items: int
    budget: float
    machines: int

    @property
    def rows(self) -> int:
        """Pairs."""
        return self.users * self.items


SIZES = [
    Size(1_000_000, 20, 0.01, 1),
    Size(1_000_000, 100, 0.01, 4),
    Size(10_000_000, 100, 0.01, 32),
    Size(100_000_000, 10, 0.01, 32),
    Size(100_000_000, 10, 0.1, 256),
    Size(1_000_000_000, 10, 0.001, 128),
    Size(1_000_000_000, 10, 0.01, 512),
]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--freeze-rows-per-s", type=float, default=900_000, help="by one process")
    options.add_argument("--crm-rows-per-s", type=float, default=113_000, help="of one machine")
    options.add_argument("--llm-tokens-per-s", type=float, default=1_818, help="of one machine")
    options.add_argument("--line-tokens", type=float, default=7.7, help="of a row to score")
    options.add_argument("--history-tokens", type=float, default=151.5, help="of a user's lines")
    options.add_argument("--price-per-hour", type=float, default=0.10, help="of one machine")
    given = parse(options, quick={})
    jobs = []
    print("| users | items | rows | budget | LLM tokens | machines | hours | price |")
    print("|---|---|---|---|---|---|---|---|")
    for size in SIZES:
        asked = size.items * size.budget
        tokens_a_row = given.line_tokens + given.history_tokens / max(1, asked)
        tokens = size.rows * size.budget * tokens_a_row
        seconds = size.rows / given.crm_rows_per_s + tokens / given.llm_tokens_per_s
        hours = (size.rows / given.freeze_rows_per_s + seconds / size.machines) / 3600
        price = hours * size.machines * given.price_per_hour
        jobs.append(asdict(size) | {"tokens": tokens, "hours": hours, "price": price})
        print(
            f"| {size.users:,} | {size.items:,} | {size.rows:,} | {size.budget:.1%} | "
            f"{tokens:,.0f} | {size.machines:,} | {hours:,.1f} | {price:,.0f} |"
        )
    emit(given, {"jobs": jobs})


if __name__ == "__main__":
    main()
