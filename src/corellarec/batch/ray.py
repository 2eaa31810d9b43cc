"""Shards on a Ray cluster. All that knows Ray is in this file.

Actors load the models once; an actor that dies is started again and its shard done again. Ray holds
no data and no state of a job: what is done is in the output directory.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from corellarec.base.errors import ConfigError, CorellarecError, WorkerError
from corellarec.batch.job import JobDirectory
from corellarec.batch.local import Load, Mapped
from corellarec.batch.shard import ShardScorer, Step

RETRIES = 3  # of a shard whose actor dies


@contextmanager
def on_ray(load: Load, directory: JobDirectory, workers: int) -> Iterator[Mapped]:
    """Actors on the cluster that ``RAY_ADDRESS`` names, or on a new one of this machine.

    Args:
        load: Loads the cascade, from a path that every node has.
        directory: Of the job, on a file system that every node has.
        workers: Actors; where there are GPUs, they share them evenly.

    Raises:
        ConfigError: If Ray is not installed.
        WorkerError: If a shard's actor dies again and again.
    """
    try:
        import ray
        from ray.exceptions import RayActorError, RayTaskError
        from ray.util import ActorPool
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray: pip install 'corellarec[ray]'") from error
    ours = not ray.is_initialized()
    if ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to Ray's makers
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    gpus = ray.cluster_resources().get("GPU", 0.0) / workers
    actor: Any = ray.remote(_Worker)
    actor = actor.options(
        num_cpus=1, num_gpus=min(1.0, gpus), max_restarts=RETRIES, max_task_retries=RETRIES
    )
    actors = [actor.remote(load, directory) for _ in range(workers)]

    def mapped(step: Step, shards: Sequence[int]) -> Iterator[int]:
        pool: Any = ActorPool(actors)
        return pool.map_unordered(lambda one, shard: one.do.remote(step, shard), list(shards))

    try:
        yield mapped
    except RayTaskError as error:
        if isinstance(error.cause, CorellarecError | OSError):
            raise CorellarecError(str(error.cause)) from None
        raise
    except RayActorError as error:
        raise WorkerError(
            "an actor died again and again, killed or out of memory: run the same command again to "
            "go on; fewer --workers need less memory"
        ) from error
    finally:
        for one in actors:
            ray.kill(one)
        if ours:
            ray.shutdown()


class _Worker:
    def __init__(self, load: Load, directory: JobDirectory) -> None:
        self._scorer = ShardScorer(load(), directory)

    def do(self, step: Step, shard: int) -> int:
        return self._scorer.do(step, shard)
