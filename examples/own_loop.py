"""Hang the recorder into a training loop of your own, and score the examples by what it saw.

python examples/own_loop.py
"""

import tempfile

import torch
from torch import nn

from surplus.examples import score_all
from surplus.tasks import load
from surplus.training import ExampleRecord


def main() -> None:
    data = load("digits").train
    x, y = data.inputs.float().flatten(1) / 255, data.targets
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    folder = tempfile.mkdtemp()
    with ExampleRecord(n=len(y), folder=folder) as record:
        for _ in range(10):
            for index in torch.randperm(len(y)).split(64):
                logits = model(x[index])
                loss = nn.functional.cross_entropy(logits, y[index])
                record.update(index, logits, y[index])  # the one line that is new
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            record.end_epoch()
    scores = score_all({"labels": y, **record.arrays()}, ("el2n", "forgetting", "aum"))
    hardest = scores["el2n"].mean.argsort(descending=True)[:5]
    print("hardest examples:", hardest.tolist(), "labels", y[hardest].tolist())


if __name__ == "__main__":
    main()
