"""The benchmark's adapter to DeepCore, with a stand-in that has that library's interface."""

import importlib
import importlib.util
import sys
import textwrap

import pytest
import torch

STANDIN = """
import numpy as np

class Herding:
    def __init__(self, dst_train, args, fraction=0.5, random_seed=None, epochs=200, balance=False, **kwargs):
        x, y = dst_train[3]
        assert x.shape == (args.channel, *args.im_size) and len(dst_train.classes) == args.num_classes
        assert balance and epochs == 0 and kwargs["specific_model"] == "Looked" and args.selection_batch == 256
        self.n = len(dst_train.targets)

    def select(self, **kwargs):
        print("chatter")
        return {"indices": np.array([5, 2, 9])}

class Forgetting(Herding):
    def __init__(self, *given, epochs, specific_model, **kwargs):
        assert epochs == 2 and specific_model is None

    def select(self, **kwargs):
        return {"indices": np.array([4])}

class Craig(Herding):
    def select(self, **kwargs):
        return {"indices": np.array([5, 2]), "weights": np.array([3.0, 1.0])}

class Cal(Herding):
    def select(self, **kwargs):
        raise RuntimeError("no weights to download")
"""
NETS = """
from torch import nn

def MLP(channel, num_classes, im_size):
    inputs = channel * im_size[0] * im_size[1]
    hidden = [nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(128, num_classes))
"""


@pytest.fixture
def benchmark(root, monkeypatch):
    spec = importlib.util.spec_from_file_location("deepcore_benchmark", root / "benchmarks" / "deepcore.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "deepcore_benchmark", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    folder = tmp_path / "deepcore" / "methods"
    folder.mkdir(parents=True)
    (tmp_path / "deepcore" / "__init__.py").write_text("")
    (folder / "__init__.py").write_text(textwrap.dedent(STANDIN))
    (tmp_path / "deepcore" / "nets.py").write_text(textwrap.dedent(NETS))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "deepcore"]:
        del sys.modules[name]


def test_its_methods_get_what_they_expect_and_their_choice_is_read(benchmark, checkout, capsys):
    from surplus.tasks import load

    task = load("digits")
    data, methods = benchmark.Examples(task, task.train), benchmark.load(checkout)
    choice = benchmark.theirs(methods, benchmark.METHODS["herding"], data, 0.1, 2, 0, "cpu")
    assert choice.kept.nonzero().squeeze(1).tolist() == [2, 5, 9] and choice.weights is None
    weighted = benchmark.theirs(methods, benchmark.METHODS["CRAIG"], data, 0.1, 2, 0, "cpu")
    assert weighted.weights[[2, 5]].tolist() == [1.0, 3.0] and weighted.weights.sum() == 4
    assert benchmark.theirs(methods, benchmark.METHODS["forgetting"], data, 0.1, 2, 0, "cpu").kept.sum() == 1
    assert capsys.readouterr().out == ""


def test_both_choose_with_the_same_network(benchmark, checkout):
    from surplus.data import read
    from surplus.tasks import task_from

    task = task_from(read("digits"), "mlp", recipe=benchmark.LEARNING, widths=(128, 128))
    benchmark.load(checkout)
    for seed in range(2):
        seen = benchmark.look(task, 1, seed)
        benchmark.hand_over(seen)
        network = importlib.import_module("deepcore.nets").Looked(1, 10, im_size=(8, 8))
        probabilities = network(benchmark.Examples(task, task.train).inputs).softmax(1)
        torch.testing.assert_close(probabilities, seen.probabilities[0], atol=1e-5, rtol=1e-4)


def test_a_row_for_both_and_the_reason_for_what_was_not_run(benchmark, checkout, capsys, monkeypatch):
    words = ["deepcore.py", "--methods", "herding", "CAL", "--shares", "0.05", "--seeds", "1", "--looks", "2"]
    monkeypatch.setattr(sys, "argv", [*words, "--epochs", "1", "--deepcore", str(checkout)])
    benchmark.main()
    table = capsys.readouterr().out
    assert "not run: CAL, 0.05: RuntimeError: no weights to download" in table
    assert len(next(line for line in table.splitlines() if "herding" in line).split()) == 7
    with pytest.raises(SystemExit, match="no checkout of DeepCore"):
        benchmark.load(checkout / "elsewhere")


def test_every_rule_of_ours_can_take_its_part(benchmark):
    from surplus.data import Splits, read
    from surplus.tasks import task_from

    digits = read("digits")
    few = Splits(digits.name, digits.train[torch.arange(120)], digits.test)
    seen = benchmark.look(task_from(few, "mlp", recipe=benchmark.LEARNING, widths=(16,)), 2, 0)
    for name, method in benchmark.METHODS.items():
        choice = benchmark.ours(method, seen, 0.2, 0)
        assert choice.kept.sum() == 24, name
