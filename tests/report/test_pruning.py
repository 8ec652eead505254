import copy

import pytest
from tests.report.reading import Page

from surplus.report.pruning import write_pruning_report

pytest.importorskip("jinja2")
pytest.importorskip("vl_convert")

ROW = {
    "parameters": 1000,
    "nonzero": 100,
    "macs": 900,
    "macs_nonzero": 90,
    "bytes_packed": 500,
    "low": 0.9,
    "high": 0.94,
}
RESULT = {
    "task": "digits",
    "network": "mlp",
    "metric": "accuracy",
    "seeds": [0, 1],
    "margin": 0.01,
    "level": 0.95,
    "convention": "One multiply-add is one multiplication and one addition.",
    "sentences": ["fresh weights do worse"],
    "networks": [
        ROW | {"name": "dense", "role": "dense", "density": 1.0, "compression": 1, "speedup": 1, "mean": 0.95},
        ROW | {"name": "pruned to 30%", "role": "level", "density": 0.3, "compression": 3, "speedup": 3, "mean": 0.94},
        ROW | {"name": "pruned to 10%", "role": "level", "density": 0.1, "compression": 10, "speedup": 9, "mean": 0.92},
        ROW | {"name": "reinit", "role": "control", "density": 0.1, "compression": 10, "speedup": 9, "mean": 0.8},
    ],
    "against_dense": [
        {"name": "pruned to 30%", "difference": -0.01, "low": -0.02, "p_value": 0.2, "verdict": False},
        {"name": "pruned to 10%", "difference": 0.002, "low": -0.004, "p_value": 0.01, "verdict": True},
    ],
    "against_controls": [
        {"control": "reinit", "difference": 0.12, "low": 0.1, "high": 0.14, "wins": 2, "seeds": 2, "verdict": "better"}
    ],
    "latency": [{"name": "dense", "batch": 1, "seconds": 0.002, "low": 0.0019, "high": 0.0021}],
    "layers": [{"tensor": "linear1.weight", "weights": 800, "kept": 80.0, "density": 0.1}],
    "law": {"sentence": "the margin will be passed at 7%"},
    "settings": {"method": "imp", "density": 0.1},
    "runs": {"dense": ["abc"], "pruned": ["def"]},
    "surplus": "0.1.0",
}


@pytest.fixture
def page(tmp_path):
    return Page(write_pruning_report(RESULT, tmp_path, ["explorer.html"]).read_text())


def test_the_summary_answers_for_the_last_level(page):
    (summary,) = page.text("section", id="summary")
    assert "Yes" in summary and "1 of 1" in summary and "100 of 1,000 parameters" in summary


def test_every_table_holds_its_rows(page):
    (accuracy,) = page.text("section", id="accuracy")
    assert "not shown" in accuracy and "The margin will be passed at 7%" in accuracy
    (controls,) = page.text("section", id="controls")
    assert "2 of 2" in controls and "+12.0 points" in controls and "Fresh weights do worse." in controls
    (sizes,) = page.text("section", id="size")
    assert "linear1.weight" in sizes and "2 ms" in sizes
    assert "explorer.html" in page.text("section", id="provenance")[0]


def test_the_curve_has_the_levels_and_a_point_for_each_control(page):
    values = page.specs()["densities"]["data"]["values"]
    assert {(v["series"], round(v["x"], 3)) for v in values} == {("imp", 0.3), ("imp", 0.1), ("reinit", 0.1)}


def test_a_result_with_holes_still_makes_a_page(tmp_path):
    bare = copy.deepcopy(RESULT)
    for name in ("against_controls", "latency", "layers", "law", "sentences"):
        bare[name] = []
    bare["networks"] = [r | {"mean": None} for r in bare["networks"]]
    text = Page(write_pruning_report(bare, tmp_path).read_text()).text("section", id="controls")[0]
    assert "No controls were trained" in text


def test_what_users_named_is_text_and_not_markup(tmp_path):
    hostile = copy.deepcopy(RESULT)
    hostile["network"] = hostile["networks"][3]["name"] = "<script>document.title='owned'</script>"
    text = write_pruning_report(hostile, tmp_path).read_text()
    assert "<script>document.title" not in text and "&lt;script&gt;document.title" in text
