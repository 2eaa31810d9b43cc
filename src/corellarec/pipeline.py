"""A run: one directory, filled step by step; every step that is already there is left alone."""

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import polars as pl
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from numpy.typing import NDArray
from peft import PeftModel
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from corellarec.artifacts import MANIFEST, link, read_manifest, sha256, write_text, writing
from corellarec.cascade.calibrate import fit_logistic
from corellarec.cascade.cascade import Cascade
from corellarec.cascade.policy import Known, known
from corellarec.cascade.router import Router, explain, fit_router
from corellarec.config import Config, LlmStageConfig, StageConfig, load_config, to_toml
from corellarec.crm.batch import CrmReader
from corellarec.crm.build import build_crm
from corellarec.crm.external import external_logits
from corellarec.crm.score import crm_logits
from corellarec.data.log import Log
from corellarec.data.prepare import prepare
from corellarec.device import pick_device, pick_dtype
from corellarec.display import Display, left_out, say_warnings
from corellarec.errors import ArtifactError, ConfigError
from corellarec.llm.layout import Layout, build_layout
from corellarec.llm.load import AnswerModel, load_model, load_tokenizer
from corellarec.llm.lora import (
    TunedAdapter,
    add_adapter,
    load_adapter,
    save_adapter,
    write_adapter,
)
from corellarec.llm.score import Cost, LlmScorer
from corellarec.llm.template import load_template
from corellarec.metrics import Floats
from corellarec.report.evaluate import Scores, evaluate
from corellarec.train.align import Alignment
from corellarec.train.checkpoint import Progress, load_tensors, load_trainable, trainable_state
from corellarec.train.distill import Gate, Lesson, soft_targets
from corellarec.train.loop import Task, train
from corellarec.train.stages import (
    CrmTask,
    LlmStageModel,
    LlmTask,
    draw_rows,
    least_confident,
    take,
)

STAGES = (1, 2, 3)
CHEAP = {"distill", "cascade", "evaluate"}  # sections that a run may change
PIECE = 20_000  # rows scored between two writings
COST_SAMPLE = 300  # test rows whose prompts are encoded to compare the layouts' tokens


