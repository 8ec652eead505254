"""Part 1 of an audit: which labels look wrong."""

from __future__ import annotations

from typing import Any

import torch

from surplus.audit.bench import Bench, accuracy_summary, number
from surplus.audit.ensemble import Ensemble
from surplus.examples.labels import LabelCheck, held_out_log_probabilities

_TOPS = (10, 30, 100, 300, 1000, 3000, 10_000)
_LISTED = 100


def labels_part(bench: Bench, ensemble: Ensemble, check: LabelCheck) -> dict[str, Any]:
    """Suspects, expected precision and noise matrix, as the report reads them."""
    data, ranking = bench.task.train, check.ranking()
    expected = float(check.probability.sum())
    spread = _count_interval(check)
    return {
        "status": "done",
        "note": _note(ensemble),
        "held_out_accuracy": _held_out_accuracy(ensemble),
        "mislabeled": {
            "mean": expected,
            "low": spread[0],
            "high": spread[1],
            "stderr": None,
            "repeats": _readers(ensemble),
        },
        "rate": {
            "mean": number(check.probability.mean()),
            "low": spread[0] / len(data),
            "high": spread[1] / len(data),
            "stderr": None,
            "repeats": _readers(ensemble),
        },
        "precision": [_precision(check, k) for k in _tops(expected, len(data))],
        "noise_matrix": [[number(v) for v in row] for row in check.transition],
        "signals": [{"name": k, "weight": number(w)} for k, w in check.weights.items()],
        "suspects": [suspect(bench, check, int(i)) for i in ranking[:_LISTED]],
    }


def suspect(bench: Bench, check: LabelCheck, i: int) -> dict[str, Any]:
    """One row of the list: id, label, suggested label, probability."""
    data = bench.task.train
    return {
        "id": data.ids[i].item(),
        "label": data.classes[int(data.targets[i])],
        "suggested": data.classes[int(check.suggested[i])],
        "mislabel_probability": round(float(check.probability[i]), 6),
    }


def _tops(expected: float, n: int) -> list[int]:
    return sorted({k for k in (*_TOPS, round(expected)) if 0 < k <= n and k <= max(10, 3 * expected)})


def _precision(check: LabelCheck, top: int) -> dict[str, Any]:
    e = check.expected_precision(top)
    mean, error = float(e.mean), float(e.stderr.nan_to_num(0))
    return {"top": top, "precision": mean, "low": max(0.0, mean - 1.96 * error), "high": min(1.0, mean + 1.96 * error)}


def _count_interval(check: LabelCheck) -> tuple[float, float]:
    """Interval of the number of wrong labels: that of their estimated share, and which examples they happen to be."""
    p, n = check.probability.double(), len(check.probability)
    width = 1.96 * (float((p * (1 - p)).sum()) + (n * float(check.rate.stderr)) ** 2) ** 0.5
    return max(0.0, float(p.sum()) - width), float(p.sum()) + width


def _held_out_accuracy(ensemble: Ensemble) -> dict[str, Any]:
    """Agreement of the held-out ensemble with the labels as given."""
    log_p = held_out_log_probabilities(ensemble.outputs, ensemble.trained_on)
    held = ~log_p[:, 0].isnan()
    right = (log_p.argmax(1) == ensemble.task.train.targets)[held]
    return accuracy_summary(right.float()[None]) | {"repeats": len(ensemble.outputs)}


def _readers(ensemble: Ensemble) -> int:
    return len(torch.cat(ensemble.shares)) + sum(len(r) for r in ensemble.cleaned)


def _note(ensemble: Ensemble) -> str:
    plain, cleaned = len(torch.cat(ensemble.shares)), sum(len(r) for r in ensemble.cleaned)
    text = f"{plain} networks trained on random shares of the data; each reads only examples that it never saw"
    return text + (
        f", in the end by {cleaned} more that were trained without the first ones' suspects." if cleaned else "."
    )
