from __future__ import annotations

import pytest
import torch
from torch import nn

from surplus.errors import InputError
from surplus.examples.condensation.diff_augment import DiffAugment
from surplus.examples.condensation.networks import accuracy, frozen_norms, mixed, train_epoch
from surplus.networks.convnet import conv_net
from surplus.space import WeightSpace


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_network_of_the_papers_has_their_sizes():
    net = conv_net((3, 32, 32), 10)
    assert sum(p.numel() for p in net.parameters()) == 320_010
    assert net.head.in_features == 128 * 4 * 4
    grey = conv_net((1, 28, 28), 10)
    assert grey.head.in_features == 128 * 4 * 4  # padded to 32 by the first convolution
    assert grey.conv1(torch.zeros(1, 1, 28, 28)).shape[-2:] == (32, 32)


def test_instance_norm_is_a_group_per_channel():
    net, x = conv_net((1, 8, 8), 3, width=5), torch.randn(2, 1, 8, 8)
    features = net.norm1(net.conv1(x))
    assert torch.allclose(features.mean((2, 3)), torch.zeros(2, 5), atol=1e-6)


def test_a_network_too_deep_for_its_images_is_refused():
    with pytest.raises(InputError, match="at least 16x16"):
        conv_net((1, 8, 8), 3, depth=4)
    with pytest.raises(InputError, match="norm"):
        conv_net((1, 8, 8), 3, norm="group")


def test_cutmix_keeps_the_share_of_pixels_that_it_says():
    x = torch.arange(1.0, 9.0).view(8, 1, 1, 1).expand(8, 1, 16, 12)
    y = torch.arange(8)
    shares = []
    for seed in range(40):
        made, other, share = mixed(x, y, generator(seed), 1.0)
        for i in range(8):
            assert set(made[i].unique().tolist()) <= {float(y[i]) + 1, float(other[i]) + 1}
            if other[i] != y[i]:
                assert float((made[i] == y[i] + 1).float().mean()) == pytest.approx(share)
        shares.append(share)
    assert 0.4 < sum(shares) / len(shares) < 0.9 and max(shares) > 0.9 and min(shares) < 0.5
    assert mixed(x, y, generator(), 0.0)[0] is x


def test_an_epoch_is_sgd_on_every_example_once():
    x, y = torch.randn(10, 3, generator=generator()), torch.arange(10) % 2
    net = nn.Linear(3, 2)
    twin = nn.Linear(3, 2)
    twin.load_state_dict(net.state_dict())
    train_epoch(net, torch.optim.SGD(net.parameters(), 0.1), x, y, generator(), batch=10, augment=DiffAugment(""))
    step = torch.optim.SGD(twin.parameters(), 0.1)
    nn.functional.cross_entropy(twin(x), y).backward()
    step.step()
    torch.testing.assert_close(net.weight, twin.weight)


def test_batch_norms_take_real_statistics_and_keep_them_while_the_rest_trains():
    space = WeightSpace(lambda: conv_net((1, 8, 8), 3, width=4, norm="batch"))
    module, real = space.write(space.init(0)), torch.randn(32, 1, 8, 8, generator=generator())
    features = module.conv1(real).detach()
    with frozen_norms(module, real):
        seen = module.norm1.running_mean.clone()
        alone, together = module(real[:1]), module(real[:2])[:1]
    torch.testing.assert_close(seen, features.mean((0, 2, 3)))
    assert torch.equal(seen, module.norm1.running_mean)
    torch.testing.assert_close(alone, together)  # what else is in the batch does not matter
    assert module.norm1.training and module.norm1.momentum == 0.1


def test_accuracy_counts_right_answers():
    net = nn.Linear(2, 2, bias=False)
    net.weight.data = torch.eye(2)
    x = torch.tensor([[1.0, 0], [0, 1], [1, 0]])
    assert accuracy(net, x, torch.tensor([0, 1, 1]), batch=2) == pytest.approx(2 / 3)
