from __future__ import annotations

import html
import math
import re
import sys
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from tests.report.reading import Page
from tests.report.sample import png, sample, thumbnails

from surplus.errors import InputError, MissingExtra
from surplus.report import page as module
from surplus.report import write_report
from surplus.report.page import render

pytest.importorskip("jinja2")
vl_convert = pytest.importorskip("vl_convert")

HOSTILE = [
    "<script>document.title='owned'</script>",
    "</script><script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "'); alert(1); ('",
    "{{ 7 * 7 }} & <b>bold</b>",
    "](javascript:alert(1)) \u2028 \\",
]


@pytest.fixture(scope="module")
def text() -> str:
    return render(sample(), thumbnails(sample()))


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def hostile() -> dict[str, Any]:
    """Everything that a user or a file may name bears a name that tries to break out."""
    result = sample()
    result["data"]["classes"] = (HOSTILE * 2)[:10]
    result["data"]["name"] = result["name"] = HOSTILE[0]
    result["network"]["name"] = HOSTILE[1]
    for suspect, name in zip(result["labels"]["suspects"], HOSTILE, strict=False):
        suspect["id"] = name
    for score, name in zip(result["examples"]["scores"], HOSTILE, strict=True):
        score["name"] = score["paper"] = name
    result["examples"]["correlation"]["names"] = HOSTILE
    for curve, name in zip(result["weights"]["curves"], HOSTILE, strict=False):
        curve["method"] = name
    result["recipe"][HOSTILE[1]] = HOSTILE[2]
    result["labels"]["note"] = HOSTILE[2]
    result["left_out"][0]["why"] = HOSTILE[1]
    result["provenance"]["runs"][0]["key"] = HOSTILE[1]
    return result


def few() -> dict[str, Any]:
    """The sample with only a few examples shown."""
    result = sample()
    for part, key in (("labels", "suspects"), ("examples", "hardest"), ("examples", "easiest")):
        del result[part][key][3:]
    return result


