"""The Python interface: fit a cascade on a log, and measure one on rows it has not seen."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from rich.console import Console

from corellarec.base.errors import ConfigError, DataError
from corellarec.base.frames import Table, as_frame
from corellarec.cascade.cascade import Cascade
from corellarec.config import Config, changed, load_config
from corellarec.data.files import write_table
from corellarec.data.wizard import propose_settings
from corellarec.evaluation.evaluate import evaluate_scores
from corellarec.evaluation.labelled import score_labelled
from corellarec.evaluation.results import Evaluation
from corellarec.evaluation.run import evaluate_run
from corellarec.run.records import read_run_config
from corellarec.run.steps import run_steps
from corellarec.run.workspace import Workspace

ROLES = ("user", "item", "time", "rating", "label", "title")


class CoReLLa:
    """Trains both models and fits the cascade: what ``corellarec run`` does, from Python.

    Everything is written to one directory. A second call with the same settings and data continues
    where the first was interrupted, and does nothing again that is done.

    Args:
        config: All settings.
        directory: Of the run; made if it is absent.
        quiet: Whether to show no progress on stderr.

    Example:
        >>> CoReLLa.from_preset("quick", settings=["seed=1"]).config.seed
        1

    Source: Xi et al. 2024, https://arxiv.org/abs/2403.16378
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        directory: str | Path = "runs/corellarec",
        quiet: bool = False,
    ) -> None:
        self.config, self.directory = config or Config(), Path(directory)
        self._console = Console(stderr=True, quiet=quiet)
        self._workspace: Workspace | None = None

    @classmethod
    def from_preset(
        cls,
        preset: str = "quick",
        *,
        llm: str | None = None,
        settings: Iterable[str] = (),
        directory: str | Path | None = None,
        quiet: bool = False,
    ) -> Self:
        """A run with a preset's settings.

        Args:
            preset: ``quick``, ``ml-100k``, ``ml-1m``, ``llama-2-7b``, ``amazon-books``, or one with
                another CRM, such as ``ml-1m/din``.
            llm: The language model (``llm.model``): a known name, a directory, a GGUF file, or
                ``owner/name`` on the Hugging Face hub.
            settings: ``section.key=value`` texts on top.
            directory: Of the run; ``runs/PRESET`` by default.
            quiet: Whether to show no progress.

        Raises:
            ConfigError: If there is no such preset, or a setting is not allowed.
        """
        more = [f"llm.model={llm!r}"] if llm else []
        config = load_config(preset=preset, settings=[*more, *settings])
        directory = directory or Path("runs", preset.replace("/", "-"))
        return cls(config, directory=directory, quiet=quiet)

    @classmethod
    def from_toml(
        cls,
        path: str | Path,
        *,
        preset: str | None = None,
        settings: Iterable[str] = (),
        directory: str | Path | None = None,
        quiet: bool = False,
    ) -> Self:
        """A run with the settings of a TOML file, on top of a preset's if one is named.

        Args:
            path: The file, as ``corellarec init-data`` writes one.
            preset: Settings to start from.
            settings: ``section.key=value`` texts on top.
            directory: Of the run; ``runs/NAME`` by default, by the file's name.
            quiet: Whether to show no progress.

        Raises:
            ConfigError: If the file cannot be read, or a setting is not allowed.
        """
        path = Path(path)
        config = load_config(preset=preset, files=[path], settings=settings)
        return cls(config, directory=directory or Path("runs", path.stem), quiet=quiet)

    @classmethod
    def open(cls, directory: str | Path, *, quiet: bool = False) -> Self:
        """The run in a directory, with the settings it was made with.

        Args:
            directory: Where it is.
            quiet: Whether to show no progress.

        Raises:
            ArtifactError: If the directory is not that of a run.
        """
        return cls(read_run_config(Path(directory)), directory=directory, quiet=quiet)

    @property
    def workspace(self) -> Workspace:
        """The run's directory and the parts that its steps share."""
        if self._workspace is None:
            self._workspace = Workspace(self.config, self.directory, self._console)
        return self._workspace

    def fit(
        self,
        interactions: Table | None = None,
        *,
        items: Table | None = None,
        users: Table | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> Cascade:
        """Train all stages and fit the cascade.

        Args:
            interactions: The log: a Polars, pandas or Arrow table with a user, an item, a time and
                a rating or label, or the path of its file; or the path of a directory or zip in a
                known layout (MovieLens, Amazon reviews, RecBole). Without it, the log that the
                settings name.
            items: Items with their titles and features; may be left out where the log has titles.
            users: Users with their features.
            columns: Which column is what, where names do not tell: ``user``, ``item``, ``time``,
                ``rating`` or ``label``, ``title``.

        Returns:
            The cascade. ``evaluate`` measures it on the test split.

        Raises:
            ConfigError: If settings contradict each other.
            DataError: If the log cannot be used, or a column cannot be told.
        """
        if interactions is not None:
            self.config = self._with_data(interactions, items, users, columns or {})
            self._workspace = None
        elif items is not None or users is not None:
            raise ConfigError("fit: items and users go with interactions, which are not given")
        run_steps(self.workspace)
        return self.cascade()

    def cascade(self) -> Cascade:
        """The fitted cascade.

        Raises:
            ArtifactError: If it is not there, or damaged.
        """
        model = self.config.crm.model
        return Cascade.load(
            self.directory / "cascade",
            device=self.config.device,
            trust=model if ":" in model else None,
        )

    def evaluate(self) -> Evaluation:
        """Measure the cascade on the run's test split, and write ``metrics.json``.

        Returns:
            Every figure of the report; ``to_frame()``, and ``save("report.html")``.
        """
        return evaluate_run(self.workspace)

    def _with_data(
        self,
        interactions: Table,
        items: Table | None,
        users: Table | None,
        columns: Mapping[str, str],
    ) -> Config:
        """The settings, with the caller's tables as their log."""
        if unknown := set(columns) - set(ROLES):
            raise ConfigError(
                f"columns: unknown role {min(unknown)!r}; there are: {', '.join(ROLES)}"
            )
        given = {"interactions": interactions, "items": items, "users": users}
        tables = {name: table for name, table in given.items() if table is not None}
        if isinstance(interactions, str | Path) and len(tables) == 1:
            path = Path(interactions)
            if path.is_dir() or path.suffix == ".zip":
                return changed(self.config, {"data": {"path": str(path)}})
        paths = [self._table_path(name, table) for name, table in tables.items()]
        proposal = propose_settings(paths, columns)
        for guess in proposal.guesses:
            self._console.print(guess, highlight=False, soft_wrap=True, markup=False)
        return changed(self.config, proposal.settings)

    def _table_path(self, name: str, table: Table) -> Path:
        """Where a table lies: its own file, or a copy in the run's directory."""
        if isinstance(table, str | Path):
            if not Path(table).is_file():
                raise DataError(f"{name}: {table} is not there")
            return Path(table)
        path = self.directory / "input" / f"{name}.parquet"
        write_table(as_frame(table, name), path)
        return path


def evaluate(
    cascade: Cascade,
    test: Table,
    *,
    rows: int = 0,
    bootstrap: int = 1000,
    groups: int = 3,
    seed: int = 0,
) -> Evaluation:
    """Measure a cascade on rows that came after those it was trained on.

    The rows are sorted in by time, so that each is scored with the user's earlier ones, the test
    rows before it among them, as history. The language model scores all of them.

    Args:
        cascade: From ``CoReLLa.fit`` or ``Cascade.load``.
        test: A table, or its file, with ``user``, ``item``, ``label`` or ``rating``, and ``time``.
        rows: Random rows to measure on; 0 is all.
        bootstrap: Resamples of users behind every 95 % interval.
        groups: Groups of equal size by the CRM's confidence.
        seed: Of the drawn rows and the resamples.

    Returns:
        Every figure of the report; ``to_frame()``, and ``save("report.html")``.

    Raises:
        DataError: If a column is missing, a value cannot be used, or an item is not known.

    Example:
        >>> report = evaluate(cascade, "later.parquet")  # doctest: +SKIP
        >>> report.row("cascade").metrics["auc"].value  # doctest: +SKIP
        0.7597
    """
    scores = score_labelled(cascade, test, rows, seed)
    return evaluate_scores(scores, cascade.router, bootstrap=bootstrap, groups=groups, seed=seed)
