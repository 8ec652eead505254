"""Writes one page per study: what it claims, from its docstring, and what was measured, from docs/results/SLUG.json."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from pages import automodule, cell, table, toctree, write_all

VERDICTS = ("holds", "fails", "undecided")


def said(value: Any) -> str:
    """A measured value as people write it; an estimate with its spread."""
    if isinstance(value, dict) and {"mean", "stderr"} <= value.keys():
        repeats = f" (n = {value['repeats']})" if "repeats" in value else ""
        return f"{said(value['mean'])} ± {said(value['stderr'])}{repeats}"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {said(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(said, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def claims_table(claims: list[dict[str, Any]]) -> str:
    rows = [
        [
            cell(claim["statement"]),
            cell(claim["source"]),
            cell(claim["criterion"]),
            f"**{cell(claim['verdict'])}**",
            cell(said(claim.get("measured", ""))),
        ]
        for claim in claims
    ]
    return table(["claim", "source", "criterion", "verdict", "measured"], rows)


def study_page(slug: str, stored: dict[str, Any] | None, module: str | None, figures: list[str] | None = None) -> str:
    """A study's page; `stored` is its JSON, None where it has not been run, `module` the file that defines it."""
    lines = [f"# {slug}\n", automodule(module, "no-members", "no-index") if module else ""]
    lines += ["## Verdicts\n"]
    if stored is None:
        lines += [f"No result is stored. `surplus study run {slug} --scale laptop` measures it.\n"]
        return "\n".join(lines)
    lines += [claims_table(stored["claims"])]
    lines += [f"![Figure of the study {slug}](../../results/{figure})\n" for figure in figures or []]
    facts = {key: value for key, value in stored.items() if key not in ("slug", "claims")}
    if facts:
        rows = [[cell(key.replace("_", " ")), cell(said(value))] for key, value in facts.items()]
        lines += ["## How it was measured\n", table(["", ""], rows)]
    return "\n".join(lines)


def index_page(stored: dict[str, dict[str, Any] | None]) -> str:
    rows = []
    for slug, result in stored.items():
        counts = Counter(claim["verdict"] for claim in result["claims"]) if result else Counter()
        rows.append([f"[{slug}]({slug}.md)", *(str(counts[verdict]) if result else "" for verdict in VERDICTS)])
    text = (
        "# Studies\n\nA study re-measures what a paper claims, by a criterion that is fixed beforehand. A claim\n"
        "*holds*, *fails*, or stays *undecided* where the interval does not tell. The table counts claims.\n"
    )
    return f"{text}\n{table(['study', *VERDICTS], rows)}\n{toctree(stored)}"


def write(app: Any) -> None:
    from surplus.registry import methods

    results = Path(app.srcdir) / "results"
    modules = {method.name: method.fn.__module__ for method in methods("study")}
    files = {path.stem: json.loads(path.read_text()) for path in results.glob("*.json")}
    stored = {slug: files.get(slug) for slug in sorted(modules.keys() | files.keys())}
    pages = {"index.md": index_page(stored)}
    for slug, result in stored.items():
        figures = sorted(path.name for ending in ("svg", "png") for path in results.glob(f"{slug}*.{ending}"))
        pages[f"{slug}.md"] = study_page(slug, result, modules.get(slug), figures)
    write_all(Path(app.srcdir) / "generated" / "studies", pages)


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
