"""What a study runs: one TOML file, those of the package among them."""

import tomllib
from collections.abc import Iterable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from corellarec.base.errors import ConfigError
from corellarec.config import Config, Section, changed, load_config, settings_tree


class StudySpec(Section):
    """A grid of models, stages and seeds; every policy and every way to combine is measured."""

    preset: str
    """Settings to start from."""
    settings: dict[str, Any] = {}
    """Settings on top of the preset for everything in the study, as in a configuration file."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
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
        text = (resources.files("corellarec.research.study") / "grids" / f"{name}.toml").read_text(
            "utf-8"
        )
    else:
        try:
            text = Path(name).read_text("utf-8")
        except OSError as error:
            raise ConfigError(
                f"no study named {name!r}, and no such file ({error.strerror}); there are: "
                f"{', '.join(study_names())}"
            ) from error
    try:
        spec = StudySpec.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"study {name}: not valid TOML: {error}") from error
    except ValidationError as error:
        found = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"study {name}: {'; '.join(found)}") from error
    base = changed(load_config(preset=spec.preset), spec.settings)
    base = changed(base, settings_tree(settings))
    if base.evaluate.test_rows and len(spec.seeds) > 1:
        raise ConfigError(
            "evaluate.test_rows: other seeds draw other rows; leave it 0, or give one seed"
        )
    return spec, base


def _grids() -> Traversable:
    return resources.files("corellarec.research.study") / "grids"
