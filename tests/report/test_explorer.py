"""The explorer's data in Python, and its page in a browser, straight from the disk."""

# ruff: noqa: F811 - a fixture is an argument of the name under which it is imported

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
import torch
from PIL import Image
from tests.report.reading import Page
from tests.report.test_browser import chrome, contrast, narrow, prefer, requests, style  # noqa: F401
from tests.report.test_page import HOSTILE
from torch import nn

from surplus.data import Dataset, Splits
from surplus.errors import InputError
from surplus.landscape.robustness import Variant, occlusion, robustness
from surplus.report import explorer as module
from surplus.report.explorer import explorer, page_data
from surplus.tasks import load, task_from
from surplus.training import fit

pytest.importorskip("jinja2")
KINDS = ("gaussian-blur", "contrast")


@pytest.fixture(scope="module")
def task():
    return load("digits", widths=(24,)).with_recipe(duration="3ep")


@pytest.fixture(scope="module")
def variants(task):
    theta = fit(task, seeds=1).theta[0]
    kept = {d: theta * ~(task.space.prunable & (theta.abs() < theta.abs().quantile(1 - d))) for d in (0.4, 0.1)}
    return {"dense": Variant(theta), **{f"small {d:.0%}": Variant(t, "magnitude", d) for d, t in kept.items()}}


@pytest.fixture(scope="module")
def found(task, variants):
    return robustness(task, variants, corruptions=KINDS, severities=(2, 5), data=module._drawn(task.test, 80, 0))


@pytest.fixture(scope="module")
def data(task, found):
    return page_data(task, found)


@pytest.fixture(scope="module")
def path(task, variants, tmp_path_factory):
    place = tmp_path_factory.mktemp("explorer") / "new" / "page.html"
    return explorer(task, variants, place, corruptions=KINDS, severities=(2, 5), examples=80)


def read(text, kind):
    return np.frombuffer(base64.b64decode(text), kind)


# ---- the data --------------------------------------------------------------------------------------------------------


def test_quantised_numbers_read_back_within_half_a_step(data, found):
    for metric, stored in data["metrics"].items():
        values = getattr(found, metric).numpy()
        step = (stored["high"] - stored["low"]) / 65535
        back = stored["low"] + step * read(stored["words"], "<u2").reshape(values.shape)
        assert np.abs(back - values).max() <= step
    assert np.array_equal(read(data["prediction"], "<u2").reshape(found.prediction.shape), found.prediction.numpy())
    angles = read(data["angles"], np.uint8).reshape(found.angles.shape) * (180 / 255)
    assert np.abs(angles - found.angles.numpy()).max() < 0.36


def test_infinite_margins_become_the_largest_finite_ones():
    stored = module._words(torch.tensor([1.0, 3.0, torch.inf, -torch.inf]))
    assert (stored["low"], stored["high"]) == (1, 3)
    assert read(stored["words"], "<u2").tolist() == [0, 65535, 65535, 0]


def test_occlusion_maps_read_back(data, task, found):
    stored = data["attribution"]
    assert stored["examples"] == list(range(80)) and [p["side"] for p in stored["patches"]] == [1, 2]
    patch = stored["patches"][1]
    scales = read(patch["scales"], "<f4").reshape(3, 80, 3, 1, 1)
    maps = read(patch["values"], np.int8).reshape(3, 80, 3, 4, 4) / 127 * scales
    for v, variant in enumerate(found.variants.values()):
        expected = occlusion(task, variant.theta, found.data, 2)
        for m, metric in enumerate(("angle", "norm", "margin")):
            error = np.abs(maps[v, :, m] - expected[metric].numpy()).max((1, 2))
            assert (error <= scales[v, :, m, 0, 0] / 250).all()


def test_maps_are_for_the_most_fragile_examples_when_there_is_too_much_work(monkeypatch, task, found):
    monkeypatch.setattr(module, "_WORK", 20 * 80 * 3 * (64 * 24 + 240))
    kept = module._attribution(task, found, centred=False)["examples"]
    assert len(kept) == 20
    fragility = found.fragility.mean(0)
    assert fragility[kept].min() >= fragility[[i for i in range(80) if i not in kept]].max()


