import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corellarec.data.histories import history_of
from corellarec.data.log import Samples
from corellarec.llm.layout import StreamLayout
from corellarec.llm.load import AnswerModel, load_model
from corellarec.llm.score import LlmScorer
from corellarec.llm.state import UserState, UserStates
from corellarec.llm.template import load_template

CPU = torch.device("cpu")
TEMPLATE = load_template("movies").stream


@pytest.fixture(scope="module")
def llm(tiny_llm, log):
    model, tokenizer = load_model(str(tiny_llm), torch.float32, CPU)
    layout = StreamLayout(log, tokenizer, TEMPLATE, 5, 12)
    return AnswerModel(model, layout.answers), layout


def tokens(layout, items, labels):
    """The tokens of answered lines."""
    lines = zip(items, labels, strict=True)
    return [one for item, label in lines for one in (*layout.line(item), *layout.end(label))]


def alone(llm, items, labels, candidate):
    """The logit of one whole prompt, read without any state."""
    model, layout = llm
    ids = [*layout.header(-1), *tokens(layout, items, labels), *layout.line(candidate)]
    with torch.inference_mode():
        last = model.model(torch.tensor([ids])).logits[0, -1]
    return last[layout.answers[1]] - last[layout.answers[0]]


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(
        st.lists(st.tuples(st.integers(0, 49), st.integers(0, 1)), max_size=4), max_size=6
    ),
    candidates=st.lists(st.integers(0, 49), max_size=5),
)
def test_an_extended_state_equals_reading_everything(llm, steps, candidates):
    state = UserState(*llm)
    for step in steps:
        state.extend([item for item, _ in step], [label for _, label in step])
    whole = [one for step in steps for one in step]
    assert len(state.lines) < llm[1].window
    assert len(state.lines) >= min(len(whole), 5)
    kept = whole[len(whole) - len(state.lines) :]
    items, labels, _ = zip(*state.lines, strict=True) if state.lines else ((), (), ())
    assert list(zip(items, labels, strict=True)) == kept
    expected = [alone(llm, items, labels, one) for one in candidates]
    found = state.score(candidates)
    torch.testing.assert_close(
        found, torch.stack(expected) if expected else torch.zeros(0), atol=1e-4, rtol=1e-4
    )


@settings(max_examples=25, deadline=None)
@given(
    visits=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.booleans()), max_size=25),
    budget=st.sampled_from([0, 20_000, 60_000, 10**9]),
)
def test_states_under_any_budget_say_what_the_history_says(llm, visits, budget):
    """Users come back with longer histories, or changed ones; some were put out in between."""
    states = UserStates(*llm, max_bytes=budget)
    histories = {user: [] for user in range(4)}
    for number, (user, grown, changed) in enumerate(visits):
        history = histories[user]
        history += [((7 * number + i) % 50, (number + i) % 2) for i in range(grown)]
        if changed and history:
            history[-1] = (history[-1][0], 1 - history[-1][1])
        items, labels = [i for i, _ in history], [label for _, label in history]
        found = states.score(user, items, labels, [3, 44])
        kept = len(states.states[user].lines)
        assert kept >= min(5, len(history))
        read = items[len(items) - kept :], labels[len(items) - kept :]
        expected = torch.stack([alone(llm, *read, one) for one in (3, 44)])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        assert len(states.states) == 1 or states.nbytes <= budget
    if budget == 10**9:
        assert len(states.states) == len({user for user, _, _ in visits})


def test_a_state_scores_as_the_bulk_scorer_does(llm, log):
    model, layout = llm
    user, candidates = 3, list(range(10))
    rows = slice(int(log.user_begin[user]), int(log.user_begin[user + 1]))
    items, labels = log.item[rows].tolist(), log.history_label[rows].tolist()
    found = UserStates(model, layout, 10**9).score("u", items, labels, candidates, user)
    samples = log.candidates(torch.full((10,), user), torch.arange(10))
    expected = LlmScorer(model, layout, 4096).logits(samples)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_extending_reads_the_new_lines_only(llm, monkeypatch):
    model, layout = llm
    state, read = UserState(model, layout), []
    own = UserState._read
    monkeypatch.setattr(
        UserState,
        "_read",
        lambda self, ids, *a, **k: read.append(len(ids)) or own(self, ids, *a, **k),
    )
    state.extend([1, 2], [0, 1])
    state.extend([3], [1])
    assert read[1] == len(tokens(layout, [3], [1]))


def test_scoring_a_user_touches_no_other_users_state(llm, monkeypatch):
    states, sized = UserStates(*llm, max_bytes=10**9), []
    for user in range(20):
        states.score(user, [user, 3], [0, 1], [44])
    whole = states.nbytes
    monkeypatch.setattr(
        UserState, "nbytes", property(lambda self: sized.append(self) or self.past.nbytes)
    )
    states.score(7, [7, 3, 9], [0, 1, 1], [44])
    assert set(sized) == {states.states[7]}
    assert states.nbytes > whole


def test_the_least_recently_used_state_is_evicted_and_a_large_one_is_alone(llm):
    model, layout = llm
    one = UserState(model, layout)
    one.extend([1, 2], [0, 1])
    states = UserStates(model, layout, max_bytes=int(2.5 * one.nbytes))
    for user in ("a", "b", "a", "c"):
        states.score(user, [1, 2], [0, 1], [3])
    assert set(states.states) == {"a", "c"}
    states = UserStates(model, layout, max_bytes=int(1.5 * one.nbytes))
    states.score("a", [1, 2], [0, 1], [3])
    states.score("large", [1, 2, 4, 5, 6], [0, 1, 1, 1, 0], [3])
    assert set(states.states) == {"large"}


def test_a_state_reads_ratings(llm, log):
    model, labels = llm
    layout = StreamLayout(log, labels.text.tokenizer, load_template("movies-rated").stream, 5, 12)
    model = AnswerModel(model.model, layout.answers, negatives=layout.negatives)
    user = 3
    one = history_of(log, user)[:4]
    state = UserState(model, layout, user)
    liked = layout.liked(one.item, one.row).tolist()
    state.extend(one.item.tolist(), layout.said(one.label, one.level).tolist(), liked)
    begin = int(log.user_begin[user])
    samples = Samples(*torch.tensor([[user], [7], [begin], [begin + 4], [-1]]))
    expected = LlmScorer(model, layout, 4096).logits(samples)
    torch.testing.assert_close(state.score([7]), expected, atol=1e-4, rtol=1e-4)
    lowest = UserState(model, layout, user)
    lowest.extend(one.item.tolist(), [0] * 4, liked)
    assert not torch.allclose(lowest.score([7]), expected, atol=1e-4)


def test_rating_digits_of_a_history_are_read_as_given(llm, log):
    model, _ = llm
    layout = StreamLayout(log, llm[1].text.tokenizer, load_template("movies-liked").stream, 5, 12)
    states = UserStates(model, layout, 10**9)
    given = states.score("a", [3, 4], [1, 0], [7], liked=[9, 0])
    default = UserStates(model, layout, 10**9).score("a", [3, 4], [1, 0], [7])
    own = [int(layout.items_liked[item]) for item in (3, 4)]
    assert torch.equal(states.score("b", [3, 4], [1, 0], [7], liked=own), default)
    assert own != [9, 0]
    assert not torch.equal(given, default)
