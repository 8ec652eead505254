import json

import pytest

from surplus.cli import run

QUICK = ["--recipe", "duration=1ep", "--seeds", "2", "--controls", "shuffle"]


def test_prune_leaves_mask_weights_curve_controls_and_report(tmp_path, capsys):
    out = tmp_path / "out"
    code = run(["prune", "digits", "--method", "imp:rate=0.5", "--density", "0.5", *QUICK, "--out", str(out)])
    text = capsys.readouterr().out
    assert code == 0 and "shuffle" in text and str(out / "index.html") in text
    assert {p.name for p in out.iterdir()} == {
        *("index.html", "ticket.safetensors", "masks.safetensors", "weights.safetensors"),
        *("curve.csv", "networks.csv", "controls.csv", "pruning.json"),
    }
    page = (out / "index.html").read_text()
    assert "Pruning mlp on digits" in page and "shuffle" in page
    assert json.loads((out / "pruning.json").read_text())["settings"]["options"] == {"rate": 0.5}


def test_structured_pruning_leaves_a_smaller_model_instead_of_a_mask(tmp_path, capsys):
    out = tmp_path / "out"
    quick = ["--recipe", "duration=1ep", "--seeds", "1"]
    assert run(["prune", "--method", "random-search", "--density", "0.5", *quick, "--out", str(out)]) == 0
    assert "scratch-B" in capsys.readouterr().out
    names = {p.name for p in out.iterdir()}
    assert "smaller-model" in names and "ticket.safetensors" not in names


def test_a_module_of_one_s_own_file_is_pruned(tmp_path, capsys):
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10))\n"
    )
    out, network = tmp_path / "out", f"{tmp_path / 'own_net.py'}:make"
    assert run(["prune", "--network", network, "--density", "0.5", "--method", "snip", *QUICK, "--out", str(out)]) == 0
    assert (out / "weights.safetensors").exists()


def test_the_explorer_is_written_beside_the_report(tmp_path, capsys):
    out = tmp_path / "out"
    code = run(["prune", "--density", "0.5", "--method", "one-shot", *QUICK, "--explore", "--out", str(out)])
    assert code == 0 and (out / "explorer.html").stat().st_size > 10_000
    assert "explorer.html" in (out / "index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "lottery"], "no pruning method is called 'lottery'"),
        (["--method", "imp:rat=0.5"], "no option of imp is called 'rat'"),
        (["--density", "0"], "density"),
        (["--density", "5"], "density"),
        (["--seeds", "0"], "seeds"),
        (["--scope", "3:2"], "no scope is called '3:2'"),
        (["--write", "pickle"], "no way to write weights is called 'pickle'"),
        (["--controls", "lucky"], "lucky"),
        (["--network", "nowhere.py:make"], "nowhere.py"),
        (["--method", "synflow", "--rewind", "5"], "synflow takes no rewind"),
        (["--network", "net.py"], "net.py:make"),
        (["--controls", "none", "shuffle"], "stands alone"),
        (["--write", "2:4"], "--scope 2:4"),
        (["--method", "random-search", "--explore"], "--explore"),
        (["sinusoid", "--explore"], "--explore shows classes"),
        (["--rewind", "100000"], "lies beyond"),
        (["--method", "random-search", "--scope", "layer"], "random-search takes no scope"),
    ],
)
def test_bad_input_is_one_paragraph_and_no_work(arguments, said, tmp_path, capsys):
    assert run(["prune", *arguments, "--recipe", "duration=400ep", "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and "Traceback" not in captured.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def make():\n    return 3\n", "returned int; a torch.nn.Module is expected"),
        ("def make():\n    raise ValueError('boom')\n", "boom"),
        ("def make(:\n", "cannot be read: SyntaxError"),
        ("other = 1\n", "has no function make"),
    ],
)
def test_a_fault_in_one_s_own_file_is_named(text, said, tmp_path, capsys):
    (tmp_path / "faulty.py").write_text(text)
    assert run(["prune", "--network", f"{tmp_path / 'faulty.py'}:make", "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_a_regression_is_told_in_the_units_of_its_error(tmp_path, capsys):
    out = tmp_path / "out"
    code = run(["prune", "sinusoid", "--density", "0.5", "--method", "one-shot", *QUICK, "--out", str(out)])
    page = (out / "index.html").read_text()
    assert code == 0 and "mean squared error (positive: better)" in page and "1 point" not in page