def test_pictures_lie_on_a_sheet_per_condition_in_order(data, found):
    stored = data["pictures"]
    assert (stored["width"], stored["height"], stored["columns"]) == (8, 8, 9) and len(stored["sheets"]) == 5
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(stored["sheets"][2].split(",")[1]))))
    i = 31
    tile = sheet[i // 9 * 8 :, i % 9 * 8 :][:8, :8]
    assert np.array_equal(tile, (found.inputs[2, i, 0] * 255).round().byte().numpy())


def test_without_room_for_all_pictures_the_clean_ones_stay(monkeypatch, found):
    monkeypatch.setattr(module, "_PICTURES", 10)
    stored = module._pictures(found)
    assert len(stored["sheets"]) == 1 and stored["sheets"][0].startswith("data:image/webp")


def test_large_pictures_are_made_small_and_strange_scales_are_mended():
    tiles = module._tiles(torch.rand(2, 3, 96, 64) * 4 - 2)
    assert tiles.shape == (2, 32, 21, 3) and tiles.dtype == np.uint8


def test_with_many_classes_those_most_often_confused_have_an_axis(found):
    wide = torch.zeros(1, 1, 4, 30)
    labels = torch.tensor([7, 7, 29, 3])
    some = replace(
        found,
        angles=wide,
        prediction=torch.tensor([[[7, 29, 7, 3]]]),
        data=replace(found.data[:4], targets=labels),
    )
    axes = module._axes(some)
    assert len(axes) == 20 and {7, 29} <= set(axes)
    assert module._axes(found) == list(range(10))


def test_the_reference_is_the_densest_network():
    theta = torch.zeros(3)
    assert module._reference({"a": Variant(theta, "x", 0.2), "b": Variant(theta), "c": Variant(theta)}) == 1


def test_a_page_of_the_usual_size_stays_below_five_megabytes(task, variants, tmp_path):
    eight = {f"network {k}": list(variants.values())[k % 3] for k in range(8)}
    five = ("gaussian-noise", "impulse-noise", "gaussian-blur", "contrast", "fog")
    doubled = replace(task, test=task.test[torch.arange(500) % len(task.test)])
    page = explorer(doubled, eight, tmp_path / "page.html", corruptions=five, severities=(3,), examples=500)
    assert page.stat().st_size < 3_000_000


def test_the_page_is_one_file_whose_only_script_is_allowed_by_its_hash(path):
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]
    scripts = [page.texts[k] for k in page.all("script") if "type" not in page.elements[k][1]]
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    assert len(scripts) == 1
    policy = next(a["content"] for a in page.attributes("meta") if a.get("http-equiv"))
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy and "default-src 'none'" in policy
    for tag, attributes in page.elements:
        for name in {"src", "href"} & attributes.keys():
            assert attributes[name].startswith(("#", "data:")), (tag, attributes)
    assert not re.search(r"https?:", text.replace("http://www.w3.org/2000/svg", ""))


def test_every_control_has_a_label_and_every_label_its_target(path):
    page = Page(path.read_text(encoding="utf-8"))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a} <= set(ids)


def test_a_number_of_examples_below_one_is_refused(task, variants, tmp_path):
    with pytest.raises(InputError, match="at least 1; got 0"):
        explorer(task, variants, tmp_path / "page.html", examples=0)


# ---- the page in a browser -------------------------------------------------------------------------------------------


def visit(chrome, path):
    from selenium.webdriver.support.ui import WebDriverWait

    chrome.get(path.as_uri())
    drawn = "return document.documentElement.dataset.drawn === 'yes'"
    WebDriverWait(chrome, 60).until(lambda c: c.execute_script(drawn))


def js(chrome, expression, *arguments):
    return chrome.execute_script(f"return {expression}", *arguments)


def choose(chrome, menu, value):
    from selenium.webdriver.support.ui import Select

    Select(chrome.find_element("id", menu)).select_by_value(str(value))


def drag(chrome, node, *steps, offset=(0, 0)):
    from selenium.webdriver.common.action_chains import ActionChains

    chrome.execute_script("arguments[0].scrollIntoView({block: 'center'})", node)
    moves = ActionChains(chrome).move_to_element_with_offset(node, *offset).click_and_hold()
    for x, y in steps:
        moves = moves.move_by_offset(x, y)
    moves.release().perform()


def examples(chrome, selector):
    found = js(chrome, "[...document.querySelectorAll(arguments[0])].map(n => n.dataset.example)", selector)
    return {int(i) for i in found}