class Run:
    """The steps of one run and the models they share.

    Args:
        config: What to do.
        directory: Where everything is written.
        console: Where progress goes.
        neighbours: Directory of other runs, whose finished steps are taken over where they are
            what this run would do again.
    """

    def __init__(
        self, config: Config, directory: Path, console: Console, neighbours: Path | None = None
    ) -> None:
        self.config, self.directory, self.neighbours = config, directory, neighbours
        self.accelerator = Accelerator(cpu=pick_device(config.device).type == "cpu")
        self.device = self.accelerator.device
        self.display = Display(console, quiet=not self.accelerator.is_main_process)

    @classmethod
    def open(cls, directory: Path, console: Console) -> "Run":
        """The run in an existing directory, with the configuration it was made with.

        Raises:
            ArtifactError: If the directory is not that of a run.
        """
        return cls(load_run_config(directory), directory, console)

    def start(self) -> None:
        """Record the configuration.

        Where training has begun, only the sections ``CHEAP`` may differ: what they change is
        fitted again from stored scores, and no training is lost.

        Raises:
            ConfigError: If the directory was made with other settings.
        """
        path = self.directory / "config.toml"
        begun = path.exists() and any(self.directory.glob("stage*"))
        before = load_run_config(self.directory) if begun else self.config
        if before.model_dump(exclude=CHEAP) != self.config.model_dump(exclude=CHEAP):
            raise ConfigError(
                f"{self.directory} was made with other settings "
                f"({difference(before, self.config)}): use another --out, or --overwrite"
            )
        if self.accelerator.is_main_process:
            write_text(path, to_toml(self.config))
        self.accelerator.wait_for_everyone()

    def everything(self) -> dict[str, Any]:
        """All steps in order; returns the metrics.

        Under ``torchrun`` every process trains; the main process alone does the rest, and the
        others return nothing.
        """
        self.start()
        self.prepare()
        with self.accelerator.main_process_first():  # errors now, not after minutes of training
            _ = self.layout
        if self.adapter:
            self.adapter.check(self.config.llm, self.log)
        if self.is_external:
            _ = self.external_logits
        for number in STAGES:
            self.train_stage(number)
        self.distil()
        return self.evaluate() if self.accelerator.is_main_process else {}

    # Data and models, each made once.

    def prepare(self) -> dict[str, Any]:
        """Prepare the log; returns what was counted."""
        with self.accelerator.main_process_first():
            facts = prepare(self.config.data, self.directory / "data")
        self.display.say(
            f"data: {facts['rows']:,} rows, {facts['users']:,} users, {facts['items']:,} items, "
            f"{facts['positives']:,} positives"
        )
        if omitted := left_out(facts):
            self.display.say(f"left out: {omitted}")
        if not self.display.quiet:
            say_warnings(self.display.console, facts["warnings"])
        return facts

    @cached_property
    def log(self) -> Log:
        """The prepared log."""
        return Log.load(self.directory / "data")

    @cached_property
    def reader(self) -> CrmReader:
        """Builds the CRM's batches."""
        return CrmReader(self.log, self.config.crm.history_length, self.device)

    def new_crm(self) -> nn.Module:
        """A CRM with fresh weights."""
        set_seed(self.config.seed)
        return build_crm(self.config.crm, self.log.features, self.device)

    @property
    def is_external(self) -> bool:
        """Whether the CRM is known by its scores alone."""
        return self.config.crm.model == "external"

    @cached_property
    def external_logits(self) -> Tensor:
        """The external CRM's logit of each row of the log, NaN where it has none."""
        return external_logits(self.config.crm.external, self.log)

    def crm_logits(self, rows: Tensor) -> Tensor:
        """``(n,)`` fp32: the trained CRM's logit of validation or test rows."""
        if self.is_external:
            return self.external_logits[rows]
        return crm_logits(self.trained_crm(), self.reader, self.log.samples(rows))

    def trained_crm(self, stage: int | None = None) -> nn.Module:
        """The CRM as stage 1 or 2 left it, or as it is in the end.

        Stage 1's stands in where stage 2 was left out.
        """
        directory = self.directory / ("stage2" if self.trains(2) and stage != 1 else "stage1")
        if stage is None and self.distil()["weight"]:
            directory = self.directory / "distilled"
        crm = self.new_crm()
        load_part(crm, directory, "crm.")
        return crm.eval()

    @cached_property
    def layout(self) -> Layout:
        """How samples become text; it needs the tokenizer alone."""
        name = self.config.llm.model
        return build_layout(self.config.llm, self.log, load_tokenizer(name))

    @cached_property
    def llm_parts(self) -> tuple[AnswerModel, PreTrainedTokenizerBase, Layout]:
        """The language model with a fresh adapter, its tokenizer and its layout."""
        with self.display.waiting("loading the language model"):
            config = self.config.llm
            dtype = pick_dtype(config.dtype, self.device)
            model, tokenizer = load_model(config.model, dtype, self.device)
            set_seed(self.config.seed)
            if self.adapter is None:
                adapted = add_adapter(model, config.lora)
            else:
                self.adapter.check(config, self.log)
                adapted = load_adapter(model, self.adapter.directory)
            answer_model = AnswerModel(adapted, self.layout.answers, config.checkpointing)
            return answer_model, tokenizer, self.layout

    @property
    def llm(self) -> AnswerModel:
        """The language model."""
        return self.llm_parts[0]

    @cached_property
    def scorer(self) -> LlmScorer:
        """Scores with the language model as it is now."""
        model, _, layout = self.llm_parts
        return LlmScorer(model, layout, self.config.llm.tokens_per_batch)

    @cached_property
    def adapter(self) -> TunedAdapter | None:
        """The tuned adapter that is used as it is, if there is one."""
        name = self.config.llm.adapter
        return TunedAdapter(name) if name else None

    def trains(self, number: int) -> bool:
        """Whether a stage is not left out."""
        if number > 1 and self.config.llm.adapter:
            return False
        if number == 3:
            return self.config.stage3.rows != 0
        return not self.is_external and (number == 1 or self.config.stage2.rows != 0)

    # Training.

    def train_stage(self, number: int) -> dict[str, Any]:
        """Train stage 1, 2 or 3, or find it done; returns its manifest's facts.

        Raises:
            ArtifactError: If the stage before it is missing or damaged.
        """
        directory = self.directory / f"stage{number}"
        if not self.trains(number):
            external = self.is_external and number < 3
            why = "the CRM is external" if external else f"stage{number}.rows = 0"
            why = "llm.adapter is tuned" if number > 1 and self.adapter else why
            self.display.say(f"stage {number}: left out ({why})")
            return {}
        titles = ("the CRM alone", "both models, aligned", "the LLM alone")
        return self.train_into(
            directory,
            self.key(f"stage{number}"),
            lambda: self.task(number),
            getattr(self.config, f"stage{number}"),
            title=f"stage {number}: {titles[number - 1]}",
            seed=stage_seed(self.config, number),
        )

    def train_into(
        self,
        directory: Path,
        key: str,
        make_task: Callable[[], Task],
        settings: StageConfig,
        *,
        title: str,
        seed: int,
    ) -> dict[str, Any]:
        """Train a task and write its best weights, or find it done; returns its manifest's facts.

        Args:
            directory: Where the weights go.
            key: Identifies what is trained; only what has the same key is continued.
            make_task: Makes the task, if it is to be trained.
            settings: Of the training.
            title: What is trained; up to a colon, its name.
            seed: Seed of everything random.
        """
        name = title.partition(":")[0]
        if (facts := self.done(directory, key)) is not None:
            self.display.say(f"{name}: done before")
            return facts
        task = make_task()
        progress = Progress(directory.with_name(f"{directory.name}.progress"), key)
        if (newest := progress.newest()) is not None:
            self.display.say(f"{name}: going on from step {newest[1]['step']}")
        with self.display.bar(title) as report:
            state = train(
                task,
                settings,
                progress=progress,
                seed=seed,
                accelerator=self.accelerator,
                report=report,
            )
        facts = {"kind": directory.name, "key": key, **vars(state), **_versions()}
        if self.accelerator.is_main_process:
            with writing(directory, facts) as unfinished:
                save_file(trainable_state(task.model), unfinished / "model.safetensors")
            progress.clear()
        self.accelerator.wait_for_everyone()
        best = ", ".join(
            f"{metric.removesuffix('_log_loss').upper()} log loss {state.best[part]:.4f} at step "
            f"{state.best_step[part]}"
            for part, metric in task.selection.items()
            if part in state.best and part != "alignment." and metric.endswith("log_loss")
        )
        self.display.say(
            f"{name}: {state.step} steps in {state.seconds:.0f} s"
            + (f"; best {best}" if best else "")
        )
        return facts

    def task(self, number: int) -> Task:
        """What a stage trains, its models as the stages before left them."""
        config, log = self.config, self.log
        if number == 1:
            return CrmTask(self.new_crm(), self.reader, log, config.stage1, config.seed)
        settings: LlmStageConfig = config.stage3 if number == 3 else config.stage2
        rows = self.drawn(number)
        parts: dict[str, Any] = {}
        if number == 2:
            crm = self.trained_crm(stage=1)
            parts = {"crm": crm, "reader": self.reader, "config": config.stage2}
            parts["alignment"] = self.alignment(crm)
        else:
            if self.trains(2):
                load_part(self.llm, self.directory / "stage2", "llm.")
        if not len(rows):
            raise ConfigError(
                f"stage3.rows: stage 2 takes all {len(log.rows_of('train'))} rows of the training "
                'split, and stage 3 takes others: lower stage2.rows, or set stage3.rows = "all"'
            )
        validation, _ = take(
            draw_rows(log, "validation", self.chunk, config.seed), settings.validation_rows
        )
        model = LlmStageModel(self.llm, log, rows, **parts)
        return LlmTask(model, self.scorer, settings, validation, config.seed)

    def drawn(self, number: int) -> Tensor:
        """The training rows of stage 2 or 3; stage 3 takes others than stage 2, unless all."""
        chunks = draw_rows(self.log, "train", self.chunk, self.config.seed)
        rows = torch.zeros(0, dtype=torch.long)
        for stage in (2, 3):
            if stage > number or not self.trains(stage):
                continue
            settings: LlmStageConfig = getattr(self.config, f"stage{stage}")
            if settings.rows == "all":
                rows, chunks = self.log.rows_of("train"), []
            else:
                if settings.subset == "uncertain":
                    chunks = least_confident(chunks, self.training_logits)
                rows, chunks = take(chunks, settings.rows)
        return rows

    @property
    def chunk(self) -> int:
        """Rows that are drawn together: as many as one stream window answers."""
        return self.config.llm.window - self.config.llm.history_length

    @cached_property
    def training_logits(self) -> Tensor:
        """``(rows of the log,)`` the stage-1 CRM's logits.

        Raises:
            ConfigError: If the CRM is external, whose scores of training rows are not known.
        """
        if self.is_external:
            raise ConfigError("subset = 'uncertain' needs a CRM that is trained here")
        everything = self.log.samples(torch.arange(len(self.log)))
        return crm_logits(self.trained_crm(stage=1), self.reader, everything)

    def alignment(self, crm: nn.Module) -> Alignment:
        """The alignment loss; its layers are checked against both models.

        Raises:
            ConfigError: If a pair names a layer that is not there.
        """
        try:
            for name, _ in self.config.align.pairs:
                self.llm.layer_number(name)
            set_seed(self.config.seed)
            return Alignment(
                self.config.align.pairs,
                llm_width=self.llm.width,
                crm_widths=crm.layer_widths,  # pyright: ignore[reportArgumentType]
                width=self.config.align.width,
                exponent=self.config.align.exponent,
            ).to(self.device)
        except ValueError as error:
            raise ConfigError(f"align.pairs: {error}") from error

    # Distillation.

    def distil(self) -> dict[str, Any]:
        """Train the CRM on labels mixed with the LLM's answers, or find it done.

        Returns the weight that stayed, 0 where the CRM before was as good on validation, and the
        validation log loss of each.
        """
        settings, directory = self.config.distill, self.directory / "distilled"
        if settings.rows == 0 or self.is_external:
            return {"weight": 0.0}
        key = self.key("distill", self.config.cascade.validation_rows)
        if (facts := self.done(directory, key)) is not None:
            return facts
        last = self.directory / ("stage2" if self.trains(2) else "stage1")
        losses = {0.0: read_manifest(last)["best"]["crm."]}
        where = {0.0: last}
        for weight in settings.weights:
            where[weight] = self.directory / "distilling" / f"weight-{weight}"
            state = self.train_into(
                where[weight],
                self.key("distill", self.config.cascade.validation_rows, weight),
                lambda weight=weight: self._distilling(weight),
                self.config.stage1,
                title=f"taught by the LLM, weight {weight}: the CRM alone",
                seed=stage_seed(self.config, 1),
            )
            losses[weight] = state["best"]["crm."]
        best = min(losses, key=lambda weight: losses[weight])
        facts = {"kind": "distilled", "key": key, "weight": best}
        facts["validation_log_loss"] = {str(weight): loss for weight, loss in losses.items()}
        with writing(directory, facts) as unfinished:
            shutil.copy(where[best] / "model.safetensors", unfinished / "model.safetensors")
        shutil.rmtree(self.directory / "distilling")
        self.display.say(
            f"taught by the LLM: weight {best:g} stays (validation log loss "
            + ", ".join(f"{weight:g}: {loss:.4f}" for weight, loss in losses.items())
            + ")"
        )
        return facts

    def _distilling(self, weight: float) -> CrmTask:
        """Stage 1 anew, towards the LLM's answers where it is good."""
        config, log = self.config, self.log
        self.score("train", 0 if config.distill.rows == "all" else config.distill.rows)
        self.score("validation", config.cascade.validation_rows)
        judged, llm_logit = self._scored("validation")
        label = log.labels(judged).numpy()
        calibration = fit_logistic(label, llm_logit)
        crm = self.trained_crm(stage=2)
        crm_logit = crm_logits(crm, self.reader, log.samples(judged)).double().numpy()
        calibrated = fit_logistic(label, crm_logit)(crm_logit)
        gate = Gate(self._lesson(judged, calibration(llm_logit)), label, calibrated)
        taught, llm_logit = self._scored("train")
        lesson = self._lesson(taught, calibration(llm_logit))
        soft = soft_targets(log.labels(taught).numpy(), lesson, gate(lesson), weight)
        rows, target = log.rows_of("train"), torch.full((len(log),), float("nan"))
        target[rows] = log.labels(rows).float()
        target[taught] = torch.from_numpy(soft).float()
        return CrmTask(self.new_crm(), self.reader, log, config.stage1, config.seed, target)

    def _lesson(self, rows: Tensor, llm_logit: Floats) -> Lesson:
        of = known(self.log, self.log.samples(rows), llm_logit, self.config.crm.history_length)
        return Lesson(llm_logit, of.history_length, of.item_count, of.liked_share)

    # The cascade.

    def load_adapter(self) -> None:
        """Put the last trained adapter into the language model."""
        for number in (3, 2):
            if self.trains(number):
                load_part(self.llm, self.directory / f"stage{number}", "llm.")
                return

    def score(self, split: str, count: int) -> dict[str, Any]:
        """Let the LLM score random rows of a split, or find them scored; returns what it cost.

        Args:
            split: ``validation`` or ``test``; of the latter no label is read.
            count: Rows the language model scores, drawn as chunks; 0 is all.
        """
        directory = self.directory / "scores" / split
        key = self.key("scores", split, count)
        facts = self.done(directory, key)
        if facts is None:
            chunks = draw_rows(self.log, split, self.chunk, self.config.seed)
            rows, _ = take(chunks, count or len(self.log))
            pieces = directory.with_name(f"{split}.pieces")
            title = f"LLM scores {len(rows):,} {split} rows"
            with self.display.counting(title, len(rows)) as answered:
                parts = [
                    self._score_piece(pieces / str(number), f"{key} {number}", part, answered)
                    for number, part in enumerate(rows.split(PIECE))
                ]
            table = pl.concat([frame for frame, _ in parts])
            costs = [vars(cost) for _, cost in parts]
            total = {name: sum(one[name] for one in costs) for name in costs[0]}
            facts = {"kind": "scores", "key": key, "cost": total}
            with writing(directory, facts) as unfinished:
                table.write_parquet(unfinished / "scores.parquet")
            shutil.rmtree(pieces)
        return facts["cost"]

    def _score_piece(
        self, directory: Path, key: str, rows: Tensor, answered: Callable[[int], None]
    ) -> tuple[pl.DataFrame, Cost]:
        """The LLM's logits of some rows, kept until all are there, so that little is done twice."""
        facts = _done(directory, key)
        if facts is None:
            self.load_adapter()
            cost = self.scorer.cost = Cost()
            logit = self.scorer.logits(self.log.samples(rows), answered)
            facts = {"kind": "scores", "key": key, "cost": vars(cost)}
            with writing(directory, facts) as unfinished:
                pl.DataFrame({"row": rows.numpy(), "llm_logit": logit.numpy()}).write_parquet(
                    unfinished / "scores.parquet"
                )
        else:
            answered(len(rows))
        return pl.read_parquet(directory / "scores.parquet", glob=False), Cost(**facts["cost"])

    def scores(self, split: str, count: int) -> tuple[Scores, Tensor, dict[str, Any]]:
        """Both models' logits and the labels of the rows that :meth:`score` takes.

        Returns:
            The scores, their row numbers, and the cost of the language model's part.
        """
        cost, log = self.score(split, count), self.log
        rows, llm_logit = self._scored(split)
        label = log.test_labels(rows, "evaluate") if split == "test" else log.labels(rows)
        scores = Scores(
            user=log.user[rows].long().numpy(),
            label=label.numpy(),
            known=self.known(rows),
            llm_logit=llm_logit,
        )
        return scores, rows, cost

    def _scored(self, split: str) -> tuple[Tensor, Floats]:
        """The rows of a split that the LLM scored, and its logits."""
        table = pl.read_parquet(self.directory / "scores" / split / "scores.parquet", glob=False)
        rows = torch.from_numpy(table["row"].to_numpy().copy())
        return rows, table["llm_logit"].cast(pl.Float64).to_numpy()

    def known(self, rows: Tensor) -> Known:
        """What is known of log rows before asking."""
        logit = self.crm_logits(rows).double().numpy()
        return known(self.log, self.log.samples(rows), logit, self.config.crm.history_length)

    def returning(self, rows: Tensor) -> NDArray[np.bool_]:
        """Whether the users of log rows have training rows."""
        return (self.log.user_train_rows[self.log.user[rows].long()] > 0).numpy()

    def write_adapter(self, directory: Path) -> dict[str, Any]:
        """Write the tuned adapter with what must hold where it is used; returns what is noted.

        Raises:
            ArtifactError: If no stage has tuned it.
        """
        tuned = [n for n in (2, 3) if self.trains(n)]
        if not tuned:
            raise ArtifactError(f"{self.directory} tuned no language model")
        self.load_adapter()
        last = read_manifest(self.directory / f"stage{tuned[-1]}")
        facts = {
            "data": {"name": self.config.data.path or self.config.data.fetch},
            "rows": {f"stage{n}": len(self.drawn(n)) for n in tuned},
            "validation_log_loss": last["best"]["llm."],
            "seconds": sum(read_manifest(self.directory / f"stage{n}")["seconds"] for n in tuned),
            **_versions(),
        }
        assert isinstance(self.llm.model, PeftModel)
        write_adapter(directory, self.llm.model, self.config.llm, self.log, facts)
        return facts

    def decide(self, scores: Scores, scored: Tensor) -> Router:
        """Fit the decision.

        Args:
            scores: Validation rows that both models scored.
            scored: Their row numbers.
        """
        rows, settings = self.log.rows_of("validation"), self.config.cascade
        return fit_router(
            known=scores.known,
            llm_logit=scores.llm_logit,
            label=scores.label,
            user=scores.user,
            time=self.log.time[scored].numpy(),
            returning=self.returning(scored),
            all_known=self.known(rows),
            all_label=self.log.labels(rows).numpy(),
            all_time=self.log.time[rows].numpy(),
            all_returning=self.returning(rows),
            policy=settings.policy,
            budget=settings.budget,
            threshold=settings.threshold,
            combine=settings.combine,
            seed=self.config.seed,
        )

    def fit(self) -> Router:
        """Fit the cascade on validation data and write its directory, or find it done."""
        directory = self.directory / "cascade"
        settings = self.config.cascade
        key = self.key("cascade", *self._external_file())
        if self.done(directory, key) is not None:
            facts = json.loads((directory / "cascade.json").read_text("utf-8"))
            return Router.from_json(facts["router"])
        scores, scored, _ = self.scores("validation", settings.validation_rows)
        router = self.decide(scores, scored)
        crm = None if self.is_external else self.trained_crm()
        self.load_adapter()

        def save(path: Path) -> None:
            assert isinstance(self.llm.model, PeftModel)
            save_adapter(self.llm.model, path)

        def no_scorer() -> NoReturn:
            raise AssertionError("this cascade is only saved")

        cascade = Cascade(
            self.log, crm, self.config.crm, self.config.llm, no_scorer, router, self.device
        )
        cascade.save(directory, save, key)
        self.display.say(f"cascade: {explain(router)}")
        return router

    # Evaluation.

    def evaluate(self) -> dict[str, Any]:
        """Measure on the test split and write ``metrics.json``; returns the metrics."""
        router = self.fit()
        config = self.config
        scores, rows, cost = self.scores("test", config.evaluate.test_rows)
        with self.display.waiting("measuring, with bootstrap intervals"):
            found = evaluate(
                scores,
                router,
                bootstrap=config.evaluate.bootstrap,
                groups=config.evaluate.groups,
                seed=config.seed,
            )
        data = read_manifest(self.directory / "data", verify=False)
        stages = {
            f"stage{n}": read_manifest(self.directory / f"stage{n}", verify=False)
            for n in STAGES
            if self.trains(n)
        }
        result = {
            "corellarec": version("corellarec"),
            "run": str(self.directory),
            "machine": machine(self.device),
            "config": config.model_dump(mode="json"),
            "data": {
                name: data[name] for name in ("rows", "users", "items", "positives", "splits")
            },
            "stages": {
                name: {
                    key: facts[key] for key in ("step", "seconds", "best", "best_step", "history")
                }
                for name, facts in stages.items()
            },
            "distilled": {
                name: self.distil().get(name) for name in ("weight", "validation_log_loss")
            },
            "router": router.to_json() | {"explanation": explain(router)},
            "test": found | {"split_rows": data["splits"]["test"]["rows"]},
            "cost": self.cost(rows, cost),
        }
        write_text(self.directory / "metrics.json", json.dumps(result, indent=1) + "\n")
        return result

    def cost(self, rows: Tensor, llm: dict[str, Any]) -> dict[str, Any]:
        """Tokens a sample in both layouts, and time a sample of each model."""
        _, tokenizer, layout = self.llm_parts
        samples = self.log.samples(rows[:: max(1, len(rows) // COST_SAMPLE)])
        paper = self.config.llm.model_copy(update={"layout": "paper"})
        lengths = {
            "paper": build_layout(paper, self.log, tokenizer),
            self.config.llm.layout: layout,
        }
        tokens = {
            name: float(
                np.mean(
                    [
                        len(s.ids)
                        for i in range(len(samples))
                        for s in one.encode(samples[i : i + 1])
                    ]
                )
            )
            for name, one in lengths.items()
        }
        crm_ms = None
        if not self.is_external:
            crm, samples, start = self.trained_crm(), self.log.samples(rows), time.perf_counter()
            crm_logits(crm, self.reader, samples)
            crm_ms = 1e3 * (time.perf_counter() - start) / max(1, len(rows))
        return {
            "llm": llm,
            "llm_tokens_per_sample": llm["tokens"] / max(1, llm["samples"]),
            "llm_ms_per_sample": 1e3 * llm["seconds"] / max(1, llm["samples"]),
            "crm_ms_per_sample": crm_ms,
            "tokens_per_sample_alone": tokens,
        }

    # Keys.

    def done(self, directory: Path, key: str) -> dict[str, Any] | None:
        """The facts of a finished step of the same key, here or beside; None if there is none.

        Raises:
            ArtifactError: If it is there but damaged.
        """
        facts = _done(directory, key)
        if facts is None and self.neighbours:
            for other in sorted(self.neighbours.glob(f"*/{directory.relative_to(self.directory)}")):
                if _done(other, key) is not None:
                    link(other, directory)
                    return _done(directory, key)
        return facts

    def _external_file(self) -> list[str]:
        """The hash of the external CRM's scores, if there is one."""
        path = Path(self.config.crm.external.scores or "").expanduser()
        return [sha256(path)] if self.is_external else []

    def key(self, step: str, *more: Any) -> str:  # noqa: ANN401 (any JSON)
        """Hash of everything a step depends on: settings, data, and the steps before it."""
        config = self.config.model_dump(mode="json")
        names = {
            "stage1": ["seed", "crm", "stage1"],
            "stage2": ["llm", "align", "stage2"],
            "stage3": ["stage3"],
            "scores": [],
            "distill": ["distill"],
            "cascade": ["cascade"],
        }
        before = list(names)[: list(names).index(step) + 1]
        sections = [name for key in before for name in names[key]]
        if step == "scores" and self.adapter:  # no stage bears on it, and the seed draws the rows
            sections = ["llm", "seed"] if more[-1] else ["llm"]
        data = read_manifest(self.directory / "data", verify=False)["files"]
        parts = [data, *({name: config[name]} for name in sections), *more]
        if step != "stage1":
            parts.append(load_template(self.config.llm.template).model_dump(mode="json"))
            parts += [self.adapter.facts["files"]] if self.adapter else []
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def stage_seed(config: Config, number: int) -> int:
    """The seed of a stage's steps."""
    return config.seed * 10 + number


def load_run_config(directory: Path) -> Config:
    """The configuration a run was made with.

    Raises:
        ArtifactError: If the directory is not that of a run.
    """
    path = directory / "config.toml"
    if not path.is_file():
        raise ArtifactError(
            f"{directory} is no run (it has no config.toml): `corellarec run` makes one"
        )
    return load_config(files=[path])


def remove_run(directory: Path) -> None:
    """Delete a run's directory.

    Raises:
        ArtifactError: If it is the directory of something else.
    """
    if directory.exists():
        load_run_config(directory)
        shutil.rmtree(directory)


def _done(directory: Path, key: str) -> dict[str, Any] | None:
    """The facts of a finished step of the same key; None if it is not there.

    Raises:
        ArtifactError: If it is there but damaged.
    """
    if not (directory / MANIFEST).exists():
        return None
    facts = read_manifest(directory)
    return facts if facts.get("key") == key else None


def load_part(module: nn.Module, directory: Path, prefix: str) -> None:
    """Put trained weights into a module: those of a step's directory under a prefix.

    Raises:
        ArtifactError: If the directory is missing or damaged, or does not fit the module.
    """
    read_manifest(directory)
    state = load_tensors(directory, "model")
    part = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    load_trainable(module, part, directory)


def difference(before: Config, after: Config) -> str:
    """The first few settings that differ, as text; empty where none does."""

    def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        leaves = {}
        for name, value in tree.items():
            if isinstance(value, dict):
                leaves |= flat(value, f"{prefix}{name}.")
            else:
                leaves[prefix + name] = value
        return leaves

    old, new = flat(before.model_dump(mode="json")), flat(after.model_dump(mode="json"))
    changed = [
        f"{name} was {old[name]!r}, is {new[name]!r}" for name in new if old[name] != new[name]
    ]
    return "; ".join(changed[:3]) + (" ..." if len(changed) > 3 else "")


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("corellarec", "torch", "transformers", "peft")}


def machine(device: torch.device) -> dict[str, Any]:
    """The device and the versions that made a figure."""
    name = platform.processor() or platform.machine()
    if device.type == "cpu":
        name = str(torch.cpu.get_capabilities().get("cpu_name", name))
    elif device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {"device": device.type, "name": name, "cores": os.cpu_count(), **_versions()}
