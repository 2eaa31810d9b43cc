from importlib.resources import files

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from corellarec.base.errors import ConfigError, ModelError
from corellarec.config import LlmConfig, load_config
from corellarec.data.levels import FIRST, MAX_DISTINCT
from corellarec.data.log import Log, Samples
from corellarec.data.prepare import prepare
from corellarec.llm.count import paper_tokens, tokens_alone
from corellarec.llm.layout import PaperLayout, StreamLayout, build_layout, rating_words
from corellarec.llm.load import AnswerModel, load_model
from corellarec.llm.score import LlmScorer
from corellarec.llm.sequence import tokens_read
from corellarec.llm.template import clean_title, load_template
from corellarec.llm.text import Text

STREAM, PAPER = load_template("movies").stream, load_template("movies").paper
RATED = load_template("movies-rated").stream
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def llm(tiny_llm):
    return load_model(str(tiny_llm), torch.float32, CPU)


def one_prompt_each(model, sequences, count):
    """Logits from full prompts, each cut at its arrow, through the whole LM head."""
    logits = torch.empty(count)
    for sequence in (one.whole() for one in sequences):
        for place, sample in zip(sequence.places, sequence.samples, strict=True):
            ids = torch.from_numpy(sequence.ids[: place + 1]).unsqueeze(0)
            with torch.inference_mode():
                last = model.model(input_ids=ids).logits[0, -1].float()
            answers = last[list(model.answers)]
            negative, positive = answers[: model.negatives], answers[model.negatives :]
            logits[sample] = positive.logsumexp(0) - negative.logsumexp(0)
    return logits


@settings(max_examples=12, deadline=None)
@given(
    rows=st.sets(st.integers(0, 1500), min_size=1, max_size=40),
    window=st.integers(6, 30),
    budget=st.integers(50, 4000),
)
@pytest.mark.parametrize("template", [STREAM, RATED], ids=["labels", "ratings"])
def test_stream_equals_one_prompt_for_each_sample(log, llm, template, rows, window, budget):
    model, tokenizer = llm
    layout = StreamLayout(log, tokenizer, template, 5, window)
    answer_model = AnswerModel(model, layout.answers, negatives=layout.negatives)
    samples = log.samples(torch.tensor(sorted(rows)))
    sequences = layout.encode(samples)
    found = LlmScorer(answer_model, layout, budget).logits(samples)
    expected = one_prompt_each(answer_model, sequences, len(samples))
    torch.testing.assert_close(found.sigmoid(), expected.sigmoid(), atol=1e-4, rtol=0)


def test_lines_are_answered_by_ratings(log, llm):
    layout = StreamLayout(log, llm[1], RATED, 5, 12)
    assert [llm[1].decode([token]) for token in layout.answers] == list("12345")
    assert layout.negatives == 3  # of ratings 1 to 5, positive from 4
    begin, end = int(log.user_begin[3]), int(log.user_begin[4])
    ids, _ = layout.history(3, begin, end)
    lines = llm[1].decode(ids).split("\n")[1:-1]
    ratings = log.level[begin:end].numpy() + 1 - FIRST
    assert [line[-1] for line in lines] == [str(rating) for rating in ratings]
    assert len(set(ratings.tolist())) > 2


def test_a_label_alone_is_read_as_its_most_frequent_rating(log, llm):
    layout = StreamLayout(log, llm[1], RATED, 5, 12)
    train = log.rows_of("train")
    level, label = log.level[train], log.labels(train)
    usual = [int(level[label == kind].bincount().argmax()) - FIRST for kind in (0, 1)]
    assert layout.said(np.array([0, 1]), np.array([0, 1])).tolist() == usual
    assert layout.said(np.array([0, 1]), np.array([2, 6])).tolist() == [0, 4]


def test_labels_answer_where_ratings_do_not_tell_them(log, llm, taken):
    mixed = log.rows.with_columns(level=pl.lit(4, pl.Int8))
    for other in (Log(mixed, log.users, log.items, log.features), taken):
        layout = StreamLayout(other, llm[1], RATED, 5, 12)
        assert [llm[1].decode([token]) for token in layout.answers] == [" No", " Yes"]
        assert layout.said(np.array([0, 1]), np.array([4, 4])).tolist() == [0, 1]


def test_more_than_nine_ratings_are_letters():
    assert (rating_words(9), rating_words(10)) == ("123456789", "ABCDEFGHIJ")
    assert len(set(rating_words(MAX_DISTINCT))) == MAX_DISTINCT


@pytest.fixture(scope="module")
def taken(movielens, tmp_path_factory):
    """A log without negatives in which two or three rows of a user share a time."""
    directory = tmp_path_factory.mktemp("implicit") / "data"
    settings = [f"data.path={movielens}", "data.implicit=true"]
    prepare(load_config(settings=settings).data, directory)
    log = Log.load(directory)
    day = log.rows.with_columns(time=pl.col("time").dt.truncate("30m"))
    day = day.unique(["user", "time", "item"], maintain_order=True).sort("user", "time", "item")
    assert log.negatives is not None
    return Log(day, log.users, log.items, log.features, "positives", "apart", log.negatives)


