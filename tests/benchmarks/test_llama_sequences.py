"""The benchmark of LLaMA's sequences: ids that it has, read as often as the stream's own."""

import importlib
import sys
from pathlib import Path

import numpy as np

from corellarec.llm.sequence import TokenSequence, tokens_read

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_branches_of_one_stream_share_it_when_their_ids_are_folded(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.delitem(sys.modules, "llm", raising=False)  # a folder of tests has the name, too
    llama_7b = importlib.import_module("llama_7b")
    place = np.array([0])
    stream = TokenSequence(np.array([40_000, 7, 32_000]), place, place)
    sequences = [stream, *(TokenSequence(np.array([i]), place, place, stream) for i in (5, 33_000))]
    folded = llama_7b.folded(sequences)
    assert tokens_read(folded) == tokens_read(sequences) == 5
    assert folded[1].whole().ids.tolist() == [8_000, 7, 0, 5]
    assert folded[2].whole().ids.tolist() == [8_000, 7, 0, 1_000]
