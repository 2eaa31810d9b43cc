"""Search for the CRM's hyper-parameters, on validation data only."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import tomli_w
from accelerate.utils import set_seed
from rich.console import Console

from corellarec.base.artifacts import write_text
from corellarec.base.errors import ConfigError
from corellarec.base.ray import on_ray
from corellarec.config import CRM_MODELS, Config, with_settings
from corellarec.crm.architecture import DEEP_LAYERS, Architecture
from corellarec.crm.build import architecture, build_network, network_reader
from corellarec.run.prepare import prepare_log
from corellarec.run.records import difference, read_run_config
from corellarec.run.stages import stage_seed
from corellarec.run.workspace import Workspace
from corellarec.train.checkpoint import Progress
from corellarec.train.loop import train
from corellarec.train.stages import CrmTask

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.trial import BaseTrial

METRIC = "crm_log_loss"

Suggest = Callable[["BaseTrial", str], Any]


def _number(low: float, high: float, *, log: bool = False) -> Suggest:
    return lambda trial, name: trial.suggest_float(name, low, high, log=log)


def _choice(*values: Any) -> Suggest:  # noqa: ANN401 (numbers or texts)
    return lambda trial, name: trial.suggest_categorical(name, values)


def _layers(*values: Sequence[int]) -> Suggest:
    """Widths of layers; Optuna wants texts."""
    texts = tuple("-".join(map(str, widths)) for widths in values)
    return lambda trial, name: _widths(trial.suggest_categorical(name, texts))


def _widths(text: str) -> list[int]:
    return [int(width) for width in text.split("-")]


COMMON: dict[str, Suggest] = {
    "crm.id_dropout": _number(0.0, 0.5),
    "stage1.learning_rate": _number(3e-4, 1e-2, log=True),
    "stage1.weight_decay": _number(1e-4, 0.3, log=True),
}
EMBEDDED: dict[str, Suggest] = {"crm.embedding_dim": _choice(16, 32, 64)}
DEEP: dict[str, Suggest] = {
    "crm.deep_layers": _layers(*DEEP_LAYERS),
    "crm.dropout": _number(0.0, 0.7),
}


def _whole_space(model: Architecture) -> dict[str, Suggest]:
    """Everything that is searched for a CRM that comes with the package."""
    own = {
        name: _layers(*values) if isinstance(values[0], tuple) else _choice(*values)
        for name, values in model.search.items()
    }
    embedded = EMBEDDED if model.reads == "fields" and not model.is_linear else {}
    return COMMON | embedded | (DEEP if model.has_deep_part else {}) | own


def search_space(model: str, given: Iterable[str]) -> dict[str, Suggest]:
    """What is searched for a model: every setting of its space that is not given.

    Raises:
        ConfigError: If nothing is left to search, or the CRM is external.
    """
    if model == "external":
        raise ConfigError("crm.model = 'external' is trained elsewhere: there is nothing to search")
    space = {"stage1.learning_rate": COMMON["stage1.learning_rate"]}
    space = _whole_space(architecture(model)) if model in CRM_MODELS else space
    left = {name: suggest for name, suggest in space.items() if name not in set(given)}
    if not left:
        raise ConfigError("nothing is left to search: every setting of the space is given")
    return left


@dataclass(frozen=True)
class Trial:
    """A finished trial: its best validation log loss (nats), and the searched settings."""

    crm_log_loss: float
    settings: dict[str, Any]


@dataclass(frozen=True)
class SearchResult:
    """What a search has found.

    Args:
        model: The CRM.
        crm_log_loss: The best validation log loss (nats) ...
        settings: ... and the searched settings that have it.
        trials: Trials in all.
        cut_off: Trials that were cut off early.
        best_file: TOML file of the best settings.
        finished: Trials that were not cut off, best first.
    """

    model: str
    crm_log_loss: float
    settings: dict[str, Any]
    trials: int
    cut_off: int
    best_file: str
    finished: list[Trial]


class Tuner:
    """A search that goes on where it stopped.

    Each trial trains stage 1 with early stopping, the first with the settings as they are; trials
    that lag behind the others are cut off. The score is the best validation log loss of a trial.
    Several processes may search in the same directory.

    Args:
        config: What the searched settings are applied to.
        given: Names of settings that are not searched.
        directory: Holds the prepared log, ``trials.log``, and ``best.toml``.
        console: Where progress goes.

    Raises:
        ConfigError: If Optuna is not installed.
    """

    def __init__(
        self, config: Config, given: Iterable[str], directory: Path, console: Console
    ) -> None:
        self.workspace, self.given = Workspace(config, directory, console), tuple(given)
        self.space = search_space(config.crm.model, self.given)
        self.best_file = directory / "best.toml"
        self.study = self._study(directory)

    def _study(self, directory: Path) -> "Study":
        try:
            import optuna
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend
        except ImportError as error:
            raise ConfigError("tune needs Optuna: pip install 'corellarec[tune]'") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        directory.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            study_name=self.workspace.config.crm.model,
            storage=JournalStorage(JournalFileBackend(str(directory / "trials.log"))),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=2),
            load_if_exists=True,
        )
        # Going on with the seed of the start would repeat its first trials.
        before = len(study.get_trials(deepcopy=False))
        study.sampler = self._sampler(before)
        if not before:
            study.enqueue_trial(self._given_values())
        return study

    def _sampler(self, number: int) -> "BaseSampler":
        from optuna.samplers import TPESampler

        seed = self.workspace.config.seed * 10_000 + number
        return TPESampler(seed=seed, multivariate=True, n_startup_trials=6)

    def _given_values(self) -> dict[str, Any]:
        """The configuration's own values of the searched settings: the first trial."""
        from optuna.trial import FixedTrial

        found = {}
        for name, suggest in self.space.items():
            value = reduce(getattr, name.split("."), self.workspace.config)
            if isinstance(value, tuple):
                value = "-".join(map(str, value))
            with suppress(ValueError):  # not in the space: drawn, as in any other trial
                suggest(FixedTrial({name: value}), name)
                found[name] = value
        return found

    def search(self, trials: int, workers: int = 0) -> SearchResult:
        """Search until so many trials are finished, those of before included.

        Args:
            trials: How many.
            workers: Actors of Ray that share them; 0 runs them here, one after the other.

        Raises:
            ConfigError: If the directory was searched with other settings.
        """
        directory = self.workspace.directory
        if (directory / "trials.log").stat().st_size and (directory / "config.toml").exists():
            changed = difference(read_run_config(directory), self.workspace.config)
            if changed:
                raise ConfigError(
                    f"{directory} was searched with other settings ({changed}): use another --out"
                )
        self.workspace.start()
        prepare_log(self.workspace)
        if workers and (left := trials - len(self._finished())) > 0:
            known = self.study.get_trials(deepcopy=False)
            before = sum(trial.state.name != "WAITING" for trial in known)
            make = partial(_TrialRunner, Path.cwd(), self.workspace.config, self.given, directory)
            with on_ray(make, min(workers, left)) as mapped:
                for _ in mapped(range(before, before + left)):
                    self._say(trials)
        while len(self._finished()) < trials:
            self.try_one()
            self._say(trials)
        return self.result()

    def try_one(self, number: int | None = None) -> None:
        """One trial more.

        Args:
            number: Makes its random choices differ from those of trials at the same time.
        """
        if number is not None:
            self.study.sampler = self._sampler(number)
        self.study.optimize(self._objective, n_trials=1)

    def _say(self, trials: int) -> None:
        """The last trial, and the best one, which is written."""
        finished = self._finished()
        last = max(finished, key=lambda trial: trial.datetime_complete)
        score = f"{METRIC} {last.value:.4f}" if last.state.name == "COMPLETE" else "cut off"
        self.workspace.display.say(
            f"trial {len(finished)} of {trials}: {score}; best {self.study.best_value:.4f}"
        )
        write_text(self.best_file, self._toml())

    def result(self) -> SearchResult:
        """The best trial and all that were finished, best first."""
        finished = self._finished()
        whole = [trial for trial in finished if trial.state.name == "COMPLETE"]
        whole.sort(key=lambda trial: trial.value)
        return SearchResult(
            model=self.workspace.config.crm.model,
            crm_log_loss=self.study.best_value,
            settings=self.study.best_params,
            trials=len(finished),
            cut_off=len(finished) - len(whole),
            best_file=str(self.best_file),
            finished=[Trial(float(trial.value), dict(trial.params)) for trial in whole],
        )

    def _finished(self) -> list[Any]:
        from optuna.trial import TrialState

        return self.study.get_trials(
            deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)
        )

    def _objective(self, trial: "BaseTrial") -> float:
        suggested = {name: suggest(trial, name) for name, suggest in self.space.items()}
        config = with_settings(self.workspace.config, suggested)
        set_seed(config.seed)
        reader = network_reader(config.crm, self.workspace.log, self.workspace.device)
        crm = build_network(config.crm, self.workspace.log.features, self.workspace.device)
        task = _ReportingTask(trial, crm, reader, self.workspace.log, config.stage1, config.seed)
        with TemporaryDirectory() as folder:
            state = train(
                task,
                config.stage1,
                progress=Progress(Path(folder), "trial"),
                seed=stage_seed(self.workspace, 1),
                accelerator=self.workspace.accelerator,
            )
        return state.best["crm."]

    def _toml(self) -> str:
        """The best trial's settings, to go on top of the preset that was searched."""
        best = self.study.best_trial
        tree: dict[str, Any] = {"crm": {"model": self.workspace.config.crm.model}}
        for name, value in best.params.items():
            *path, last = name.split(".")
            place = tree
            for part in path:
                place = place.setdefault(part, {})
            place[last] = _widths(value) if isinstance(value, str) and value[0].isdigit() else value
        return (
            f"# corellarec tune: validation log loss {best.value:.4f} in stage 1, the best of "
            f"{len(self._finished())} trials.\n\n{tomli_w.dumps(tree)}"
        )


class _ReportingTask(CrmTask):
    """Tells a trial each validation, so that it can be cut off."""

    def __init__(self, trial: "BaseTrial", *arguments: Any) -> None:  # noqa: ANN401 (CrmTask's)
        super().__init__(*arguments)
        self.trial, self.validations = trial, 0

    def validate(self) -> dict[str, float]:
        """Log loss and AUC on all validation rows.

        Raises:
            optuna.TrialPruned: If other trials were better by then.
        """
        from optuna import TrialPruned

        found = super().validate()
        self.trial.report(found[METRIC], self.validations)
        self.validations += 1
        if self.trial.should_prune():
            raise TrialPruned
        return found


class _TrialRunner:
    """Makes trials in an actor."""

    def __init__(
        self, working: Path, config: Config, given: Sequence[str], directory: Path
    ) -> None:
        os.chdir(working)  # paths may be relative
        self._tuner = Tuner(config, given, directory, Console(quiet=True))

    def __call__(self, number: int) -> None:
        self._tuner.try_one(number)