@settings(max_examples=12, deadline=None)
@given(rows=st.sets(st.integers(0, 1600), min_size=1, max_size=60), budget=st.integers(50, 4000))
def test_drawn_negatives_branch_off_the_stream_at_their_moment(taken, llm, rows, budget):
    model, tokenizer = llm
    layout = StreamLayout(taken, tokenizer, STREAM, 5, 20)
    answer_model = AnswerModel(model, layout.answers)
    samples = taken.samples(torch.tensor(sorted(rows)))
    sequences = layout.encode(samples)
    answered = []
    for sequence in sequences:
        assert sequence.trunk.after is None
        whole = sequence.whole()
        for place, sample in zip(whole.places, whole.samples, strict=True):
            lines = tokenizer.decode(whole.ids[: place + 1]).split("\n")[1:]
            row = samples.row[sample]
            before = taken.history_item[
                (taken.history_user == taken.user[row]) & (taken.history_time < taken.time[row])
            ]
            titles = layout.texts.titles
            expected = [f"{titles[item]} -> Yes" for item in before[-(len(lines) - 1) :]]
            assert lines == [*expected[: len(lines) - 1], f"{titles[taken.item[row]]} ->"]
            assert min(len(before), 5) <= len(lines) - 1 < 20
            answered.append(sample)
    assert sorted(answered) == list(range(len(samples)))
    found = LlmScorer(answer_model, layout, budget).logits(samples)
    expected = one_prompt_each(answer_model, sequences, len(samples))
    torch.testing.assert_close(found.sigmoid(), expected.sigmoid(), atol=1e-4, rtol=0)


def test_a_user_is_read_once_for_all_negatives(taken, llm):
    layout = StreamLayout(taken, llm[1], STREAM, 5, 80)
    user = int(taken.user_train_rows.argmax())
    rows = taken.rows_of("train")
    samples = taken.samples(rows[taken.user[rows] == user])
    assert 5 < samples.end[-1] - samples.begin[0] < 80  # all in one window
    sequences = layout.encode(samples)
    history = taken.history_item[samples.begin[0] : samples.end[-1] + 1].tolist()
    lines = [len(layout.line(item)) for item in [*history, *samples.item.tolist()]]
    assert tokens_read(sequences) < len(layout.header(user)) + 2 * len(history) + sum(lines)
    assert AnswerModel(llm[0], layout.answers).batch(sequences).tokens == tokens_read(sequences)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.sets(st.integers(0, 1500), min_size=1, max_size=120),
    history=st.integers(1, 12),
    extra=st.integers(1, 30),
)
def test_every_sample_is_answered_once_with_enough_context(log, llm, rows, history, extra):
    tokenizer = llm[1]
    layout = StreamLayout(log, tokenizer, STREAM, history, history + extra)
    samples = log.samples(torch.tensor(sorted(rows)))
    answered = []
    for sequence in layout.encode(samples):
        text = tokenizer.decode(sequence.ids)
        lines = text.removeprefix(STREAM.heading + "\n").split("\n")
        assert len(lines) <= history + extra
        for place, sample in zip(sequence.places, sequence.samples, strict=True):
            before = tokenizer.decode(sequence.ids[: place + 1]).split("\n")[1:]
            end, begin = int(samples.end[sample]), int(samples.begin[sample])
            assert len(before) - 1 >= min(history, end - begin)
            # The lines before are the user's own rows, in order, each with its answer.
            rows_before = range(end - len(before) + 1, end)
            expected = [
                f"{layout.texts.titles[log.item[r]]} -> {'Yes' if log.history_label[r] else 'No'}"
                for r in rows_before
            ]
            assert before == [*expected, f"{layout.texts.titles[samples.item[sample]]} ->"]
            answered.append(sample)
    assert sorted(answered) == list(range(len(samples)))


def test_pairs_outside_the_log_follow_the_whole_history(log, llm):
    layout = StreamLayout(log, llm[1], STREAM, 5, 20)
    samples = log.pairs(torch.tensor([2, -1]), torch.tensor([7, 7]))
    first, second = sorted(
        (llm[1].decode(s.whole().ids) for s in layout.encode(samples)), key=len, reverse=True
    )
    assert first.endswith(f"\n{layout.texts.titles[7]} ->")
    assert first.count("\n") == 6
    assert second == f"{STREAM.heading}\n{layout.texts.titles[7]} ->"


def test_paper_prompt(log, llm):
    layout = PaperLayout(log, llm[1], PAPER, 2)
    row = int(log.user_begin[3]) + 5
    (sequence,) = layout.encode(log.samples(torch.tensor([row])))
    said = [
        f"{log.titles[log.item[r]]} ({'liked' if log.history_label[r] else 'disliked'})"
        for r in (row - 2, row - 1)
    ]
    assert llm[1].decode(sequence.ids) == (
        f"Below is the rating history of a user: {', '.join(said)}. Please predict whether the "
        f"user will like {log.titles[log.item[row]]} based on his/her rating history and the "
        "quality of the target item. You should ONLY answer no or yes. Answer:"
    )
    assert sequence.places.tolist() == [len(sequence.ids) - 1]


