"""Tasks on a Ray cluster. All that knows Ray is in this file.

Ray holds no data and no state of a job: what is done is on disk, or in an object store.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from corellarec.base.errors import ConfigError, CorellarecError, WorkerError
from corellarec.base.frames import first_line

RETRIES = 3  # of a task whose actor dies
Task = TypeVar("Task")
Result = TypeVar("Result")


@contextmanager
def on_ray(
    make: Callable[[], Callable[[Task], Result]], workers: int
) -> Iterator[Callable[[Sequence[Task]], Iterator[Result]]]:
    """Actors on the cluster that ``RAY_ADDRESS`` names, or on a new one of this machine.

    The yielded function does tasks and gives their results in any order. An actor that dies is
    started again and its task done again, up to ``RETRIES`` times.

    Args:
        make: Called once in each actor; returns what does a task. Both are sent to the actors.
        workers: Actors; where there are GPUs, they share them evenly.

    Raises:
        ConfigError: If Ray is not installed.
        WorkerError: If a task's actor dies again and again, or Ray does.
    """
    try:
        import ray
        from ray.exceptions import RayError, RayTaskError
        from ray.util import ActorPool
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray: pip install 'corellarec[ray]'") from error
    ours = not ray.is_initialized()
    if ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to Ray's makers
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises a plain one where its processes die or are late
            raise WorkerError(
                f"Ray did not start ({first_line(error)}): run the same command again to go on"
            ) from error
    gpus = ray.cluster_resources().get("GPU", 0.0) / workers
    actor: Any = ray.remote(_Worker)
    actor = actor.options(
        num_cpus=1, num_gpus=min(1.0, gpus), max_restarts=RETRIES, max_task_retries=RETRIES
    )
    actors = [actor.remote(make) for _ in range(workers)]

    def mapped(tasks: Sequence[Task]) -> Iterator[Result]:
        pool: Any = ActorPool(actors)
        return pool.map_unordered(lambda one, task: one.do.remote(task), list(tasks))

    try:
        yield mapped
    except RayTaskError as error:
        if isinstance(error.cause, CorellarecError | OSError):
            raise CorellarecError(str(error.cause)) from None
        raise
    except RayError as error:
        raise WorkerError(
            "an actor died again and again, or Ray itself, killed or out of memory: run the same "
            "command again to go on; fewer --workers need less memory"
        ) from error
    finally:
        for one in actors:
            ray.kill(one)
        if ours:
            ray.shutdown()


class _Worker:
    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        self._do = make()

    def do(self, task: Any) -> Any:  # noqa: ANN401 (what the caller maps)
        return self._do(task)
