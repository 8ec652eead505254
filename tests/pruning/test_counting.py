"""Sizes against numbers on paper and against torch's own FLOP counter."""

import time

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from surplus.errors import InputError
from surplus.pruning import count, keep_fraction, keep_top, latency
from surplus.space import WeightSpace


def lenet():
    return nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))


class Zoo(nn.Module):
    """Every kind of layer that is counted, but attention."""

    def __init__(self):
        super().__init__()
        self.strided = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.grouped = nn.Conv2d(8, 12, (3, 1), groups=4, padding="same")
        self.depthwise = nn.Conv2d(12, 12, 3, groups=12, dilation=2)
        self.up = nn.ConvTranspose2d(12, 6, 3, stride=2, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.line = nn.Conv1d(6, 4, 5)
        self.token, self.head = nn.Linear(4, 7), nn.Linear(7, 2)

    def forward(self, x):
        x = self.norm(self.up(self.depthwise(self.grouped(self.strided(x)))))
        x = self.line(x.flatten(2)).transpose(1, 2)
        return self.head(self.token(self.token(x)[..., :4]).mean(1))


def test_lenet_has_the_known_size():
    size = count(lenet(), (784,), mask=torch.ones(266_610, dtype=torch.bool))
    assert (size.parameters, size.nonzero, size.macs, size.macs_nonzero) == (266_610, 266_610, 266_200, 266_200)
    assert size.bytes == size.bytes_packed == 4 * 266_610
    assert size.compression == size.speedup == 1


def test_one_convolution_has_the_known_multiply_adds():
    assert count(nn.Conv2d(3, 8, 3, padding=1), (3, 8, 8)).macs == 13_824


def test_multiply_adds_are_half_of_torchs_operations():
    module = Zoo().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, 3, 12, 12))
    assert 2 * count(module, (3, 12, 12)).macs == counter.get_total_flops()


@pytest.mark.parametrize("batch_first", [False, True])
def test_attention_counts_its_projections(batch_first):
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=batch_first)
    x = torch.zeros(1, 5, 8) if batch_first else torch.zeros(1, 5, 8).transpose(0, 1)
    tokens = 5 if batch_first else 1  # of (5, 1, 8), the first example of the first axis is taken
    assert count(layer, x).macs == tokens * (4 * 8 * 8 + 2 * 8 * 16)


def test_a_mask_counts_by_layer_density():
    space = WeightSpace(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 16, 10)))
    score = torch.zeros(space.size)
    score[space["0.weight"].slice] = 1  # the convolution stays, the linear layer loses all
    mask = keep_top(space, score, count=36)
    size = count(space.module, (1, 6, 6), mask)
    assert size.macs == 36 * 16 + 640
    assert size.macs_nonzero == 36 * 16
    assert size.nonzero == 36 + 4 + 10
    assert size.compression == 690 / 50
    assert size.bytes_packed == 4 * 50 + 640 // 8


def test_zeros_that_are_there_count_without_a_mask_and_torchs_masks_count_too():
    module = nn.Linear(10, 10)
    with torch.no_grad():
        module.weight[:5] = 0
    assert count(module, (10,)).nonzero == 60
    prune.random_unstructured(module, "weight", amount=70)
    size = count(module, (10,))
    assert size.nonzero == 30 + 10  # the mask's, whatever is zero besides
    assert size.macs_nonzero == pytest.approx(float((module.weight != 0).sum()))


def test_counting_and_timing_leave_modes_hooks_and_statistics_alone():
    module = Zoo().train()
    module.norm.eval()
    before = module.norm.running_mean.clone()
    count(module, (3, 12, 12))
    latency(module, (3, 12, 12))
    assert module.training and module.token.training and not module.norm.training
    assert not any(m._forward_hooks for m in module.modules())
    assert torch.equal(module.norm.running_mean, before)


def test_latency_is_a_positive_median_that_grows_with_the_batch():
    one, many = (latency(nn.Sequential(nn.Linear(400, 400), nn.Linear(400, 400)), (400,), batch=b) for b in (1, 512))
    assert 0 < one.mean < many.mean
    assert one.repeats == 30 and one.stderr >= 0
    with pytest.raises(InputError, match="at least 30"):
        latency(nn.Linear(2, 2), (2,), repeats=10)


def test_the_keep_fraction_of_a_wanted_compression_is_the_known_one():
    space = WeightSpace(lenet)
    found = [keep_fraction(space, c, exclude=("4",)) for c in (2, 4, 8, 16, 32)]
    assert found == pytest.approx([0.497342, 0.246012, 0.120348, 0.057516, 0.026099], abs=5e-7)
    with pytest.raises(InputError, match=r"ask for less than 189\.1"):
        keep_fraction(space, 200, exclude=("4",))
    with pytest.raises(InputError, match="at least 1"):
        keep_fraction(space, 0.5)


def test_the_slow_first_passes_are_not_timed():
    class Warming(nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls <= 40:
                time.sleep(0.002)
            return super().forward(x)

    assert latency(Warming(2, 2), (2,), warmup=40).mean < 0.002