def test_paper_layout_scores_like_transformers(log, llm):
    model, tokenizer = llm
    layout = build_layout(LlmConfig(layout="paper", history_length=3), log, tokenizer)
    answer_model = AnswerModel(model, layout.answers)
    samples = log.samples(torch.arange(100, 120))
    found = LlmScorer(answer_model, layout, 700).logits(samples)
    expected = one_prompt_each(answer_model, layout.encode(samples), 20)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def changed(tmp_path, old, new):
    """The path of a template that differs from the movies' in one place."""
    text = (files("corellarec.llm") / "templates" / "movies.toml").read_text("utf-8")
    assert old in text
    path = tmp_path / "own.toml"
    path.write_text(text.replace(old, new))
    return str(path)


def test_prompts_are_counted_whatever_their_answers(log, llm, tmp_path):
    """A run in the stream layout counts the paper's tokens, and does not ask with them."""
    tokenizer, samples = llm[1], log.samples(torch.arange(90, 100))
    template = changed(tmp_path, '" no"', '" absolutely not"')
    config = LlmConfig(template=template, history_length=3)
    build_layout(config, log, tokenizer)
    found = paper_tokens(config, log, tokenizer, samples)
    sequences = PaperLayout(log, tokenizer, PAPER, 3).encode(samples)
    assert found == np.mean([len(one.whole().ids) for one in sequences])
    with pytest.raises(ModelError, match="splits the answer ' absolutely not'"):
        build_layout(config.model_copy(update={"layout": "paper"}), log, tokenizer)


def test_prompts_that_cannot_be_made_are_not_counted(log, llm, tmp_path):
    config = LlmConfig(template=changed(tmp_path, "{target}", "{target} {mood}"))
    assert paper_tokens(config, log, llm[1], log.samples(torch.arange(5))) is None
    stream = build_layout(config, log, llm[1])
    samples = log.samples(torch.tensor([0, 700]))
    expected = [len(one.ids) for i in (0, 1) for one in stream.encode(samples[i : i + 1])]
    assert tokens_alone(stream, samples) == np.mean(expected)


@settings(max_examples=60, deadline=None)
@given(title=st.text(min_size=1, max_size=300))
def test_titles_stay_on_their_line(title):
    cleaned = clean_title(title)
    assert len(cleaned) <= 200
    assert "->" not in cleaned
    assert len(cleaned.splitlines()) <= 1
    assert not any(ord(c) < 32 or c in "\u200e\u202e\u2028\ufeff" for c in cleaned)


def test_a_window_beyond_the_models_context_is_refused(log, tiny_llm):
    model, tokenizer = load_model(str(tiny_llm), torch.float32, CPU)
    model.config.max_position_embeddings = 60
    layout = StreamLayout(log, tokenizer, STREAM, 5, 20)
    scorer = LlmScorer(AnswerModel(model, layout.answers), layout, 4096)
    with pytest.raises(ConfigError, match=r"the language model reads 60: lower llm\.window"):
        scorer.logits(log.samples(torch.arange(40)))


def test_year_can_be_left_out():
    assert clean_title("Heat (1995)") == "Heat (1995)"
    assert clean_title("Heat (1995)", year=False) == "Heat"
    assert clean_title("(1995)", year=False) == "(1995)"


def test_an_answer_of_two_tokens_is_refused(llm):
    with pytest.raises(ModelError, match="splits the answer ' Absolutely' into"):
        Text(llm[1]).answer("x ->", " Absolutely")


def test_tokenizer_round_trip(tiny_llm):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    ids = Text(tokenizer)("Film é3 ->")
    assert tokenizer.decode(np.array(ids)) == "Film é3 ->"


def joined(*parts):
    columns = zip(*((s.user, s.item, s.begin, s.end, s.row) for s in parts), strict=True)
    return Samples(*(torch.cat(column) for column in columns))


def test_a_pair_reads_the_same_whatever_is_scored_with_it(taken, log, llm):
    for one in (taken, log):
        layout = StreamLayout(one, llm[1], STREAM, 5, 20)
        rows = one.rows_of("train")[:200]
        some = rows[::9]
        offered = one.candidates(one.user[some].long(), torch.arange(len(some)))
        # As of just before the log's own row of the pair: what follows the history is that row.
        earlier = one.pairs(one.user[some].long(), one.item[some].long(), one.time[some] - 1)
        assert (earlier.row == -1).all()
        pairs = joined(offered, earlier)
        alone = layout.encode(pairs)
        both = joined(one.samples(rows), pairs)
        found = {int(s.samples[0]): s.whole().ids for s in layout.encode(both) if s.after}
        for sequence in alone:
            assert (
                found[int(sequence.samples[0]) + len(rows)].tolist()
                == sequence.whole().ids.tolist()
            )
