"""A smaller network comes back with equal outputs, from a smaller file, without pickle."""

import json

import pytest
import torch
from torch import nn

from surplus.errors import InputError, StoreError
from surplus.networks import build
from surplus.pruning import load_module, random_mask, remove_dead_units, save_module, shrink
from surplus.space import WeightSpace, generator


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")
        self.fc, self.norm, self.head = nn.Linear(8, 20), nn.LayerNorm(20), nn.Linear(20, 3)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = (x + self.conv2(x)).mean((2, 3))
        return self.head(self.norm(self.fc(x).relu()))


def mlp():
    first, second = (nn.Linear(n, 30, bias=False) for n in (20, 30))
    return nn.Sequential(first, nn.ReLU(), second, nn.Tanh(), nn.Linear(30, 5))


def file_size(folder):
    return sum(p.stat().st_size for p in folder.iterdir())


def test_a_network_without_its_dead_units_comes_back(tmp_path):
    module = mlp().double()
    mask = random_mask(WeightSpace(lambda: module), 0.05, generator(0))
    small = remove_dead_units(module, mask)
    save_module(tmp_path / "small", small, meta={"density": 0.05})
    save_module(tmp_path / "big", module)
    back = load_module(tmp_path / "small", make=mlp)
    x = torch.randn(6, 20, dtype=torch.float64)
    assert torch.equal(back(x), small(x))
    assert file_size(tmp_path / "small") < 0.5 * file_size(tmp_path / "big")
    assert json.loads((tmp_path / "small" / "config.json").read_text())["meta"] == {"density": 0.05}


def test_a_shrunk_residual_network_comes_back(tmp_path):
    pytest.importorskip("torch_pruning")
    small = shrink(Net(), (2, 8, 8), keep=0.5)
    save_module(tmp_path, small)
    back = load_module(tmp_path, make=Net)
    x = torch.randn(6, 2, 8, 8)
    assert torch.equal(back(x), small(x))
    assert back.conv1.stride == (2, 2) and back.conv2.padding_mode == "circular"
    assert not back.training


def test_a_network_of_ours_needs_no_factory(tmp_path):
    pytest.importorskip("torch_pruning")
    spec = {"name": "resnet-20", "input_shape": (3, 16, 16), "outputs": 10, "options": {}}
    module = build("resnet-20", (3, 16, 16), 10)
    small = shrink(module, (3, 16, 16), keep=0.5)
    save_module(tmp_path, small, network=spec)
    back, x = load_module(tmp_path), torch.randn(2, 3, 16, 16)
    assert torch.equal(back(x), small(x))
    assert sum(p.numel() for p in back.parameters()) < 0.5 * sum(p.numel() for p in module.parameters())


def test_shared_weights_are_stored(tmp_path):
    def make():
        net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        net[2].weight = net[0].weight
        return net

    net = make()
    back, x = load_module(save_module(tmp_path, net), make=make), torch.randn(3, 4)
    assert torch.equal(back(x), net.eval()(x))
    assert back[2].weight is back[0].weight


def test_shared_weights_that_shrank_stay_shared(tmp_path):
    def make(width=6):
        net = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        net[2].weight = net[0].weight
        return net

    net = make(4)
    back = load_module(save_module(tmp_path, net), make=make)
    assert back[2].weight is back[0].weight and back[0].in_features == 4


def test_a_folder_cannot_run_code(tmp_path):
    save_module(tmp_path, mlp())
    assert {p.name for p in tmp_path.iterdir()} == {"weights.safetensors", "config.json"}
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"in_features": 20', '"in_features": {"a": 1}'))
    with pytest.raises(StoreError, match="no size of a layer"):
        load_module(tmp_path, make=mlp)


def test_missing_factories_and_other_networks_are_named(tmp_path):
    save_module(tmp_path, mlp())
    with pytest.raises(InputError, match="give its factory"):
        load_module(tmp_path)
    with pytest.raises(InputError, match="another network"):
        load_module(tmp_path, make=Net)
    with pytest.raises(InputError, match="another network"):
        load_module(tmp_path, make=lambda: nn.Sequential(*mlp(), nn.PReLU(), nn.Linear(5, 5)))
    with pytest.raises(InputError, match="missing: outputs"):
        save_module(tmp_path, mlp(), network={"name": "mlp", "input_shape": (3,)})


def test_damage_is_noticed(tmp_path):
    with pytest.raises(InputError, match="holds no saved module"):
        load_module(tmp_path, make=mlp)
    save_module(tmp_path, mlp())
    weights, config = tmp_path / "weights.safetensors", tmp_path / "config.json"
    intact = weights.read_bytes()
    weights.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    with pytest.raises(StoreError, match="save the module again"):
        load_module(tmp_path, make=mlp)
    weights.write_bytes(intact)
    text = config.read_text()
    config.write_text(text.replace('"in_features": 20', '"forward": 20'))
    with pytest.raises(StoreError, match="sets 'forward' to 20, which is no size"):
        load_module(tmp_path, make=mlp)
    config.write_text(text.replace("surplus module 1", "surplus module 9"))
    with pytest.raises(StoreError, match="later version"):
        load_module(tmp_path, make=mlp)
    config.write_text(text[:-5])
    with pytest.raises(StoreError, match="damaged"):
        load_module(tmp_path, make=mlp)


def test_networks_with_fewer_heads_come_back(tmp_path):
    pytest.importorskip("torch_pruning")
    options = {"patch": 4, "width": 16, "depth": 2, "heads": 4}
    spec = {"name": "vit-small", "input_shape": (1, 8, 8), "outputs": 5, "options": options}
    small = shrink(build("vit-small", (1, 8, 8), 5, **options), (1, 8, 8), keep=0.5, heads=True, scope="layer")
    back, x = load_module(save_module(tmp_path / "ours", small, network=spec)), torch.randn(3, 1, 8, 8)
    assert torch.equal(back(x), small(x)) and back.blocks[0].attention.heads < 4

    def make():
        layer = nn.TransformerEncoderLayer(16, 4, 20, batch_first=True)
        return nn.Sequential(
            nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten(), nn.Linear(80, 3)
        )

    small = shrink(make(), (5, 16), keep=0.5, heads=True, scope="layer")
    back, x = load_module(save_module(tmp_path / "torchs", small), make=make), torch.randn(3, 5, 16)
    assert torch.equal(back(x), small(x)) and back[0].layers[1].self_attn.num_heads < 4