def number(cell):
    """The accuracy at the start of a cell, which the change follows."""
    return float(re.match(r"\d+\.\d", cell).group())


def table(chrome):
    rows = "[...document.querySelectorAll('#table tbody tr')].map(r => [...r.children].map(c => c.textContent))"
    return js(chrome, rows)


@pytest.mark.browser
def test_six_views_are_drawn_the_console_is_silent_and_nothing_is_asked_for(chrome, path):
    visit(chrome, path)  # the browser's own first page has been asked for by now
    chrome.get_log("performance")
    visit(chrome, path)
    assert js(chrome, "document.querySelectorAll('section').length") == 6
    assert len(table(chrome)) == 3
    assert js(chrome, "document.querySelectorAll('#similarity .node').length") == 15
    assert js(chrome, "document.querySelectorAll('#similarity .edge').length") == 14
    assert len(examples(chrome, "#local circle.mark[data-example]")) == 80
    assert len(examples(chrome, "#global path.line")) == 80
    assert js(chrome, "document.querySelectorAll('#global .handle').length") == 13
    assert js(chrome, "document.querySelectorAll('#attribution .maps svg').length") == 3
    assert len(examples(chrome, "#sample .grid button")) == 36
    assert chrome.get_log("browser") == []
    asked = requests(chrome)
    assert path.as_uri() in asked and [u for u in asked if u != path.as_uri() and not u.startswith("data:")] == []


@pytest.mark.browser
def test_the_table_shows_the_measured_accuracies(chrome, path, found):
    visit(chrome, path)
    for shown, row in zip(table(chrome), found.table(), strict=True):
        for text, key in zip(shown[3:], ("clean", *KINDS, "robust"), strict=True):
            assert number(text) == pytest.approx(100 * row[key], abs=0.051), (shown, row)


