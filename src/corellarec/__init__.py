"""Train a conventional recommender and a language model together; route samples between them.

Names are loaded when they are first used: ``import corellarec`` alone loads neither torch nor
polars.

Example:
    >>> import corellarec as cr
    >>> model = cr.CoReLLa.from_preset("quick")
    >>> cascade = model.fit()  # doctest: +SKIP
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corellarec.api import CoReLLa, evaluate
    from corellarec.base.errors import (
        ArtifactError,
        ConfigError,
        CorellarecError,
        DataError,
        FetchError,
        ModelError,
        RemoteError,
    )
    from corellarec.cascade.cascade import Cascade
    from corellarec.client import AsyncClient, Client
    from corellarec.config import Config
    from corellarec.evaluation.audit import Audit, audit
    from corellarec.evaluation.compare import Comparison, compare
    from corellarec.evaluation.ranking.results import Ranking
    from corellarec.evaluation.ranking.run import rank
    from corellarec.evaluation.results import Evaluation

# torch's threads wait for each other by spinning, 300,000 times before they sleep. Beside one busy
# process on two cores that made a training step forty times slower, and with 4,000 twice; on an
# idle machine it costs 7 %. libgomp reads this when torch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "4000")

_PLACES = {
    "CoReLLa": "corellarec.api",
    "evaluate": "corellarec.api",
    "Cascade": "corellarec.cascade.cascade",
    "AsyncClient": "corellarec.client",
    "Client": "corellarec.client",
    "Config": "corellarec.config",
    "Audit": "corellarec.evaluation.audit",
    "audit": "corellarec.evaluation.audit",
    "Comparison": "corellarec.evaluation.compare",
    "compare": "corellarec.evaluation.compare",
    "Evaluation": "corellarec.evaluation.results",
    "Ranking": "corellarec.evaluation.ranking.results",
    "rank": "corellarec.evaluation.ranking.run",
    "CorellarecError": "corellarec.base.errors",
    "ArtifactError": "corellarec.base.errors",
    "ConfigError": "corellarec.base.errors",
    "DataError": "corellarec.base.errors",
    "FetchError": "corellarec.base.errors",
    "ModelError": "corellarec.base.errors",
    "RemoteError": "corellarec.base.errors",
}

__all__ = [
    "ArtifactError",
    "AsyncClient",
    "Audit",
    "Cascade",
    "Client",
    "CoReLLa",
    "Comparison",
    "Config",
    "ConfigError",
    "CorellarecError",
    "DataError",
    "Evaluation",
    "FetchError",
    "ModelError",
    "Ranking",
    "RemoteError",
    "audit",
    "compare",
    "evaluate",
    "rank",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (whatever the name stands for)
    if name == "__version__":
        return import_module("importlib.metadata").version("corellarec")
    if name not in _PLACES:
        raise AttributeError(f"module 'corellarec' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
