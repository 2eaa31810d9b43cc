import io

from corellarec.base.console import Console, Display
from corellarec.batch.progress import Meter


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_rates_end_and_price():
    clock = Clock()
    meter = Meter("LLM", 4, 400, price_per_hour=36.0, clock=clock)
    clock.now += 50
    meter.add(100, 5_000)
    assert meter.words() == "2 rows/s, 100 tokens/s, price so far 0.50"
    assert meter.line().startswith("LLM: 1 of 4 shards, 2 rows/s, 100 tokens/s, price so far 0.50")
    assert Meter("CRM", 1, 1, clock=clock).words() == "0 rows/s"


def test_a_line_a_minute_where_there_is_no_terminal():
    clock, said = Clock(), io.StringIO()
    display = Display(Console(file=said, width=500), quiet=False)
    meter = Meter("CRM", 4, 400, clock=clock)
    for _ in range(4):
        clock.now += 25
        meter.add(100, 0)
        meter.say(display)
    assert [line.partition(" shards")[0] for line in said.getvalue().splitlines()] == [
        "CRM: 3 of 4"
    ]
    assert ", ends about 20" in said.getvalue()