@pytest.mark.browser
def test_a_click_on_a_column_sorts_the_table_and_another_turns_it_round(chrome, path):
    visit(chrome, path)
    for expected in (lambda v: sorted(v, reverse=True), sorted):
        chrome.find_element("css selector", "[data-key='sort kind contrast']").click()
        values = [number(row[5]) for row in table(chrome)]
        assert values == expected(values) and len(set(values)) > 1
    assert js(chrome, "document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == "ascending"
    assert js(chrome, "document.activeElement.dataset.key") == "sort kind contrast"


@pytest.mark.browser
def test_a_brush_on_an_axis_selects_the_same_examples_in_every_view(chrome, path, found):
    visit(chrome, path)
    before = table(chrome)
    axis = chrome.find_element("css selector", "#global .handle[data-axis=margin]")
    drag(chrome, axis, (0, 120), offset=(0, 60))  # the lower part
    kept = examples(chrome, "#global path.line.in")
    assert 0 < len(kept) < 80
    margins = found.margin[0, 0]
    assert margins[sorted(kept)].max() <= margins[[i for i in range(80) if i not in kept]].min() + 1e-3
    assert examples(chrome, "#local circle.mark.in") == kept
    assert examples(chrome, "#sample .grid button") <= kept
    assert f"{len(kept)} of 80" in js(chrome, "document.querySelector('#count').textContent")
    right = float(found.correct[1, 0, sorted(kept)].double().mean())
    assert table(chrome) != before and number(table(chrome)[1][3]) == pytest.approx(100 * right, abs=0.051)
    chrome.find_element("id", "clear").click()
    assert len(examples(chrome, "#local circle.mark.in")) == 80 and table(chrome) == before


@pytest.mark.browser
def test_a_loop_around_marks_selects_them_everywhere(chrome, path):
    visit(chrome, path)
    mark = chrome.find_element("css selector", "#local circle.mark[data-example]")
    example = int(mark.get_attribute("data-example"))
    drag(chrome, mark, (80, 0), (0, 80), (-80, 0), (0, -70), offset=(-40, -40))
    kept = examples(chrome, "#local circle.mark.in")
    assert 0 < len(kept) < 80
    assert examples(chrome, "#global path.line.in") == kept
    boxes = js(
        chrome,
        "[...document.querySelectorAll('#local circle.mark.in')].map(n => [n.cx.baseVal.value, n.cy.baseVal.value])",
    )
    assert max(b[0] for b in boxes) - min(b[0] for b in boxes) <= 81
    assert example in kept


@pytest.mark.browser
def test_enter_on_an_axis_takes_a_quarter_the_other_quarter_and_lets_go(chrome, path):
    from selenium.webdriver.common.keys import Keys

    visit(chrome, path)
    counts = []
    chrome.execute_script("document.querySelector('#global .handle[data-axis=norm]').focus()")
    for _ in range(3):
        chrome.switch_to.active_element.send_keys(Keys.ENTER)
        counts.append(len(examples(chrome, "#global path.line.in")))
    assert counts[0] < 80 and counts[1] < 80 and counts[2] == 80 and counts[0] != counts[1]


@pytest.mark.browser
def test_unpicking_a_network_and_a_corruption_takes_them_from_the_other_views(chrome, path):
    visit(chrome, path)
    chrome.find_element("css selector", "[data-key='model 1']").click()
    assert js(chrome, "document.querySelectorAll('#similarity .node.faint').length") == 5
    assert js(chrome, "document.querySelectorAll('#attribution .maps svg').length") == 2
    assert "small 40%" not in js(chrome, "document.querySelector('#model-A').textContent")
    assert js(chrome, "document.querySelector('#sample .said').textContent.split('·').length") == 2
    chrome.find_element("css selector", "[data-key='pick contrast']").click()
    assert js(chrome, "document.querySelectorAll('#similarity .node.faint').length") == 5 + 2 * 2
    assert "contrast" not in js(chrome, "document.querySelector('#condition-A').textContent")


@pytest.mark.browser
def test_points_and_menus_set_what_is_compared(chrome, path, found):
    visit(chrome, path)
    for node in ("2 4", "1 0"):
        script = "document.querySelector(arguments[0]).dispatchEvent(new MouseEvent('click'))"
        chrome.execute_script(script, f"[data-point='{node}']")
    chosen = js(
        chrome, "['model-A', 'condition-A', 'model-B', 'condition-B'].map(i => document.getElementById(i).value)"
    )
    assert chosen == ["2", "4", "1", "0"]
    wrong = set((~found.correct[2, 4]).nonzero()[:, 0].tolist())
    assert examples(chrome, "#local circle.mark.wrong[data-example]") == wrong
    choose(chrome, "show", "lost")
    lost = set((found.correct[2, 4] & ~found.correct[1, 0]).nonzero()[:, 0].tolist())
    assert examples(chrome, "#global path.line") == lost
    choose(chrome, "show", "all")
    choose(chrome, "klass", 3)
    assert examples(chrome, "#local circle.mark[data-example]") == set(
        (found.data.targets == 3).nonzero()[:, 0].tolist()
    )
    choose(chrome, "model-B", -1)
    assert js(chrome, "document.querySelectorAll('#local .plot .arrow').length") == 0


@pytest.mark.browser
def test_a_click_on_a_picture_shows_its_maps_by_metric_patch_and_network(chrome, path):
    visit(chrome, path)
    picture = chrome.find_elements("css selector", "#sample .grid button")[5]
    i = picture.get_attribute("data-example")
    picture.click()
    picture = chrome.find_elements("css selector", "#sample .grid button")[5]
    shown = js(chrome, "document.querySelector('#attribution-note').textContent")
    assert shown.startswith(picture.find_element("css selector", "canvas").get_attribute("aria-label"))
    focused = "[...document.querySelectorAll('.mark.focus, .line.focus')].map(n => n.dataset.example)"
    assert js(chrome, focused) == [i, i]
    assert js(chrome, "document.querySelectorAll('#attribution .maps svg')[0].children.length") == 64
    strengths = "[...document.querySelectorAll('#attribution .maps svg rect')].map(n => n.getAttribute('fill-opacity'))"
    margin = js(chrome, strengths)
    assert max(map(float, margin)) == pytest.approx(0.95)
    choose(chrome, "metric", 0)
    assert js(chrome, strengths) != margin
    choose(chrome, "patch", 1)
    assert js(chrome, "document.querySelectorAll('#attribution .maps svg')[0].children.length") == 16
    choose(chrome, "only", 2)
    assert js(chrome, "document.querySelectorAll('#attribution .maps svg').length") == 1


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 800, 1400])
def test_nothing_needs_scrolling_sideways(chrome, path, width):
    narrow(chrome, width)
    visit(chrome, path)
    assert js(chrome, "document.documentElement.scrollWidth") == width


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_marks_stand_out_in_light_and_dark(chrome, path, scheme):
    prefer(chrome, scheme)
    visit(chrome, path)
    page = style(chrome, "body", "background-color")
    for selector in (".note", ".said b", "#table td", ".count", "select"):
        assert contrast(style(chrome, selector, "color"), page) >= 4.5, selector
    assert contrast(style(chrome, ".plot text", "fill"), page) >= 4.5
    assert contrast(style(chrome, ".line.wrong", "stroke"), page) >= 3


