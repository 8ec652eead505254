"""Every layout brings the weights back bit for bit, and the network's outputs with them."""

import struct

import pytest
import torch
from torch import nn

from surplus.errors import InputError, MissingExtra, StoreError
from surplus.networks import build
from surplus.pruning import keep_top, random_mask
from surplus.pruning.checkpoints import export_onnx, load_checkpoint, read_checkpoint, save_checkpoint
from surplus.space import WeightSpace, generator


def conv():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 3, bias=False), nn.Flatten()),
        *(nn.Linear(80, 30), nn.ReLU(), nn.Linear(30, 4)),
    )


def tied():
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
    net[2].weight = net[0].weight
    return net


NETS = {
    "conv": (conv, (3, 8, 8)),
    "tied": (tied, (8,)),
    "vit": (lambda: build("vit-small", (1, 8, 8), 5, patch=4, width=16, depth=1, heads=2), (1, 8, 8)),
    "resnet": (lambda: build("resnet-cifar", (3, 8, 8), 4, depth=8, width=0.25), (3, 8, 8)),
}


def pruned(name, density=0.3, pattern=False, dtype=torch.float32):
    make, shape = NETS[name]
    space = WeightSpace(lambda: make().to(dtype))
    theta = space.init(0)
    mask = random_mask(space, density, generator(0))
    if pattern:
        mask = keep_top(space, theta.abs(), density=0.5, scope="2:4")
    x = torch.randn(6, *shape, generator=generator(1), dtype=dtype)
    return space, theta, mask, space.statistics(theta * mask, [x]), x


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("layout", ["dense", "csr", "2:4"])
def test_weights_and_outputs_come_back_bit_for_bit(name, layout, tmp_path):
    space, theta, mask, buffers, x = pruned(name, pattern=layout == "2:4")
    path = save_checkpoint(tmp_path / "net", space, theta, mask, layout=layout, buffers=buffers, meta={"seed": 3})
    module = load_checkpoint(path, space)
    assert torch.equal(space.read(module), theta.masked_fill(~mask, 0))
    expected = space.write(theta.masked_fill(~mask, 0), buffers)
    assert torch.equal(module(x), expected(x)) and not module.training
    told = read_checkpoint(path)
    assert (told.layout, told.meta, told.bytes) == (layout, {"seed": 3}, path.stat().st_size)
    for key, tensor in expected.state_dict().items():
        assert torch.equal(told.tensors.get(key, tensor), tensor)
    if name == "tied":
        assert module[2].weight is module[0].weight and "2.weight" not in told.tensors


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", ["csr", "2:4"])
def test_other_number_formats_keep_their_bits(dtype, layout, tmp_path):
    space, theta, mask, _, _ = pruned("tied", pattern=layout == "2:4", dtype=dtype)
    path = save_checkpoint(tmp_path / "net", space, theta, mask, layout=layout)
    back = space.read(load_checkpoint(path, space))
    assert back.dtype == dtype and torch.equal(back, theta.masked_fill(~mask, 0))


def test_a_kept_zero_stays_kept_and_keeps_its_sign(tmp_path):
    space = WeightSpace(lambda: nn.Linear(4, 2, bias=False))
    theta = torch.tensor([0.0, -0.0, 1, 2, 3, 4, 5, 6])
    mask = torch.tensor([1, 1, 0, 0, 1, 1, 0, 0]).bool()
    for layout in ("csr", "2:4"):
        path = save_checkpoint(tmp_path / "net", space, theta, mask, layout=layout)
        back = space.read(load_checkpoint(path, space))
        assert back.signbit().tolist() == [False, True] + [False] * 6 and back.tolist() == [0, 0, 0, 0, 3, 4, 0, 0]
    told = read_checkpoint(save_checkpoint(tmp_path / "net", space, theta, mask, layout="csr"))
    assert told.sparse["weight"].values().tolist() == [0, 0, 3, 4]
    assert read_checkpoint(save_checkpoint(tmp_path / "net", space, theta, layout="csr")).sparse["weight"]._nnz() == 6


def test_compressed_rows_are_those_of_torch_and_multiply(tmp_path):
    space, theta, mask, _, _ = pruned("tied")
    told = read_checkpoint(save_checkpoint(tmp_path / "net", space, theta, mask, layout="csr"))
    dense = space.split(theta * mask)["3.weight"]
    matrix, reference = told.sparse["3.weight"], dense.to_sparse_csr()
    assert torch.equal(matrix.crow_indices().long(), reference.crow_indices())
    assert torch.equal(matrix.col_indices().long(), reference.col_indices())
    x = torch.randn(8, 5)
    torch.testing.assert_close(matrix @ x, dense @ x)


def test_two_of_four_takes_two_values_and_four_bits_for_each_four_weights(tmp_path):
    space = WeightSpace(lambda: nn.Linear(8, 3, bias=False))
    theta = torch.arange(1.0, 25)
    mask = torch.tensor([[1, 0, 0, 1, 0, 1, 1, 0], [0, 0, 1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0]]).bool().flatten()
    path = save_checkpoint(tmp_path / "net", space, theta, mask, layout="2:4")
    from safetensors.torch import load_file

    parts = load_file(path)
    assert parts["weight:values"].tolist() == [[1, 4], [6, 7], [11, 12], [13, 14], [0, 20], [0, 0]]
    codes = [0 | 3 << 2, 1 | 2 << 2, 2 | 3 << 2, 0 | 1 << 2, 0 | 3 << 2, 0 | 1 << 2]
    assert parts["weight:places"].tolist() == [codes[i] | codes[i + 1] << 4 for i in (0, 2, 4)]
    assert torch.equal(space.read(load_checkpoint(path, space)), theta * mask)


