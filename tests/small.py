"""A small MovieLens in the official layout, and a tiny language model, both made here."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from corellarec.data.sources.movielens import GENRES_100K

USERS, ITEMS, ROWS = 40, 50, 1600


def write_movielens(folder: Path, seed: int = 0) -> Path:
    """MovieLens-100K's three files with a learnable signal; users come one after another."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    taste = generator.normal(size=(USERS, 2))
    appeal = generator.normal(size=(ITEMS, 2))
    users = np.sort(generator.integers(0, USERS, ROWS))
    ratings = []
    for number, user in enumerate(users):
        item = generator.integers(0, ITEMS)
        score = taste[user] @ appeal[item] + appeal[item, 0] + generator.normal(scale=0.5)
        rating = int(np.clip(np.round(3.5 + score), 1, 5))
        time = 880_000_000 + number * 60 + int(generator.integers(0, 10_000))
        ratings.append(f"{user + 1}\t{item + 1}\t{rating}\t{time}")
    (folder / "u.data").write_text("\n".join(ratings) + "\n", "latin-1")
    lines = []
    for item in range(ITEMS):
        flags = ["0"] * len(GENRES_100K)
        for genre in generator.choice(len(GENRES_100K), generator.integers(1, 4), replace=False):
            flags[genre] = "1"
        year = 1960 + item % 40
        facts = [str(item + 1), f"Film é{item} ({year})", f"01-Jan-{year}", "", "http://x"]
        lines.append("|".join(facts + flags))
    (folder / "u.item").write_text("\n".join(lines) + "\n", "latin-1")
    people = [f"{u + 1}|{20 + u % 30}|{'MF'[u % 2]}|job{u % 5}|{10000 + u}" for u in range(USERS)]
    (folder / "u.user").write_text("\n".join(people) + "\n", "latin-1")
    return folder


def write_tiny_llm(folder: Path) -> Path:
    """A two-layer Llama with random weights and a byte-level tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = ["Film 1 (1990) -> Yes\nFilm 2 (1991) -> No\n Answer: yes Answer: no"] * 50
    tokenizer.train_from_iterator(text, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
