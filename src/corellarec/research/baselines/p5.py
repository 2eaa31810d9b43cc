"""P5: an encoder-decoder that reads a sample as text and answers in its first word.

Source: Geng et al. 2022, https://arxiv.org/abs/2203.13366
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import (
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5Config,
)

from corellarec.base.processes import added_up, in_rounds
from corellarec.config import LlmConfig
from corellarec.data.log import Log, Samples
from corellarec.llm.layout import PaperLayout
from corellarec.llm.load import load_encoder_decoder, load_tokenizer
from corellarec.llm.template import clean, load_template
from corellarec.research.baselines.experiment import Experiment, Trained
from corellarec.run.weights import load_part
from corellarec.train.stages import StageOutput, quality

PROMPT = "has rated: {history}. Will the user like {target}? Answer:"
LEARNING_RATE = 1e-3  # all weights are trained, so stage 2's, for an adapter, does not fit
RANDOM_WEIGHTS = "a small T5 with random weights"


class P5Batch(NamedTuple):
    """Prompts of similar length.

    Args:
        ids: ``(rows, length)`` int64, padded at the right.
        mask: ``(rows, length)`` int64, 1 where a token is real.
        sample: ``(rows,)`` int64, the index of each row's sample.
    """

    ids: Tensor
    mask: Tensor
    sample: Tensor


class P5Prompts:
    """Samples as text: the user's id, the rated history, the target item.

    Args:
        log: The prepared log.
        tokenizer: The model's.
        config: How items are written, and how long a history is.

    Raises:
        ModelError: If an answer is not a single token.
    """

    def __init__(self, log: Log, tokenizer: PreTrainedTokenizerBase, config: LlmConfig) -> None:
        template = load_template(config.template).paper.model_copy(update={"prompt": PROMPT})
        self.layout = PaperLayout(
            log, tokenizer, template, config.history_length, config.title_year
        )
        self.answers = self.layout.answers
        self.users = [clean(str(user)) for user in log.users["id"]]
        end = tokenizer.eos_token_id
        self.end: list[int] = [end] if isinstance(end, int) else []
        self.padding = _padding(tokenizer)

    def text(self, user: int, begin: int, end: int, item: int) -> str:
        """The prompt of a target item whose user's history lies at history rows ``begin:end``."""
        return f"User user_{self.users[user]} {self.layout.prompt(user, begin, end, item)}"

    def batches(self, samples: Samples, tokens_per_batch: int) -> list[P5Batch]:
        """Batches that hold no more tokens than the budget, padding included; longest first."""
        ids = self.ids(samples)
        return [self.padded(ids, chosen) for chosen in self.groups(ids, tokens_per_batch)]

    def ids(self, samples: Samples) -> list[list[int]]:
        """Each sample's tokens."""
        columns = (samples.user, samples.begin, samples.end, samples.item)
        facts = zip(*(column.tolist() for column in columns), strict=True)
        return [self.layout.text(self.text(*one)) + self.end for one in facts]

    def groups(self, ids: list[list[int]], tokens_per_batch: int) -> list[list[int]]:
        """Which samples make each batch."""
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        groups, start = [], 0
        while start < len(order):
            size = max(1, tokens_per_batch // len(ids[order[start]]))
            groups.append(order[start : start + size])
            start += size
        return groups

    def padded(self, ids: list[list[int]], chosen: Sequence[int]) -> P5Batch:
        """The batch of some samples."""
        length = max(len(ids[i]) for i in chosen)
        padded = torch.full((len(chosen), length), self.padding)
        mask = torch.zeros(len(chosen), length, dtype=torch.long)
        for row, i in enumerate(chosen):
            padded[row, : len(ids[i])] = torch.tensor(ids[i])
            mask[row, : len(ids[i])] = 1
        return P5Batch(padded, mask, torch.tensor(chosen))


class P5Model(nn.Module):
    """An encoder-decoder whose first decoded word is the answer, and its loss.

    Args:
        model: The encoder-decoder.
        answers: Token ids of no and yes.
        label: ``(samples,)`` of 0 and 1, which training batches' ``sample`` counts in.
    """

    def __init__(self, model: PreTrainedModel, answers: tuple[int, int], label: Tensor) -> None:
        super().__init__()
        self.model, self.answers, self.label = model, answers, label
        config = model.config
        start = config.decoder_start_token_id
        self.start = int(config.pad_token_id or 0) if start is None else int(start)

    def logit(self, batch: P5Batch) -> Tensor:
        """Answer a batch; returns ``(rows,)`` fp32, yes minus no."""
        device = self.model.device
        out = self.model(
            input_ids=batch.ids.to(device),
            attention_mask=batch.mask.to(device),
            decoder_input_ids=torch.full((len(batch.ids), 1), self.start, device=device),
            use_cache=False,
        )
        no, yes = self.answers
        return (out.logits[:, 0, yes] - out.logits[:, 0, no]).float()

    def forward(self, batch: P5Batch) -> StageOutput:
        """Binary cross-entropy of a batch."""
        logit = self.logit(batch)
        label = self.label[batch.sample].float().to(logit.device)
        return StageOutput(binary_cross_entropy_with_logits(logit, label), {})


class P5Scorer:
    """Scores samples with an encoder-decoder.

    Args:
        model: The model.
        prompts: How samples become text.
        tokens_per_batch: Tokens in one pass.
        accelerator: Processes that share the batches.
    """

    def __init__(
        self,
        model: P5Model,
        prompts: P5Prompts,
        tokens_per_batch: int,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.model, self.prompts, self.tokens_per_batch = model, prompts, tokens_per_batch
        self.accelerator = accelerator

    @torch.inference_mode()
    def logits(
        self, samples: Samples, progress: Callable[[int], None] = lambda answered: None
    ) -> Tensor:
        """``(n,)`` fp32 on the CPU; ``progress`` is told the samples of each batch."""
        self.model.eval()
        logits = torch.zeros(len(samples))
        batches = self.prompts.batches(samples, self.tokens_per_batch)
        for batch, counts, together in in_rounds(batches, self.accelerator):
            if counts:
                logits[batch.sample] = self.model.logit(batch).cpu()
            progress(sum(len(one.sample) for one in together))
        return added_up(logits, self.accelerator)


class P5Task:
    """All weights on training rows.

    Args:
        model: The losses; its labels are those of ``rows``.
        scorer: Validates it, and makes the batches.
        log: The prepared log.
        rows, validation: Rows of the training and of the validation split.
        seed: Seed of the order of batches.
    """

    def __init__(
        self,
        model: P5Model,
        scorer: P5Scorer,
        log: Log,
        rows: Tensor,
        validation: Tensor,
        seed: int,
    ) -> None:
        self.model, self.scorer, self.log, self.seed = model, scorer, log, seed
        self.validation = validation
        self.ids = scorer.prompts.ids(log.samples(rows))
        self.groups = scorer.prompts.groups(self.ids, scorer.tokens_per_batch)
        self.parameter_groups = [{"params": list(model.parameters()), "lr": LEARNING_RATE}]
        self.selection = {"model.": "p5_log_loss"}

    def batches(self, epoch: int) -> Sequence[list[int]]:
        """The batches in random order, each as numbers of training rows."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.groups))
        return [self.groups[i] for i in order]

    def size(self, part: Sequence[int]) -> int:
        """Number of rows."""
        return len(part)

    def read(self, part: Sequence[int]) -> P5Batch:
        """The rows' prompts."""
        return self.scorer.prompts.padded(self.ids, part)

    def validate(self) -> dict[str, float]:
        """Log loss and AUC on the validation rows."""
        logit = self.scorer.logits(self.log.samples(self.validation))
        return quality("p5", self.log.labels(self.validation), logit)


def _padding(tokenizer: PreTrainedTokenizerBase) -> int:
    """The padding token; any will do where the tokenizer has none, for it is masked."""
    found = tokenizer.pad_token_id
    return found if isinstance(found, int) else 0


def small_t5(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A T5 of two blocks on each side, with random weights from torch's current seed."""
    padding = _padding(tokenizer)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_layers=2,
        num_heads=4,
        pad_token_id=padding,
        eos_token_id=tokenizer.eos_token_id,  # pyright: ignore[reportArgumentType]
    )
    config.decoder_start_token_id = padding
    return AutoModelForSeq2SeqLM.from_config(config)


def p5(experiment: Experiment) -> Trained:
    """Train an encoder-decoder, the one asked for or a small one with random weights.

    Rows and validation are stage 2's, the learning rate is ``LEARNING_RATE``.
    """
    run, config = experiment.workspace, experiment.workspace.config
    with run.display.waiting("loading the model"):
        if experiment.model is None:
            tokenizer = load_tokenizer(config.llm.model)
            set_seed(config.seed)
            network = small_t5(tokenizer).to(run.device)  # pyright: ignore[reportArgumentType]
        else:
            network, tokenizer = load_encoder_decoder(experiment.model, run.device, "--model")
    rows = experiment.drawn("train", experiment.rows)
    prompts = P5Prompts(run.log, tokenizer, config.llm)
    model = P5Model(network, prompts.answers, run.log.labels(rows))
    scorer = P5Scorer(model, prompts, config.llm.tokens_per_batch, run.accelerator)

    def task() -> P5Task:
        validation = experiment.drawn("validation", config.stage2.validation_rows)
        return P5Task(model, scorer, run.log, rows, validation, config.seed)

    state = experiment.train("trained", experiment.model or RANDOM_WEIGHTS, task, config.stage2)
    load_part(model, experiment.directory / "trained", experiment.key("trained"), "")
    return Trained(
        scorer.logits,
        experiment.model or RANDOM_WEIGHTS,
        len(rows),
        state.seconds,
        state.best["model."],
    )
