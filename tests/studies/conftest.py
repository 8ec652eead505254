"""Small stand-ins for the files that a user provides."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from surplus.studies import data


@pytest.fixture
def provided_files(tmp_path, monkeypatch):
    """A folder of $SURPLUS_DATA: 60 pictures in three classes, people's labels (a quarter wrong), and C-scores."""
    chance = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    pixels = (torch.rand(60, 3, 12, 12, generator=chance) * 100 + 50 * labels[:, None, None, None]).byte()
    (tmp_path / "cifar10").mkdir()
    for part in ("train", "test"):
        np.savez(tmp_path / "cifar10" / f"{part}.npz", x=pixels.numpy(), label=labels.numpy())
    wrong = torch.arange(60) % 4 == 0
    given = torch.where(wrong, (labels + 1) % 3, labels)
    (tmp_path / "scores").mkdir()
    people = {"index": torch.arange(60), "clean": labels, "aggre": given, "random1": given}
    people |= {"random2": labels, "random3": labels}
    pq.write_table(pa.table({k: v.numpy() for k, v in people.items()}), tmp_path / data.CIFAR10N)
    scores = {"index": torch.arange(0, 60, 2), "label": labels[::2], "cscore": 1 - 0.5 * wrong[::2].double()}
    pq.write_table(pa.table({k: v.numpy() for k, v in scores.items()}), tmp_path / data.CSCORES)
    monkeypatch.setenv(data.FOLDER, str(tmp_path))
    return tmp_path


@pytest.fixture
def no_files(monkeypatch):
    monkeypatch.delenv(data.FOLDER, raising=False)
