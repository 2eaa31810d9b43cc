"""How many tokens prompts have, without asking a language model."""

import numpy as np
from transformers import PreTrainedTokenizerBase

from corellarec.base.errors import ConfigError
from corellarec.config import LlmConfig
from corellarec.data.log import Log, Samples
from corellarec.llm.layout import Layout, PaperLayout
from corellarec.llm.template import load_template


def tokens_alone(layout: Layout, samples: Samples) -> float:
    """Mean number of tokens of a sample's prompt where no other sample shares it.

    Example:
        >>> tokens_alone(layout, log.samples(log.rows_of("test")[:300]))  # doctest: +SKIP
        412.5
    """
    prompts = (one for i in range(len(samples)) for one in layout.encode(samples[i : i + 1]))
    return float(np.mean([prompt.length for prompt in prompts]))


def paper_tokens(
    config: LlmConfig, log: Log, tokenizer: PreTrainedTokenizerBase, samples: Samples
) -> float | None:
    """:func:`tokens_alone` of the paper's prompt, whatever layout is configured.

    Its answers need not be single tokens, since they are not in the prompt. None where the
    template's ``[paper]`` names columns that the log does not have.
    """
    paper = load_template(config.template).paper
    try:
        layout = PaperLayout(log, tokenizer, paper, config.history_length, config.title_year)
    except ConfigError:
        return None
    return tokens_alone(layout, samples)
