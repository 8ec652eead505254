"""Iterative magnitude pruning, twenty levels and five seeds of LeNet-300-100: surplus, a plain loop, research code.

    python benchmarks/imp_speed.py [--data MNIST] [--steps 300] [--levels 20] [--seeds 5] [--rivals plain] [--wall]

All three train each level for the same number of steps (Adam, batches of 60), cut a fifth of the surviving weights of
each seed and rewind to the initial weights:

    plain      tensors on the fly, one fused optimiser, gradients masked, seed after seed
    research   a DataLoader with transforms per image, a module whose layers multiply by their masks, seed after seed
    surplus    `imp_levels`

CPU time on one thread, level by level, interleaved; with --wall seconds on all processors. A ratio is the rival's time
over surplus's. Without a folder of MNIST the images are random, which prunes units less than real ones do.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from surplus.data import Dataset as Examples
from surplus.data import Splits, read
from surplus.pruning.schedules.imp import imp_levels
from surplus.tasks import Recipe, Task, task_from
from surplus.training import Store

LR, BATCH, RATE = 1.2e-3, 60, 0.2


def images(folder: str | None) -> Splits:
    if folder:
        return read(folder)
    g = torch.Generator().manual_seed(0)
    x, y = torch.randint(0, 256, (6000, 1, 28, 28), generator=g, dtype=torch.uint8), torch.arange(6000) % 10
    data = Examples.of(x, y, kind="image")
    return Splits("random images", data, data)


def magnitude(weights: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
    """Keep all but the smallest fifth of the surviving weights."""
    alive = torch.cat([w[m > 0].abs() for w, m in zip(weights, masks, strict=True)])
    threshold = alive.sort().values[round(RATE * len(alive)) - 1]
    return [((w.abs() > threshold) & (m > 0)).float() for w, m in zip(weights, masks, strict=True)]


# ---- a plain loop ---------------------------------------------------------------------------------------------------


def plain(task: Task, steps: int, levels: int, seeds: int) -> Iterator[None]:
    x = task.prepare(task.train.inputs).flatten(1)
    y = task.train.targets
    starts = [list(task.space.split(task.space.init(s)).values()) for s in range(seeds)]
    masks = [[torch.ones_like(w) for w in start[::2]] for start in starts]
    plain_training(x, y, starts[0], masks[0], 1, 0)  # what is imported on first use, is
    yield  # set up; the clock starts here
    for _ in range(levels + 1):
        for s in range(seeds):
            trained = plain_training(x, y, starts[s], masks[s], steps, s)
            masks[s] = magnitude([w.detach() for w in trained[::2]], masks[s])
        yield


def plain_training(x: Tensor, y: Tensor, start: list[Tensor], masks: list[Tensor], steps: int, seed: int) -> Any:
    p = [w.clone() for w in start]
    for w, m in zip(p[::2], masks, strict=True):
        w.mul_(m)
    for w in p:
        w.requires_grad_()
    adam, order = torch.optim.Adam(p, lr=LR, fused=True), torch.empty(0)
    per_epoch = len(x) // BATCH
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed * 1000 + step))
        i = order[step % per_epoch * BATCH :][:BATCH]
        h = torch.relu(torch.addmm(p[1], x[i], p[0].t()))
        h = torch.relu(torch.addmm(p[3], h, p[2].t()))
        loss = F.cross_entropy(torch.addmm(p[5], h, p[4].t()), y[i])
        grads = torch.autograd.grad(loss, p)
        for k, (w, g) in enumerate(zip(p, grads, strict=True)):
            w.grad = g if k % 2 else g.mul_(masks[k // 2])
        adam.step()
    return p


# ---- ordinary research code -----------------------------------------------------------------------------------------


class Images(Dataset[tuple[Tensor, int]]):
    """One image at a time, as torchvision's MNIST with ToTensor and Normalize gives it: by way of a PIL image."""

    def __init__(self, task: Task) -> None:
        self.x, self.y = task.train.inputs, task.train.targets
        self.mean, self.std = (torch.as_tensor(t).float() for t in task.moments)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        picture = Image.fromarray(self.x[i, 0].numpy())
        image = torch.from_numpy(np.array(picture, copy=True)).view(*picture.size[::-1], 1)
        image = image.permute(2, 0, 1).contiguous().float().div(255)
        return image.clone().sub_(self.mean).div_(self.std), int(self.y[i])


