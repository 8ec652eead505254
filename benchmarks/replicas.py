"""K replicas in one program against a Python loop over K ordinary modules, side by side on one thread.

    python benchmarks/replicas.py [--rounds 7]

Both do the same steps of SGD with momentum on the same batches: the loop as anyone would write it, with modules,
`backward()` and one `torch.optim.SGD` each; surplus by its stacked engine and flat optimiser. CPU time, medians of
interleaved rounds; "ratio" is the loop's time over surplus's. The network of the spec is the small MLP 64-64-64-10.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from surplus.data import Dataset, Splits
from surplus.tasks import Recipe, Task, task_from
from surplus.training.engine import Stacked
from surplus.training.optim import SGD

STEPS = 10


def task(shape: tuple[int, ...], network: str, batch: int, **options: object) -> Task:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2 * batch, *shape, generator=g), torch.arange(2 * batch) % 10
    data = Dataset.of(x, y, kind="image" if len(shape) == 3 else "table")
    recipe = Recipe(lr=0.01, batch_size=batch, schedule="constant")
    return task_from(Splits("random", data, data), network, recipe=recipe, **options)


def loop(t: Task, k: int, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    modules: list[nn.Module] = [t.space.write(t.space.init(s)).train() for s in range(k)]
    optimisers = [torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9) for m in modules]

    def step() -> None:
        for i, (module, optimiser) in enumerate(zip(modules, optimisers, strict=True)):
            optimiser.zero_grad()
            F.cross_entropy(module(x[i]), y[i]).backward()
            optimiser.step()

    return step


def stacked(t: Task, k: int, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    z = t.space.init_many(range(k))
    engine, optimiser = Stacked(t.space, t.objective, t.recipe, k, z.device), SGD(t.recipe, z, None)

    def step() -> None:
        _, _, grad = engine(z, x, y, 0)
        optimiser.step(z, grad, 0.01, 1)

    return step


def milliseconds(step: Callable[[], None]) -> float:
    began = time.process_time()
    for _ in range(STEPS):
        step()
    return 1e3 * (time.process_time() - began) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    cases = [
        ("MLP 64-64-64-10, B=64", task((64,), "mlp", 64, widths=(64, 64)), 64),
        ("MLP 784-256-256-10, B=128", task((784,), "mlp", 128, widths=(256, 256)), 128),
        ("small-conv on 8x8, B=64", task((1, 8, 8), "small-conv", 64), 64),
    ]
    print(f"{'network':28}{'K':>5}{'loop ms':>10}{'stacked ms':>12}{'ratio':>8}")
    for name, t, batch in cases:
        for k in (1, 4, 16, 64):
            g = torch.Generator().manual_seed(1)
            x = torch.randn(k, batch, *t.train.shape, generator=g)
            y = torch.randint(10, (k, batch), generator=g)
            steps = [loop(t, k, x, y), stacked(t, k, x, y)]
            for step in steps:
                step()
            times = [[milliseconds(s) for s in steps] for _ in range(rounds)]
            a, b = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"{name:28}{k:>5}{a:>10.2f}{b:>12.2f}{a / b:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
