"""Fan-out: many independent calls over the processors of one machine, or over whatever backend joblib is given.

    with joblib.parallel_config("ray"):     # or "dask", or any registered backend
        fit(task, seeds=range(100), execution="spread")

Each call works with one torch thread, so that two processes do not fight over the cores of both.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fan_out(fn: Callable[..., Any], calls: Sequence[tuple[Any, ...]], jobs: int | None = None) -> Iterator[Any]:
    """Results of fn(*call) for each call, in order, as they come.

    Args:
        fn: must return something small; the runs themselves go through the store.
        calls: argument tuples.
        jobs: processes; one per processor when None; 1 stays in this process.
    """
    jobs = min(jobs or processors(), len(calls))
    if jobs <= 1:
        yield from (fn(*call) for call in calls)
        return
    from joblib import Parallel, delayed
    from joblib._parallel_backends import LokyBackend
    from joblib.parallel import get_active_backend

    backend = get_active_backend()[0]
    lazy = backend.supports_return_generator  # Ray's hands back a list
    # A worker must know its parent before its first task, or it outlives a parent that is killed in between.
    first = {"initializer": _serve, "initargs": (os.getpid(),)} if isinstance(backend, LokyBackend) else {}
    parallel = Parallel(n_jobs=jobs, return_as="generator" if lazy else "list", **first)
    for result, caught in parallel(delayed(_alone)(fn, call, os.getpid()) for call in calls):
        for w in caught:
            warnings.warn_explicit(*w)
        yield result


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many torch threads; the number is part of what decides a result's last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _alone(fn: Callable[..., Any], call: tuple[Any, ...], parent: int) -> tuple[Any, list[tuple[Any, ...]]]:
    """fn(*call) in a worker, and the warnings it gave, which the caller repeats."""
    if os.getppid() == parent:
        _serve(parent)
    torch.set_num_threads(1)
    with warnings.catch_warnings(record=True) as caught:
        result = fn(*call)
    return result, [(str(w.message), w.category, w.filename, w.lineno) for w in caught]


@cache
def _serve(parent: int) -> None:
    """Leave Ctrl-C to the process that started this worker, and end when that one is gone: nobody waits any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