@pytest.mark.browser
def test_names_that_try_to_break_out_do_not(chrome, task, variants, tmp_path):
    classes = (HOSTILE * 2)[:10]
    parts = {n: replace(getattr(task, n), classes=tuple(classes)) for n in ("train", "test")}
    ids = np.array([f"{HOSTILE[2]}{i}" for i in range(len(task.test))])
    parts["test"] = replace(parts["test"], ids=ids)
    named = {name: replace(v, method=name) for name, v in zip(HOSTILE, variants.values(), strict=False)}
    page = explorer(
        replace(task, name=HOSTILE[1], **parts), named, tmp_path / "page.html", corruptions=("contrast",), examples=40
    )
    visit(chrome, page)
    assert chrome.title == f"Explorer of {HOSTILE[1]}"
    assert js(chrome, "document.scripts.length") == 2 and js(chrome, "document.images.length") == 0
    assert HOSTILE[0][:39] in js(chrome, "document.querySelector('#table').textContent")
    assert chrome.get_log("browser") == []


@pytest.mark.browser
def test_a_table_shows_its_values_and_says_why_it_has_no_maps(chrome, tmp_path):
    flat = load("xor-clusters", widths=(8,)).with_recipe(duration="2ep")
    page = explorer(flat, {"dense": Variant(fit(flat, seeds=1).theta[0])}, tmp_path / "page.html", examples=50)
    visit(chrome, page)
    assert "rows of a table, so there is nothing to cover" in js(
        chrome, "document.querySelector('#attribution').textContent"
    )
    assert examples(chrome, "#sample tr[data-example]") <= set(range(50))
    shown = js(
        chrome, "[...document.querySelectorAll('#sample .number')].map(n => Number(n.textContent.replace('−', '-')))"
    )
    values = module._rows(module._drawn(flat.test, 50, 0))["values"]
    assert shown[:2] in [[float(f"{x:.3g}") for x in row] for row in values] and len(shown) == 2 * 36
    assert chrome.get_log("browser") == []


@pytest.mark.browser
def test_colour_pictures_without_room_say_that_they_are_the_clean_ones(chrome, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_PICTURES", 10)
    monkeypatch.setattr(module, "_WORK", 1)
    g = torch.Generator().manual_seed(0)
    images = Dataset.of(torch.rand(40, 3, 16, 16, generator=g), torch.arange(40) % 4)
    task = task_from(Splits("colours", images, images), "mlp", widths=(8,))
    page = explorer(
        task, {"start": Variant(task.space.init(0))}, tmp_path / "page.html", corruptions=("fog",), severities=(5,)
    )
    visit(chrome, page)
    choose(chrome, "condition-A", 1)
    assert "the pictures are the clean ones" in js(chrome, "document.querySelector('#sample-note').textContent")
    assert "the 1 most fragile examples" in js(chrome, "document.querySelector('#attribution-note').textContent")
    chrome.find_elements("css selector", "#sample .grid button")[-1].click()
    assert "There is no map of" in js(chrome, "document.querySelector('#attribution-note').textContent")
    assert chrome.get_log("browser") == []


@pytest.mark.browser
def test_one_network_on_clean_texts_alone_still_has_a_page(chrome, tmp_path):
    data = Dataset.of(torch.arange(40)[:, None] % torch.tensor([2, 3, 5]), torch.arange(40) % 2, kind="text")
    net = lambda: nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(9, 2))
    task = task_from(Splits("words", data, data), net)
    page = explorer(task, {"start": Variant(task.space.init(0))}, tmp_path / "page.html")
    visit(chrome, page)
    assert js(chrome, "document.querySelectorAll('#similarity .node').length") == 1
    assert "no images, so there is nothing to cover" in js(chrome, "document.querySelector('#attribution').textContent")
    assert len(examples(chrome, "#sample tr[data-example]")) == 36
    chrome.find_element("id", "next").click()
    assert len(examples(chrome, "#sample tr[data-example]")) == 4
    assert chrome.get_log("browser") == []