class MaskedLinear(nn.Linear):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("mask", torch.ones(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


def research(task: Task, steps: int, levels: int, seeds: int) -> Iterator[None]:
    loader = DataLoader(Images(task), BATCH, shuffle=True, drop_last=True)
    nets = [nn.Sequential(nn.Flatten(), MaskedLinear(784, 300), nn.ReLU(), MaskedLinear(300, 100), nn.ReLU(),
                          MaskedLinear(100, 10)) for _ in range(seeds)]  # fmt: skip
    starts = [{k: v.clone() for k, v in n.state_dict().items() if "mask" not in k} for n in nets]
    yield
    for _ in range(levels + 1):
        for net, start in zip(nets, starts, strict=True):
            net.load_state_dict(start, strict=False)
            research_training(net, loader, steps)
            layers = [m for m in net if isinstance(m, MaskedLinear)]
            new = magnitude([m.weight.detach() for m in layers], [m.mask for m in layers])
            for layer, mask in zip(layers, new, strict=True):
                layer.mask.copy_(mask)
        yield


def research_training(net: nn.Module, loader: DataLoader[Any], steps: int) -> None:
    adam, step = torch.optim.Adam(net.parameters(), lr=LR), 0
    while True:
        for x, y in loader:
            adam.zero_grad()
            F.cross_entropy(net(x), y).backward()
            adam.step()
            step += 1
            if step == steps:
                return


# ---- surplus --------------------------------------------------------------------------------------------------------


def ours(task: Task, levels: int, seeds: int, jobs: int | None) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        chain = imp_levels(task, levels=levels, rate=RATE, seeds=seeds, store=Store(folder), jobs=jobs)
        for level in chain:
            yield f"{level.density:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a folder of MNIST")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--levels", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rivals", nargs="+", default=["plain", "research"], choices=["plain", "research"])
    parser.add_argument("--wall", action="store_true", help="seconds on all processors")
    a = parser.parse_args()
    clock: Callable[[], float] = time.perf_counter if a.wall else time.process_time
    if not a.wall:
        torch.set_num_threads(1)
    recipe = Recipe(optimiser="adam", lr=LR, batch_size=BATCH, duration=f"{a.steps}it", schedule="constant")
    task = task_from(images(a.data), "lenet-300-100", recipe=recipe)
    size = (a.steps, a.levels, a.seeds)
    task.prepare(task.train.inputs[:1])  # mean and spread of the images, before the clock starts
    chains: dict[str, Iterator[Any]] = {"surplus": ours(task, a.levels, a.seeds, None if a.wall else 1)}
    chains |= {name: {"plain": plain, "research": research}[name](task, *size) for name in a.rivals}
    for name in a.rivals:
        next(chains[name])
    totals = dict.fromkeys(chains, 0.0)
    print(f"seconds per level, {a.steps} steps, {a.seeds} seeds, {'all processors' if a.wall else 'CPU, one thread'}")
    print(f"{'density':>8}" + "".join(f"{n:>10}" for n in chains) + "".join(f"{n + '/':>10}" for n in a.rivals))
    for _ in range(a.levels + 1):
        spent, density = {}, ""
        for name, chain in chains.items():
            began = clock()
            density = next(chain) or density
            spent[name] = clock() - began
            totals[name] += spent[name]
        row(density, spent)
    row("all", totals)


def row(label: str, spent: dict[str, float]) -> None:
    ratios = [seconds / spent["surplus"] for name, seconds in spent.items() if name != "surplus"]
    print(f"{label:>8}" + "".join(f"{s:>10.2f}" for s in spent.values()) + "".join(f"{r:>10.2f}" for r in ratios))


if __name__ == "__main__":
    main()
