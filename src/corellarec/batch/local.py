"""Shards on the processes of one machine."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait

import torch

from corellarec.base.errors import CorellarecError, WorkerError
from corellarec.batch.folder import Folder
from corellarec.batch.shard import ShardScorer, Step, Worked
from corellarec.cascade.cascade import Cascade

Load = Callable[[], Cascade]
Task = tuple[Step, int]
Mapped = Callable[[Sequence[Task]], Iterator[Worked]]
"""Does steps of shards, in any order."""

_scorer: ShardScorer | None = None  # of a worker process


@contextmanager
def on_processes(load: Load, folder: Folder, workers: int) -> Iterator[Mapped]:
    """Processes that load the models once and work until the body ends; they end with this one.

    Args:
        load: Loads the cascade; sent to the processes.
        folder: Of the job.
        workers: Processes.

    Raises:
        WorkerError: If one ends before its work.
    """
    spawn = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // workers)
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, spawn, _begin, (load, folder, threads))

    def mapped(tasks: Sequence[Task]) -> Iterator[Worked]:
        futures = [pool.submit(_do, *task) for task in tasks]
        for future in as_completed(futures):
            yield future.result()

    try:
        yield mapped
        pool.shutdown()
    except BaseException as error:
        for process in set(multiprocessing.active_children()) - before:
            process.kill()  # what it had begun is done again
        pool.shutdown(wait=False, cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise WorkerError(
                "a process was killed or ran out of memory: run the same command again to go on; "
                "fewer --workers need less memory"
            ) from error
        raise


def _begin(load: Load, folder: Folder, threads: int) -> None:
    """Make this process a worker that ends when its parent does, however that ends."""
    global _scorer
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    torch.set_num_threads(threads)
    _scorer = ShardScorer(load(), folder)


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _do(step: Step, shard: int) -> Worked:
    assert _scorer is not None
    try:
        return _scorer.do(step, shard)
    except CorellarecError as error:  # one with more than a message does not travel
        raise CorellarecError(str(error)) from None
