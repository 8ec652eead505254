"""What the lengths of per-example gradients cost, next to one ordinary forward and backward pass of the same batch.

    python benchmarks/grand.py [--rounds 21]

One thread; the methods take turns within each round, and the table shows medians of CPU time. A method's figure is its
time over that of the plain pass, which gives the batch gradient only. "gap" is the largest relative difference of ghost
norms from one backward pass per example. Peers that are not installed, or cannot take a network, show "-".
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surplus.space.per_example import per_example_grad_norms

Job = Callable[[], Tensor]


class Block(nn.Module):
    """Two normalised convolutions and a shortcut."""

    def __init__(self, inside: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.norm2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        shortcut = [nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out)] if inside != out else []
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.shortcut(x))


def dense(*widths: int) -> nn.Module:
    layers = [m for pair in pairwise(widths) for m in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def lenet_5() -> nn.Module:
    features = [
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
    return nn.Sequential(*features, nn.Flatten(), *dense(400, 120, 84, 10))


def small_cnn() -> nn.Module:
    features = [nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.AvgPool2d(6)]
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(512, 10))


def small_resnet() -> nn.Module:
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [Block(16, 16), Block(16, 32, 2), Block(32, 64, 2)]
    return nn.Sequential(*stem, *blocks, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, 10))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "LeNet-300-100": (lambda: dense(784, 300, 100, 10), (128, 784)),
    "MLP 784-256-256-10": (lambda: dense(784, 256, 256, 10), (128, 784)),
    "CNN 16-32, 28x28": (small_cnn, (64, 1, 28, 28)),
    "LeNet-5, 28x28": (lenet_5, (64, 1, 28, 28)),
    "ResNet-8 with batch norm": (small_resnet, (64, 3, 32, 32)),
}


def plain(net: nn.Module, x: Tensor, y: Tensor) -> Job:
    def job() -> Tensor:
        net.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        return loss.detach()

    return job


def ours(method: str) -> Callable[[nn.Module, Tensor, Tensor], Job]:
    return lambda net, x, y: lambda: per_example_grad_norms(net, None, x, y, method=method)


def opacus(net: nn.Module, x: Tensor, y: Tensor) -> Job:
    from opacus.grad_sample import GradSampleModule

    wrapped = GradSampleModule(net.train(), loss_reduction="sum")  # it records in train mode only

    def job() -> Tensor:
        F.cross_entropy(wrapped(x), y, reduction="sum").backward()
        norms = torch.stack([p.grad_sample.flatten(1).norm(dim=1) for p in net.parameters()]).norm(dim=0)
        for p in net.parameters():
            p.grad = p.grad_sample = None
        return norms

    return job


def opacus_ghost(net: nn.Module, x: Tensor, y: Tensor) -> Job:
    from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping

    wrapped = GradSampleModuleFastGradientClipping(net.train(), loss_reduction="sum", max_grad_norm=1.0)

    def job() -> Tensor:
        F.cross_entropy(wrapped(x), y, reduction="sum").backward()
        norms = wrapped.get_norm_sample()
        for p in net.parameters():
            p.grad = p._norm_sample = None
        return norms

    return job


def backpack(net: nn.Module, x: Tensor, y: Tensor) -> Job:
    from backpack import backpack as recording
    from backpack import extend
    from backpack.extensions import BatchL2Grad

    net, loss = extend(net), extend(nn.CrossEntropyLoss(reduction="sum"))

    def job() -> Tensor:
        net.zero_grad()
        with recording(BatchL2Grad()):
            loss(net(x), y).backward()
        return torch.stack([p.batch_l2 for p in net.parameters()]).sum(0).sqrt()

    return job


METHODS = {
    "plain": plain,
    "ghost": ours("ghost"),
    "vmap": ours("vmap"),
    "loop": ours("loop"),
    "Opacus": opacus,
    "Opacus ghost": opacus_ghost,
    "BackPACK": backpack,
}


def jobs(make: Callable[[], nn.Module], x: Tensor, y: Tensor) -> tuple[dict[str, Job], float]:
    """Every method that can take the network and gives the right norms; and how far ghost norms are from the loop's."""
    net = make().eval()
    exact = per_example_grad_norms(net, None, x, y, method="loop")
    ready = {}
    for name, prepare in METHODS.items():
        try:
            job = prepare(copy.deepcopy(net), x, y)
            found = job()
        except Exception as error:
            print(f"  {name} left out: {type(error).__name__}: {str(error).splitlines()[0][:90] if str(error) else ''}")
            continue
        if name == "plain" or torch.allclose(found, exact, rtol=1e-3):
            ready[name] = job
        else:
            print(f"  {name} left out: its norms are wrong by up to {((found - exact).abs() / exact).max():.1%}")
    return ready, float(((ready["ghost"]() - exact).abs() / exact).max())


def medians(ready: dict[str, Job], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each job, the jobs taking turns."""
    times: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(rounds):
        for name, job in ready.items():
            start = time.process_time()
            job()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of per-example gradient norms.")
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, {platform.machine()}, one thread, medians of {rounds} rounds; times the plain pass"
    )
    rows = []
    for name, (make, shape) in CASES.items():
        torch.manual_seed(0)
        print(name, flush=True)
        ready, gap = jobs(make, torch.randn(shape), torch.randint(10, shape[:1]))
        t = medians(ready, rounds)
        ratios = [f"{t[m] / t['plain']:.2f}" if m in t else "-" for m in METHODS if m != "plain"]
        rows.append([name, str(shape[0]), f"{1e3 * t['plain']:.2f}", *ratios, f"{gap:.0e}"])
    print()
    header = ["network", "batch", "plain ms", *(m for m in METHODS if m != "plain"), "gap"]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in [header, *rows]:
        print(
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
        )


if __name__ == "__main__":
    main()
