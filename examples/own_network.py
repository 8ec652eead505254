"""Audit your own data with your own network.

python examples/own_network.py
"""

import torch
from torch import nn

from surplus.audit import audit
from surplus.data import Dataset, Splits, generated, split
from surplus.tasks import Recipe, task_from


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))


def main() -> None:
    inputs, targets = generated.gaussian_blobs(600, torch.Generator().manual_seed(0), classes=4)
    targets[:12] = (targets[:12] + 1) % 4  # a dozen wrong labels
    train, test = split(Dataset.of(inputs, targets, classes=("north", "east", "south", "west")), 0.25)
    task = task_from(Splits("blobs", train, test), network, recipe=Recipe(lr=0.05, batch_size=32, duration="10ep"))
    found = audit(task, progress=print)
    for row in found.result["labels"]["suspects"][:12]:
        print(row)
    print(found.result["examples"]["recommendation"]["sentence"])
    print("files:", found.save("audit-blobs"))


if __name__ == "__main__":
    main()
