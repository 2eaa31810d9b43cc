"""The steps of a run."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import polars as pl
import torch
from accelerate.utils import set_seed
from numpy.typing import NDArray
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor, nn

from corellarec.base.artifacts import read_manifest, sha256, write_text, writing
from corellarec.base.calibrate import fit_logistic
from corellarec.base.errors import ArtifactError, ConfigError
from corellarec.base.metrics import Floats
from corellarec.cascade.cascade import Cascade
from corellarec.cascade.policy import Known, known
from corellarec.cascade.router import Router, explain, fit_router
from corellarec.config import LlmStageConfig, StageConfig
from corellarec.crm.score import crm_logits
from corellarec.evaluation.evaluate import Scores, evaluate
from corellarec.llm.count import paper_tokens, tokens_alone
from corellarec.llm.lora import (
    save_adapter,
    write_adapter,
)
from corellarec.llm.score import Cost
from corellarec.run.models import Models, load_part
from corellarec.run.workspace import machine, stage_seed, step_facts, versions
from corellarec.train.align import Alignment
from corellarec.train.checkpoint import Progress, trainable_state
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
PIECE = 20_000  # rows scored between two writings
COST_SAMPLE = 300  # test rows whose prompts are encoded to compare the layouts' tokens


class Run(Models):
    """The steps of one run and the models they share."""

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
        facts = {"kind": directory.name, "key": key, **vars(state), **versions()}
        if self.accelerator.is_main_process:
            with writing(directory, facts) as unfinished:
                save_file(trainable_state(task.model), unfinished / "model.safetensors")
            progress.clear()
        self.accelerator.wait_for_everyone()
        best = ", ".join(
            f"{_title(metric)} {state.best[part]:.4f} at step {state.best_step[part]}"
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
        return self._draw(number)[0]

    def _draw(self, number: int) -> tuple[Tensor, list[Tensor]]:
        """The rows of a stage, and the chunks that neither it nor one before it takes."""
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
        return rows, chunks

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
        if self.accelerator.num_processes > 1:
            raise ConfigError(
                "distill.rows is done by one process: leave it 0 under torchrun, and set it with "
                "`corellarec run --resume` after that"
            )
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

    def score(self, split: str, count: int) -> dict[str, Any]:
        """Let the LLM score random rows of a split, or find them scored; returns what it cost.

        Args:
            split: Of ``test`` no label is read; of ``train`` those are scored that no stage tuned
                the LLM on, if there are such.
            count: Rows the language model scores, drawn as chunks; 0 is all.
        """
        directory = self.directory / "scores" / split
        key = self.key("scores", split, count)
        facts = self.done(directory, key)
        if facts is None:
            chunks = draw_rows(self.log, split, self.chunk, self.config.seed)
            if split == "train":  # of what it was tuned on the LLM would repeat the labels
                chunks = self._draw(3)[1] or chunks
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
        facts = step_facts(directory, key)
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
            **versions(),
        }
        assert isinstance(self.llm.model, PeftModel)
        write_adapter(directory, self.llm.model, self.config.llm, self.log, facts)
        return facts

    def decide(self, scores: Scores, scored: Tensor, crm_logit: Floats | None = None) -> Router:
        """Fit the decision.

        Args:
            scores: Validation rows that both models scored.
            scored: Their row numbers.
            crm_logit: ``(n,)`` logits of all validation rows, where another CRM's are in ``scores``
                than the run's own.
        """
        rows, settings = self.log.rows_of("validation"), self.config.cascade
        all_known = self.known(rows)
        if crm_logit is not None:
            all_known = replace(all_known, crm_logit=crm_logit)
        return fit_router(
            known=scores.known,
            llm_logit=scores.llm_logit,
            label=scores.label,
            user=scores.user,
            time=self.log.time[scored].numpy(),
            returning=self.returning(scored),
            all_known=all_known,
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
        distilled, router = self.distil(), self.fit()
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
            "distilled": {name: distilled.get(name) for name in ("weight", "validation_log_loss")},
            "router": router.to_json() | {"explanation": explain(router)},
            "test": found | {"split_rows": data["splits"]["test"]["rows"]},
            "cost": self.cost(rows, cost),
        }
        write_text(self.directory / "metrics.json", json.dumps(result, indent=1) + "\n")
        return result

    def cost(self, rows: Tensor, llm: dict[str, Any]) -> dict[str, Any]:
        """Tokens a sample in both layouts, and time a sample of each model.

        The tokens of the paper's layout are None where the template has no text for it.
        """
        _, tokenizer, layout = self.llm_parts
        samples = self.log.samples(rows[:: max(1, len(rows) // COST_SAMPLE)])
        tokens = {
            "paper": paper_tokens(self.config.llm, self.log, tokenizer, samples),
            self.config.llm.layout: tokens_alone(layout, samples),
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

    def _external_file(self) -> list[str]:
        """The hash of the external CRM's scores, if there is one."""
        path = Path(self.config.crm.external.scores or "").expanduser()
        return [sha256(path)] if self.is_external else []


def _title(metric: str) -> str:
    """``calibrated_llm_log_loss`` in words."""
    *how, model = metric.removesuffix("_log_loss").split("_")
    return " ".join([*how, model.upper(), "log loss"])
