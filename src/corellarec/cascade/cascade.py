"""Both models and the decision between them, in one directory that serving needs."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from corellarec.base.artifacts import read_manifest, writing
from corellarec.base.device import pick_dtype
from corellarec.base.errors import ArtifactError
from corellarec.base.metrics import Floats, entropy, sigmoid
from corellarec.cascade.budget import most_valuable
from corellarec.cascade.policy import known
from corellarec.cascade.router import Router
from corellarec.config import CrmConfig, LlmConfig
from corellarec.crm.batch import CrmReader
from corellarec.crm.build import build_crm
from corellarec.crm.score import crm_logits
from corellarec.data.log import Features, Log, Samples
from corellarec.llm.layout import Layout, build_layout
from corellarec.llm.load import AnswerModel, load_model, load_tokenizer
from corellarec.llm.lora import load_adapter
from corellarec.llm.remote import RemoteScorer
from corellarec.llm.score import LlmScorer, Scorer
from corellarec.llm.template import Template, field_names, load_template


@dataclass(frozen=True)
class Prediction:
    """What the cascade says of each sample.

    Args:
        p: ``(n,)`` the cascade's probability.
        p_crm: ``(n,)`` the calibrated CRM's probability.
        p_llm: ``(n,)`` the calibrated language model's, NaN where it was not asked.
        asked: ``(n,)`` whether the language model was asked.
    """

    p: Floats
    p_crm: Floats
    p_llm: Floats
    asked: NDArray[np.bool_]

    def to_frame(self) -> pl.DataFrame:
        """Columns ``p``, ``p_crm``, ``p_llm`` (null where not asked), ``source``, ``entropy``."""
        return pl.DataFrame(
            {
                "p": self.p,
                "p_crm": self.p_crm,
                "p_llm": pl.Series(self.p_llm).fill_nan(None),
                "source": np.where(self.asked, "llm", "crm"),
                "entropy": entropy(self.p_crm),
            }
        )


class Cascade:
    """A CRM, a language model and the router between them.

    The language model is loaded when it is first asked: a cascade that asks nobody never loads it.
    The budget is kept over all samples that one object has scored.

    Args:
        log: Users, items and the recent history of each user.
        crm: The conventional model, in evaluation mode; None where it is external.
        crm_config: Its settings.
        llm_config: The language model's settings.
        load_scorer: Makes the language model's scorer.
        router: The fitted decision.
        device: Where the models run.
    """

    def __init__(
        self,
        log: Log,
        crm: nn.Module | None,
        crm_config: CrmConfig,
        llm_config: LlmConfig,
        load_scorer: Callable[[], Scorer],
        router: Router,
        device: torch.device,
    ) -> None:
        self.log, self.crm, self.router = log, crm, router
        self.crm_config, self.llm_config = crm_config, llm_config
        self.reader = CrmReader(log, crm_config.history_length, device)
        self._samples = self._asked = 0
        self._load_scorer = load_scorer
        self._scorer: Scorer | None = None

    @property
    def scorer(self) -> Scorer:
        """The language model's scorer, loaded on first use."""
        if self._scorer is None:
            self._scorer = self._load_scorer()
        return self._scorer

    def predict(
        self,
        samples: Samples,
        progress: Callable[[int], None] = lambda answered: None,
        crm_logit: Floats | None = None,
    ) -> Prediction:
        """Score samples: the CRM all of them, the language model those the router sends it.

        Args:
            samples: What to score, over this cascade's log.
            progress: Called with the number of samples the language model has just answered.
            crm_logit: ``(n,)`` the CRM's logits; needed where it is external.
        """
        if crm_logit is None:
            if self.crm is None:
                raise ValueError("this cascade's CRM is external: give its logits as crm_logit")
            crm_logit = crm_logits(self.crm, self.reader, samples).double().numpy()
        facts = known(self.log, samples, crm_logit, self.crm_config.history_length)
        seen = self._samples + len(samples)
        allowed = math.ceil(self.router.limit * seen - 1e-9) - self._asked
        asked = most_valuable(self.router.above(facts), self.router.value(facts), allowed)
        p_crm = sigmoid(self.router.crm(crm_logit))
        p, p_llm = p_crm.copy(), np.full(len(samples), np.nan)
        if asked.any():
            chosen = torch.from_numpy(np.flatnonzero(asked))
            llm_logit = self.scorer.logits(samples[chosen], progress).double().numpy()
            p[asked] = self.router.answer(facts[asked], llm_logit)
            p_llm[asked] = sigmoid(self.router.llm(llm_logit))
        self._samples, self._asked = seen, self._asked + int(asked.sum())  # an error counts nothing
        return Prediction(p, p_crm, p_llm, asked)

    def save(self, directory: Path, save_adapter: Callable[[Path], None], key: str) -> None:
        """Write the directory that :meth:`load` reads: models' weights, log, decision.

        Args:
            directory: Replaced if it exists.
            save_adapter: Writes the language model's adapter into a directory.
            key: Identifies what the cascade was made from; kept in the manifest.
        """
        template = load_template(self.llm_config.template)
        facts = {
            "crm": self.crm_config.model_dump(mode="json"),
            "llm": self.llm_config.model_dump(mode="json"),
            "template": template.model_dump(mode="json"),
            "router": self.router.to_json(),
            "features": self.log.features.to_json(),
            "history": self.log.history,
        }
        keep = max(self.crm_config.history_length, self.llm_config.history_length)
        with writing(directory, {"kind": "cascade", "key": key}) as unfinished:
            (unfinished / "cascade.json").write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
            if self.crm is not None:
                save_file(self.crm.state_dict(), unfinished / "crm.safetensors")
            rows, items = self.log.rows, self.log.items
            if "liked" in field_names(template.stream.line):
                of_rows, of_items = self.log.liked
                rows = rows.with_columns(train_liked=of_rows)
                items = items.with_columns(train_liked=of_items)
            if self.log.history == "positives":
                rows = rows.filter(pl.col("label") == 1)
            rows.group_by("user", maintain_order=True).tail(keep).write_parquet(
                unfinished / "rows.parquet"
            )
            self.log.users.write_parquet(unfinished / "users.parquet")
            items.write_parquet(unfinished / "items.parquet")
            save_adapter(unfinished / "adapter")

    @classmethod
    def load(
        cls,
        directory: Path,
        device: torch.device,
        remote: Callable[[Layout], RemoteScorer] | None = None,
    ) -> "Cascade":
        """Read a cascade saved by :meth:`save`.

        Args:
            directory: Where it is.
            device: Where the models run.
            remote: Makes the scorer that asks a server; without one the language model runs here.

        Raises:
            ArtifactError: If the directory is missing, incomplete or damaged.
            ModelError: Later, when the language model is first asked and cannot be loaded.
        """
        read_manifest(directory)
        facts: dict[str, Any] = json.loads((directory / "cascade.json").read_text("utf-8"))
        crm_config = CrmConfig.model_validate(facts["crm"])
        llm_config = LlmConfig.model_validate(facts["llm"])
        template = Template.model_validate(facts["template"])
        log = Log(
            *(
                pl.read_parquet(directory / f"{name}.parquet", glob=False)
                for name in ("rows", "users", "items")
            ),
            features=Features.from_json(facts["features"]),
            history=facts["history"],
        )
        crm = None
        if crm_config.model != "external":
            crm = build_crm(crm_config, log.features, device).eval()
            state: dict[str, Tensor] = load_file(directory / "crm.safetensors")
            try:
                crm.load_state_dict(state)
            except RuntimeError as error:
                raise ArtifactError(
                    f"{directory}: crm.safetensors does not fit its settings"
                ) from error

        def load_scorer() -> Scorer:
            if remote is not None:
                return remote(
                    build_layout(llm_config, log, load_tokenizer(llm_config.model), template)
                )
            dtype = pick_dtype(llm_config.dtype, device)
            model, tokenizer = load_model(llm_config.model, dtype, device)
            layout = build_layout(llm_config, log, tokenizer, template)
            adapted = load_adapter(model, directory / "adapter")
            answer_model = AnswerModel(adapted, layout.answers)
            return LlmScorer(answer_model, layout, llm_config.tokens_per_batch)

        router = Router.from_json(facts["router"])
        return cls(log, crm, crm_config, llm_config, load_scorer, router, device)
