"""What a study runs: one TOML file, those of the package among them."""

from collections.abc import Iterable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from corellarec.base.errors import ConfigError
from corellarec.base.inputs import not_a_file, parse_toml, read_toml
from corellarec.config import Config, Section, changed, load_config, settings_tree
from corellarec.config.section import Seed


class StudySpec(Section):
    """A grid of models, stages and seeds; every policy and every way to combine is measured."""

    preset: str
    """Settings to start from."""
    settings: dict[str, Any] = {}
    """Settings on top of the preset for everything in the study, as in a configuration file."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """Seeds of the method and of the CRMs; baselines and the ablation take the first."""
    crms: tuple[str, ...] = ()
    """Presets such as ``ml-1m/fibinet``, whose CRM is trained alone and compared. The best of them
    on validation data, the method's own apart, is the control in the LLM's place."""
    baselines: dict[Literal["tallrec", "ctrl", "p5"], dict[str, Any]] = {}
    """Baselines with a language model, and settings of each on top; ``rows`` is its training
    rows."""
    llms: dict[str, dict[str, Any]] = {}
    """Further ways to tune the language model, by name, such as on more rows; each is a run."""
    distill: dict[str, Any] = {}
    """Settings of the section ``distill``: where given, the language model also teaches the CRM."""
    ablation: dict[str, dict[str, Any]] = {}
    """Runs with a part left out or changed, by name, and their settings."""

    @model_validator(mode="after")
    def _no_seed_twice(self) -> "StudySpec":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds names one twice")
        return self


def study_names() -> list[str]:
    """Names of the package's studies, sorted."""
    with resources.as_file(_grids()) as folder:
        return sorted(path.stem for path in folder.glob("*.toml"))


def load_study(name: str, settings: Iterable[str] = ()) -> tuple[StudySpec, Config]:
    """Read a study and the configuration that all of it starts from.

    Args:
        name: One of :func:`study_names`, or a TOML file.
        settings: ``section.key=value`` texts on top of the study's settings.

    Raises:
        ConfigError: If there is no such study, or a key or value is not allowed.
    """
    if name in study_names():
        tree = parse_toml((_grids() / f"{name}.toml").read_text("utf-8"), f"study {name}")
    elif (what := not_a_file(Path(name))) is None:
        tree = read_toml(Path(name))
    else:
        raise ConfigError(
            f"no study named {name!r}, and as a file it {what}; there are: "
            f"{', '.join(study_names())}"
        )
    try:
        spec = StudySpec.model_validate(tree)
    except ValidationError as error:
        found = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"study {name}: {'; '.join(found)}") from error
    base = changed(load_config(preset=spec.preset), spec.settings)
    return spec, changed(base, settings_tree(settings))


def _grids() -> Traversable:
    return resources.files("corellarec.research.study") / "grids"
