import signal
import sys
import threading
import time

import pytest

from corellarec.base.stop import Stopped, signals_held, stop_on_signals


@pytest.fixture(autouse=True)
def handlers():
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGALRM
    before = {number: signal.getsignal(number) for number in numbers}
    hook = sys.unraisablehook
    yield
    sys.unraisablehook = hook
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_takes_effect_after_what_is_held(number):
    stop_on_signals()
    done = []

    def work():
        with signals_held() as came:
            assert came == []
            signal.raise_signal(number)
            assert came == [number]
            done.append("whole")
        done.append("after")

    with pytest.raises(Stopped) as stopped:
        work()
    assert done == ["whole"]
    assert stopped.value.code == 128 + number
    with pytest.raises(Stopped):
        signal.raise_signal(number)


def test_a_handler_of_the_callers_own_is_called_and_the_work_goes_on():
    came = []
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    with signals_held():
        signal.raise_signal(signal.SIGTERM)
        assert came == []
    assert came == [signal.SIGTERM]


def test_an_error_of_the_body_is_not_hidden():
    stop_on_signals()

    def work():
        with signals_held():
            signal.raise_signal(signal.SIGTERM)
            raise ValueError("of the body")

    with pytest.raises(ValueError, match="of the body"):
        work()


def test_other_threads_hold_nothing():
    found = []

    def work():
        with signals_held() as came:
            found.append(came)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [[]]


def test_a_stop_that_a_callback_swallows_is_raised_again():
    came = stop_on_signals()

    class Falls:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def work():
        falls = Falls()
        del falls
        time.sleep(10)

    begun = time.monotonic()
    with pytest.raises(Stopped) as stopped:
        work()
    assert time.monotonic() - begun < 5
    assert stopped.value.code == 130
    assert came == [signal.SIGINT]


def test_other_errors_of_callbacks_are_reported_as_before():
    reported = []
    sys.unraisablehook = reported.append
    stop_on_signals()

    class Fails:
        def __del__(self):
            raise ValueError("in a callback")

    fails = Fails()
    del fails
    assert [str(one.exc_value) for one in reported] == ["in a callback"]
