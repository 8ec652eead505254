"""What recording every visit of every example costs, as a share of training.

    python benchmarks/recorder.py [--rounds 7]

The same run with and without `record=True`, interleaved, on one thread; CPU time. Writing to disk is included.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import torch

from surplus.data import Dataset, Splits
from surplus.tasks import Recipe, Task, load, task_from
from surplus.training import Store, fit


def pictures() -> Task:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (4000, 1, 28, 28), generator=g, dtype=torch.uint8)
    data = Dataset.of(x, torch.arange(4000) % 10, kind="image")
    return task_from(Splits("pictures", data, data[:100]), "lenet-5", recipe=Recipe(duration="2ep", lr=0.01))


def seconds(task: Task, record: bool, replicas: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        fit(task, seeds=replicas, record=record, execution="stacked", jobs=1, store=Store(folder))
        return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    cases = [
        ("digits, MLP, 1 replica", load("digits").with_recipe(duration="60ep"), 1),
        ("digits, MLP, 32 replicas", load("digits").with_recipe(duration="20ep"), 32),
        ("28x28, LeNet-5, 1 replica", pictures(), 1),
    ]
    print(f"{'run':28}{'plain s':>10}{'recorded s':>12}{'overhead':>10}")
    for name, task, replicas in cases:
        seconds(task, True, replicas)
        times = [(seconds(task, False, replicas), seconds(task, True, replicas)) for _ in range(rounds)]
        a, b = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{name:28}{a:>10.3f}{b:>12.3f}{100 * (b / a - 1):>9.1f}%", flush=True)


if __name__ == "__main__":
    main()