def paths(x: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a result, lists by their first entry."""
    entries = x.items() if isinstance(x, dict) else list(enumerate(x))[:1] if isinstance(x, list) else []
    for key, value in entries:
        yield (*path, key)
        yield from paths(value, (*path, key))


def test_the_page_is_written_to_index_html_and_replaces_the_last_one(tmp_path):
    folder = tmp_path / "new" / "audit"
    path = write_report(sample(), folder)
    assert path == folder / "index.html"
    path.write_text("old")
    assert write_report(sample(), folder).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [p.name for p in folder.iterdir()] == ["index.html"]


def test_the_page_with_its_libraries_and_pictures_stays_small(text):
    assert 500_000 < len(text.encode()) < 1_600_000


def test_too_many_pictures_are_left_out_with_a_word_rather_than_making_a_huge_page():
    result = sample()
    heavy = {str(s["id"]): b"\x89PNG" + bytes(60_000) for s in result["labels"]["suspects"]}
    text = render(result, heavy)
    assert len(text.encode()) < 2_500_000
    assert "more pictures are left out to keep this page small" in text


def test_nothing_on_the_page_points_outside_it(page):
    for tag, attributes in page.elements:
        for name in {"src", "href", "srcset", "action", "poster", "data", "xlink:href"} & attributes.keys():
            assert attributes[name].startswith(("#", "data:")), (tag, attributes)
        assert "url(" not in attributes.get("style", "")
    (style,) = page.text("style")
    assert "url(" not in style and "@import" not in style and "http" not in style
    assert not re.search(r"https?:", str(page.specs()))


def test_every_link_inside_the_page_has_its_target(page):
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    targets = [a["href"][1:] for a in page.attributes("a")]
    targets += [a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a]
    assert targets and set(targets) <= set(ids)


def test_the_policy_lets_no_script_run_but_the_pages_own_two(page):
    (policy,) = [a["content"] for a in page.attributes("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy and "connect-src" not in policy
    scripts = [page.texts[k] for k in page.all("script") if "type" not in page.elements[k][1]]
    hashes = [f"'sha256-{b64encode(sha256(s.encode()).digest()).decode()}'" for s in scripts]
    assert len(hashes) == 2
    assert f"script-src {' '.join(hashes)};" in policy


def test_headings_go_down_one_level_at_a_time_from_one_title(page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert page.text("h2") == ["Summary", "Labels", "Examples", "Weights", "Directions and fit partial", "Provenance"]


def test_landmarks_language_and_title_are_there(page):
    assert page.attributes("html")[0]["lang"] == "en"
    assert page.text("title") == ["Audit of digits"]
    assert [len(page.all(tag)) for tag in ("header", "nav", "main", "footer")] == [1, 1, 1, 1]
    assert page.attributes("nav")[0]["aria-label"]
    assert all("aria-labelledby" in a for a in page.attributes("section"))


def test_every_table_has_a_caption_and_heads_with_a_scope_and_can_be_scrolled_by_key(page):
    tables = len(page.all("table"))
    assert tables == len(page.all("caption")) == len(page.all("div", role="region", tabindex="0"))
    assert all(page.text("caption"))
    assert {a.get("scope") for a in page.attributes("th")} == {"col", "row"}


def test_every_chart_says_what_it_shows_and_has_its_numbers_in_a_table(page):
    charts = page.all("div", role="img")
    assert len(charts) == len(page.specs()) == len(page.all("figure")) == 10
    assert {f"chart-{id}" for id in page.specs()} == {page.elements[k][1]["id"] for k in charts}
    for figure in page.all("figure"):
        inside = page.texts[figure]
        assert "The numbers as a table" in inside
    for k in charts:
        assert len(page.elements[k][1]["aria-label"]) > 20


def test_every_chart_is_valid_vega_lite(page):
    for spec in page.specs().values():
        assert vl_convert.vegalite_to_vega(spec)["marks"]


def test_every_picture_has_its_words(page):
    alts = [a["alt"] for a in page.attributes("img")]
    assert len(alts) == 100 + 24 + 24
    assert alts[1] == "example 17, labelled 1, suggested 8"
    assert all(re.fullmatch(r"example \d+, labelled \d(, suggested \d)?", alt) for alt in alts)


def test_the_summary_answers_each_question_with_a_number_and_its_interval(page):
    (summary,) = page.text("section", id="summary")
    for words in (
        "About 23 of 1,438",
        "between 15 and 33",
        "1.6% (1.1 to 2.3%)",
        "40% can go",
        "863 examples",
        "lower bound of −0.5 points",
        "10% of the weights",
        "96.9% (96.3 to 97.4%)",
        "2.7× smaller, 1.8× faster",
        "About 40 of 17,226",
        "2.9% → 2.1% error",
        "2.1% (1.7 to 2.6%)",
        "memorization: it needs 400 runs",
    ):
        assert words in summary, words


def test_the_margin_is_explained_where_it_is_used(page):
    for section in ("examples", "weights"):
        assert "by more than 1 point of accuracy, the non-inferiority margin" in page.text("section", id=section)[0]


def test_the_pruning_law_is_told_drawn_and_checked_level_by_level(page):
    (section,) = page.text("section", id="weights")
    assert "After 3 levels, down to 10.0% of the weights, the pruning law expects that 6.1%" in section
    assert "Measured, the mean loss passes 1 point at 5.7%" in section
    assert "law fitted to the first 3 levels" in section
    k = page.text("caption").index("The pruning law, level by level")
    assert "5% predicted 96.4% 95.4 to 97.2% 96.4%" in page.text("table")[k]
    drawn = [row for row in page.specs()["densities"]["data"]["values"] if row["law"]]
    assert len(drawn) == 8 and all(row["low"] is None for row in drawn)


def test_without_a_law_the_reason_is_said_and_nothing_is_drawn():
    result = sample()
    result["weights"]["law"] = {"sentence": "No pruning law could be fitted: too few levels.", "points": []}
    page = Page(render(result))
    assert "No pruning law could be fitted: too few levels." in page.text("section", id="weights")[0]
    assert "The pruning law, level by level" not in page.text("caption")
    assert not any(row["law"] for row in page.specs()["densities"]["data"]["values"])


def test_what_was_not_shown_is_not_claimed():
    result = sample()
    result["examples"]["recommendation"] |= {"verdict": False, "low": -0.018, "p_value": 0.31}
    result["weights"]["ticket"] |= {"verdict": False}
    result["timing"]["latency"]["after_ms"] |= {"high": 0.3}
    result["directions"]["intrinsic_dimension"]["dimension"] = None
    result["directions"]["learning_curve"]["twice"]["high"] = 0.031
    (summary,) = Page(render(result)).text("section", id="summary")
    assert "can go The" not in summary and "40% can go" not in summary
    assert "None, as far as shown" in summary and "not above the margin" in summary
    assert "None below 100%, as far as shown" in summary
    assert "2.7× smaller, not shown to be faster" in summary
    assert "More than 320 of 17,226" in summary
    assert "does not exclude today's error" in summary


@pytest.mark.parametrize("status", ["complete", "interrupted"])
def test_a_section_that_was_left_out_says_why(status):
    result = sample() | {"status": status}
    result["weights"] = {"status": "left out", "note": "the budget was spent"}
    result["directions"] = None
    result["left_out"] = [{"part": "directions", "what": "everything", "why": "asked for with --skip"}]
    page = Page(render(result))
    assert "Left out. The budget was spent." in page.text("section", id="weights")[0]
    assert "Asked for with --skip." in page.text("section", id="directions")[0]
    assert ("was interrupted" in page.words()) == (status == "interrupted")
    assert "Not measured" in page.text("section", id="summary")[0]


def test_a_page_can_be_made_of_nothing_but_a_name():
    page = Page(render({"name": "digits", "status": "interrupted"}))
    assert page.specs() == {}
    assert page.words().count("The audit was interrupted before it got here.") >= 4


@pytest.mark.parametrize("absent", [None, "removed"])
def test_any_part_may_be_absent_or_null(absent, monkeypatch):
    monkeypatch.setattr(module, "_libraries", str)  # hundreds of pages, quicker without the charts' libraries
    for path in paths(few()):
        result = few()
        place = result
        for key in path[:-1]:
            place = place[key]
        if absent is None or isinstance(place, list):
            place[path[-1]] = None
        else:
            del place[path[-1]]
        words = re.sub(r"<[^>]*>", " ", render(result).split("<body>")[1])
        assert not re.search(r"\bNone\b(?! below|, as)|\bnan\b|\binf\b|\bNaN\b", words), path


def test_numbers_that_are_all_unknown_leave_a_page_without_charts():
    def blank(x: Any) -> Any:
        if isinstance(x, dict):
            return {key: blank(value) for key, value in x.items()}
        if isinstance(x, list):
            return [blank(value) for value in x]
        return math.nan if isinstance(x, float) else None if type(x) is int else x

    page = Page(render(blank(sample())))
    assert set(page.specs()) <= {"noise", "correlation"}
    assert not re.search(r"\bnan\b|\bNone\b(?! below|, as)", page.words())


def test_names_that_try_to_break_out_are_shown_as_they_are():
    result = hostile()
    text = render(result, {HOSTILE[2]: png(np.zeros((8, 8)))})
    page = Page(text)
    assert len(page.all("script")) == 3
    assert not page.all("b")
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert all(a["src"].startswith("data:image/png;base64,") for a in page.attributes("img"))
    assert "7 * 7" in page.words() and "49" not in page.text("h1")[0]
    assert page.text("title") == [f"Audit of {HOSTILE[0]}"]
    assert html.escape(HOSTILE[1], quote=True).replace("&#x27;", "&#39;") in text
    json_block = text.split('id="specs">')[1].split("</script>")[0]
    assert "<" not in json_block
    assert HOSTILE[1] in str(page.specs()["densities"])


def test_tabular_suspects_are_shown_with_their_features():
    result = sample()
    result["data"]["kind"] = "table"
    rows = {str(s["id"]): {"length": 5.1, "<width>": 3} for s in result["labels"]["suspects"][:5]}
    page = Page(render(result, rows=rows))
    assert not page.all("img")
    k = page.text("caption").index("Feature values of the suspects")
    assert "Example length <width> 0 5.1 3 17 5.1 3" in page.text("table")[k]


def test_a_class_number_is_shown_by_its_name_and_a_name_as_itself():
    result = sample()
    result["data"]["classes"] = [f"digit {k}" for k in range(10)]
    result["labels"]["suspects"] = [{"id": 4, "label": 7, "suggested": "seven", "mislabel_probability": 0.5}]
    page = Page(render(result, {"4": b"\x89PNG"}))
    assert page.attributes("img")[0]["alt"] == "example 4, labelled digit 7, suggested seven"


def test_a_matrix_of_very_many_classes_becomes_its_largest_confusions():
    result = sample()
    n = 60
    noise = [[0.99 if i == j else 0.0 for j in range(n)] for i in range(n)]
    noise[3][41] = 0.01
    result["data"]["classes"] = [f"c{k}" for k in range(n)]
    result["labels"]["noise_matrix"] = noise
    page = Page(render(result))
    assert "noise" not in page.specs()
    assert "c3 c41 1.0%" in page.text("section", id="labels")[0]


def test_a_test_error_of_zero_has_no_logarithm_so_the_axis_is_linear():
    result = sample()
    result["directions"]["learning_curve"]["points"][-1]["error"]["mean"] = 0.0
    spec = Page(render(result)).specs()["learning"]
    scales = [layer["encoding"]["y"]["scale"] for layer in spec["layer"]]
    assert all("type" not in scale for scale in scales)


def test_the_result_is_left_as_it_was():
    result = sample()
    render(result, thumbnails(result))
    assert result == sample()


def test_a_missing_jinja_names_the_extra(monkeypatch):
    module._environment.cache_clear()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtra, match=r"the HTML report needs Jinja2.*surplus\[report\]"):
        render(sample())


def test_a_missing_vl_convert_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(MissingExtra, match=r"needs vl-convert-python.*surplus\[report\]"):
        module._libraries.__wrapped__()


def test_a_result_that_is_no_mapping_is_refused(tmp_path):
    with pytest.raises(InputError, match="a mapping; got list"):
        write_report([1, 2], tmp_path)


def test_labels_that_look_all_right_are_said_to_be_so():
    result = sample()
    result["labels"]["mislabeled"] = {"mean": 0.01, "low": 0.0, "high": 0.2, "repeats": 10}
    for suspect in result["labels"]["suspects"]:
        suspect["mislabel_probability"] = 1e-6
    page = Page(render(result, thumbnails(result)))
    assert "Next to none of 1,438" in page.text("section", id="summary")[0]
    assert "No suspect is more likely wrong than right" in page.text("section", id="labels")[0]
    assert "92 more" in page.text("summary")


def test_a_network_that_became_slower_is_said_to_be_slower():
    result = sample()
    result["timing"]["latency"]["after_ms"] = {"mean": 0.428, "low": 0.41, "high": 0.44, "repeats": 30}
    assert "2.7× smaller, 2.0× slower" in Page(render(result)).text("section", id="summary")[0]
