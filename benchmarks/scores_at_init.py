"""What pruning scores at initialisation cost, next to forward and backward passes of the same network.

    python benchmarks/scores_at_init.py [--rounds 7] [--batch 16] [--network resnet-18]

One thread; the jobs take turns within each round, and the table shows medians of CPU time. Every score is measured
against the plain pass that it is made of: forward and backward, in evaluation mode, of the same batch in the same
precision. "passes" is how many of those the method cannot do without:

    SNIP                1    one gradient
    GraSP, CroP         2    a gradient, and the Hessian's product with it
    CroP in 4 parts     3    the gradient of all parts first, then for each part its own again, and the product
    SynFlow, one round  1    one gradient of one example in float64, since products over layers overflow float32

"per pass" is the score's time over that many plain passes; at most 3 is what we ask for. SynFlow prunes in 100 rounds,
each a score and a cut of all weights; the last lines say what 100 of them cost, also in passes of float32.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from surplus.networks import build
from surplus.pruning import grasp, keep_top, snip, synflow
from surplus.pruning.scores.crop import crop
from surplus.space import WeightSpace

Job = Callable[[], object]
SHAPE, CLASSES = (3, 32, 32), 10
LIMIT = 3.0

NEEDS = {
    "SNIP": (1, "batch"),
    "GraSP": (2, "batch"),
    "CroP": (2, "batch"),
    "CroP in 4 parts": (3, "batch"),
    "SynFlow, one round": (1, "one example, float64"),
}
"""Passes that a score needs, and of what."""


def plain(space: WeightSpace, theta: Tensor, x: Tensor, y: Tensor) -> Job:
    """Forward and backward pass of the module itself."""
    net = space.write(theta).to(x.dtype).eval()

    def job() -> None:
        net.zero_grad()
        F.cross_entropy(net(x), y).backward()

    return job


def jobs(space: WeightSpace, theta: Tensor, x: Tensor, y: Tensor) -> dict[str, Job]:
    """Plain passes, scores, and one cut."""
    batch, one = (x, y), (x[:1], y[:1])
    score = synflow(space, theta, x)
    half = keep_top(space, score, density=0.5)
    return {
        "batch": plain(space, theta, x, y),
        "one example, float64": plain(space, theta, one[0].double(), one[1]),
        "one example, float32": plain(space, theta, *one),
        "SNIP": lambda: snip(space, theta, batch),
        "GraSP": lambda: grasp(space, theta, batch),
        "CroP": lambda: crop(space, theta, batch),
        "CroP in 4 parts": lambda: crop(space, theta, batch, parts=4),
        "SynFlow, one round": lambda: synflow(space, theta, x),
        "cut": lambda: keep_top(space, score, density=0.4, alive=half),
    }


def medians(ready: dict[str, Job], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each job, the jobs taking turns."""
    times: dict[str, list[float]] = {name: [] for name in ready}
    for job in ready.values():
        job()
    for _ in range(rounds):
        for name, job in ready.items():
            start = time.process_time()
            job()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of pruning scores at initialisation.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--network", default="resnet-18")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    space = WeightSpace(lambda: build(given.network, SHAPE, CLASSES))
    x, y = torch.randn(given.batch, *SHAPE), torch.arange(given.batch) % CLASSES
    t = medians(jobs(space, space.init(0), x, y), given.rounds)
    print(
        f"{given.network}, {space.size:,} weights, {given.batch} pictures; torch {torch.__version__},"
        f" {platform.machine()}, one thread, medians of {given.rounds} rounds\n"
    )
    print(f"{'score':20}{'ms':>8}{'passes':>8}  {'each of':22}{'ms':>8}{'per pass':>10}")
    for name, (passes, of) in NEEDS.items():
        ratio = t[name] / (passes * t[of])
        mark = "" if ratio <= LIMIT else f"  over {LIMIT:g}"
        print(f"{name:20}{1e3 * t[name]:8.0f}{passes:8d}  {of:22}{1e3 * t[of]:8.0f}{ratio:10.2f}{mark}")
    hundred, single = 100 * t["SynFlow, one round"], t["one example, float32"]
    print(
        f"\nSynFlow's 100 scores: {hundred:.0f} s, {hundred / t['one example, float64']:.0f} passes of one example in"
        f" float64 or {hundred / single:.0f} in float32 ({1e3 * single:.0f} ms each);"
        f"\nthe 100 cuts between them: {100 * t['cut']:.0f} s ({1e3 * t['cut']:.0f} ms each)"
    )


if __name__ == "__main__":
    main()
