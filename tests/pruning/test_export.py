"""Tickets survive files and torch's own pruning bit for bit; damage and mix-ups are named."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from surplus.errors import InputError, StoreError
from surplus.pruning import from_torch_prune, keep_top, load_ticket, save_ticket, to_torch_prune
from surplus.space import WeightSpace


def make(width=8):
    return nn.Sequential(
        nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(width * 4, 3)
    )


@pytest.fixture
def ticket():
    space = WeightSpace(make)
    theta = space.init(0)
    return space, theta, keep_top(space, theta.abs(), density=0.3)


def test_a_ticket_comes_back_as_it_was(ticket, tmp_path):
    space, theta, mask = ticket
    path = save_ticket(tmp_path / "new" / "ticket.safetensors", space, theta, mask, {"seed": 3, "accuracy": 0.97})
    back = load_ticket(path, space)
    assert torch.equal(back.theta, theta) and torch.equal(back.mask, mask)
    assert back.meta == {"seed": 3, "accuracy": 0.97}
    assert [p.name for p in path.parent.iterdir()] == ["ticket.safetensors"]  # no draft is left behind


def test_a_ticket_of_another_network_is_refused(ticket, tmp_path):
    path = save_ticket(tmp_path / "t.safetensors", *ticket)
    with pytest.raises(InputError, match=r"0.weight has shape \(9, 1, 3, 3\) here, shape \(8, 1, 3, 3\) there"):
        load_ticket(path, WeightSpace(lambda: make(9)))


def test_damaged_missing_and_foreign_files_are_told_apart(ticket, tmp_path):
    space = ticket[0]
    path = save_ticket(tmp_path / "t.safetensors", *ticket)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(StoreError, match="damaged"):
        load_ticket(path, space)
    with pytest.raises(InputError, match="there is no file"):
        load_ticket(tmp_path / "none", space)
    save_file({"0.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(StoreError, match="no ticket"):
        load_ticket(tmp_path / "other.safetensors", space)


def test_torchs_form_computes_the_masked_network_and_returns_the_ticket(ticket):
    space, theta, mask = ticket
    module, x = to_torch_prune(space, theta, mask), torch.randn(5, 1, 4, 4)
    torch.testing.assert_close(module(x), space.apply(theta * mask, x))
    assert prune.is_pruned(module)
    back = from_torch_prune(space, module)
    assert torch.equal(back.theta, theta) and torch.equal(back.mask, mask)


def test_a_module_that_torch_pruned_in_part_is_read():
    space = WeightSpace(make)
    module = make()
    prune.l1_unstructured(module[4], "weight", amount=10)
    ticket = from_torch_prune(space, module)
    assert int((~ticket.mask).sum()) == 10
    assert torch.equal(ticket.theta[space["4.weight"].slice], module[4].weight_orig.detach().flatten())
    with pytest.raises(InputError, match=r"no 0.weight of shape \(9, 1, 3, 3\)"):
        from_torch_prune(WeightSpace(lambda: make(9)), module)
