"""One pool of joblib's workers for many passes over the same data, on whatever backend joblib is set to.

    with joblib.parallel_config("ray"), pool() as workers: ...

`surplus.training.executor` starts workers for one batch of calls, which costs Ray seconds each time; passes are many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Pool:
    """So many workers; with one, calls are made in this process."""

    size: int
    parallel: Any = None

    def run(self, fn: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """Results of fn(*call) for each call, in order, as they come; to be used up before the next run."""
        if self.parallel is None:
            return (fn(*call) for call in calls)
        from joblib import delayed

        return iter(self.parallel(delayed(fn)(*call) for call in calls))


Jobs = int | Pool | None
"""Workers: how many, or a pool that is open; None takes what `joblib.parallel_config` says, else 1."""


@contextmanager
def pool(jobs: Jobs = None) -> Iterator[Pool]:
    """Workers that stay until the block ends; a pool that is open already stays open after it."""
    if isinstance(jobs, Pool):
        yield jobs
        return
    from joblib import Parallel, effective_n_jobs
    from joblib.parallel import get_active_backend

    size = jobs or int(effective_n_jobs(None))
    if size == 1:
        yield Pool(1)
        return
    lazy = get_active_backend()[0].supports_return_generator  # Ray's hands back a list
    with Parallel(n_jobs=size, return_as="generator" if lazy else "list") as parallel:
        yield Pool(size, parallel)