def test_a_mask_that_is_not_two_of_four_is_refused_with_the_tensor_at_fault(tmp_path):
    space, theta, mask, _, _ = pruned("conv", density=0.8)
    with pytest.raises(InputError, match=r"^0\.weight is not 2:4: \d+ of 48 groups .* keep more than two"):
        save_checkpoint(tmp_path / "net", space, theta, mask, layout="2:4")
    assert not (tmp_path / "net").exists()
    excluded = keep_top(space, theta.abs(), density=0.5, scope="2:4", exclude=("7",))
    path = save_checkpoint(tmp_path / "net", space, theta, excluded, layout="2:4")  # a whole layer is no fault
    assert torch.equal(space.read(load_checkpoint(path, space)), theta * excluded)


def test_sizes_are_what_the_layouts_promise(tmp_path):
    space = WeightSpace(lambda: nn.Sequential(nn.Linear(256, 300), nn.ReLU(), nn.Linear(300, 10)))
    theta = space.init(0)
    sizes = {}
    for layout, density in (("dense", 0.05), ("csr", 0.05), ("2:4", 0.5)):
        mask = random_mask(space, density, generator(0))
        mask = keep_top(space, theta.abs(), density=0.5, scope="2:4") if layout == "2:4" else mask
        sizes[layout] = save_checkpoint(tmp_path / "net", space, theta, mask, layout=layout).stat().st_size
    weights, biases, header = 256 * 300 + 300 * 10, 4 * 310, 1500
    assert 0 < sizes["dense"] - 4 * weights - biases < header
    assert 0 < sizes["2:4"] - 2.125 * weights - biases < header
    rows = (4 + 1) * 0.05 * 256 * 300 + (4 + 2) * 0.05 * 3000 + 2 * 301 + 2 * 11  # a byte names one of 256 columns
    assert abs(sizes["csr"] - rows - biases) < header
    assert sizes["csr"] < 0.072 * sizes["dense"]


def test_any_reader_of_safetensors_takes_the_dense_layout(tmp_path):
    from safetensors.torch import load_model

    space, theta, mask, buffers, x = pruned("conv")
    path = save_checkpoint(tmp_path / "net.safetensors", space, theta, mask, buffers=buffers)
    module = conv().eval()
    load_model(module, path)
    assert torch.equal(module(x), load_checkpoint(path, space)(x))


@pytest.mark.parametrize("name", NETS)
def test_onnx_gives_the_same_outputs_for_batches_of_any_size(name, tmp_path):
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    space, theta, mask, buffers, x = pruned(name)
    path = export_onnx(tmp_path / "net.onnx", space, theta, mask, input_shape=NETS[name][1], buffers=buffers)
    runs = load_checkpoint(path)
    expected = space.write(theta * mask, buffers)
    for size in (1, 6):
        torch.testing.assert_close(runs(x[:size]), expected(x[:size]), rtol=1e-4, atol=1e-5)


def test_the_weights_lie_in_the_onnx_file_bit_for_bit(tmp_path):
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    space, theta, mask, _, _ = pruned("tied")
    path = export_onnx(tmp_path / "net.onnx", space, theta, mask, input_shape=(8,))
    held = [onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
    for name, tensor in space.split(theta * mask).items():
        forms = [tensor.numpy(), tensor.t().numpy()]  # a linear layer may be written as a product with its transpose
        assert any(h.shape == f.shape and (h == f).all() for h in held for f in forms), name


def test_without_the_extra_onnx_says_what_to_install(tmp_path, monkeypatch):
    space, theta, mask, _, _ = pruned("tied")
    (tmp_path / "net").write_bytes(b"\x08\x09 something")
    for library in ("onnx", "onnxruntime"):
        monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(MissingExtra, match=r"surplus\[onnx\]"):
        export_onnx(tmp_path / "x", space, theta, mask, input_shape=(8,))
    with pytest.raises(MissingExtra, match="running ONNX needs onnxruntime"):
        load_checkpoint(tmp_path / "net")


def test_what_is_no_checkpoint_or_of_another_network_is_refused(tmp_path):
    space, theta, mask, _, _ = pruned("tied")
    path, other = tmp_path / "net", WeightSpace(conv)
    with pytest.raises(InputError, match="there is no file"):
        load_checkpoint(path, space)
    save_checkpoint(path, space, theta, mask, layout="csr")
    with pytest.raises(InputError, match="give the network"):
        load_checkpoint(path)
    with pytest.raises(InputError, match="another network"):
        load_checkpoint(path, other)
    with pytest.raises(InputError, match=r"another network: no 4\.weight"):
        load_checkpoint(path, WeightSpace(lambda: nn.Sequential(*tied(), nn.Linear(3, 3))))
    with pytest.raises(InputError, match="no layout is called 'zip'"):
        save_checkpoint(path, space, theta, mask, layout="zip")
    with pytest.raises(InputError, match="booleans; got"):
        save_checkpoint(path, space, theta, mask.float())
    intact = path.read_bytes()
    path.write_bytes(intact[: len(intact) // 2])
    with pytest.raises(StoreError, match="damaged"):
        load_checkpoint(path, space)


def test_indices_that_point_outside_are_refused(tmp_path):
    space, theta, mask, _, _ = pruned("tied")
    path = save_checkpoint(tmp_path / "net", space, theta, mask, layout="csr")
    data = bytearray(path.read_bytes())
    length = struct.unpack("<Q", data[:8])[0]
    at = __import__("json").loads(data[8 : 8 + length])["3.weight:col"]["data_offsets"][0]
    data[8 + length + at] = 200
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"3\.weight does not fit together"):
        load_checkpoint(path, space)
