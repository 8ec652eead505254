"""A result as an audit of the digits would leave it, made from formulas: realistic in shape, invented in value."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

STUDENT = 2.776  # five seeds


def estimate(mean: float, stderr: float = 0.002, repeats: int = 5) -> dict[str, Any]:
    return {
        "mean": mean,
        "low": mean - STUDENT * stderr,
        "high": mean + STUDENT * stderr,
        "stderr": stderr,
        "repeats": repeats,
    }


def decay(key: str, xs: list[float], full: float, half: float, power: float) -> list[dict[str, Any]]:
    points = []
    for x in xs:
        mean = full - (full - 0.1) * (half / (half + x)) ** power * (1 - x) ** 0.5
        stderr = 0.001 + 0.02 * (full - mean)
        values = [mean + stderr * k for k in (-2, -1, 0, 1, 2)]
        points.append({key: x, "accuracy": estimate(mean, stderr), "values": values})
    return points


def labels() -> dict[str, Any]:
    noise = [[0.984 if i == j else 0.0 for j in range(10)] for i in range(10)]
    for i, j, v in ((1, 8, 0.01), (3, 9, 0.02), (4, 7, 0.008), (5, 3, 0.014), (8, 1, 0.03), (9, 3, 0.018)):
        noise[i][j] = v
    return {
        "status": "done",
        "note": "",
        "held_out_accuracy": estimate(0.9641),
        "mislabeled": {"mean": 23.4, "low": 15.1, "high": 33.0, "stderr": 4.4, "repeats": 10},
        "rate": {"mean": 0.0163, "low": 0.0105, "high": 0.0229, "stderr": 0.003, "repeats": 10},
        "precision": [
            {"top": k, "precision": 0.98 - 0.0042 * k, "low": 0.93 - 0.0052 * k, "high": min(1.0, 1.0 - 0.003 * k)}
            for k in (5, 10, 20, 50, 100)
        ],
        "noise_matrix": noise,
        "signals": [
            {"name": "held-out-margin", "weight": 0.52, "agreement": 0.91},
            {"name": "aum", "weight": 0.31, "agreement": 0.84},
            {"name": "forgetting", "weight": 0.17, "agreement": 0.55},
        ],
        "suspects": [
            {
                "id": 17 * k % 1438,
                "label": k % 10,
                "suggested": (3 * k + 5) % 10,
                "mislabel_probability": 0.985 * 0.97**k,
            }
            for k in range(100)
        ],
    }


def examples() -> dict[str, Any]:
    xs = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    names = ["el2n", "aum", "forgetting", "memorization", "kernel-density", "learning-speed"]
    matrix = [[round((0.9 - 0.22 * abs(i - j)) if i != j else 1.0, 3) for j in range(6)] for i in range(6)]
    papers = [
        "Paul et al. 2021",
        "Pleiss et al. 2020",
        "Toneva et al. 2019",
        "Feldman & Zhang 2020",
        "",
        "Jiang et al. 2021",
    ]
    return {
        "status": "done",
        "note": "",
        "scores": [
            {"name": n, "paper": p, "high": "hard", "reliability": 0.95 - 0.07 * k, "mean": 0.1 * k, "repeats": 10}
            for k, (n, p) in enumerate(zip(names, papers, strict=True))
        ],
        "correlation": {"names": names, "matrix": matrix},
        "full": estimate(0.9712),
        "curves": [
            {"rule": "hardest", "score": "el2n", "points": decay("fraction", xs, 0.9712, 0.14, 3.4)},
            {"rule": "moderate", "score": "el2n", "points": decay("fraction", xs, 0.9712, 0.10, 2.2)},
            {"rule": "coverage", "score": "aum", "points": decay("fraction", xs, 0.9712, 0.05, 2.4)},
            {"rule": "random", "score": None, "points": decay("fraction", xs, 0.9712, 0.05, 1.7)},
        ],
        "recommendation": {
            "fraction": 0.6,
            "rule": "coverage (aum)",
            "kept": 863,
            "difference": -0.0008,
            "low": -0.0047,
            "margin": 0.01,
            "p_value": 0.0021,
            "verdict": True,
            "sentence": "Coverage sampling over AUM keeps 60% of the examples and costs 0.1 points of accuracy, at most"
            " 0.5 points at 95% confidence",
        },
        "hardest": [{"id": 31 * k % 1438, "label": k % 10} for k in range(24)],
        "easiest": [{"id": 71 * k % 1438, "label": k % 10} for k in range(24)],
    }


def weights() -> dict[str, Any]:
    xs = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
    return {
        "status": "done",
        "note": "",
        "dense": estimate(0.9712),
        "curves": [
            {"method": "imp", "points": decay("density", xs, 0.9725, 0.012, 2.6)},
            {"method": "magnitude", "points": decay("density", xs, 0.9705, 0.03, 2.0)},
            {"method": "snip", "points": decay("density", xs, 0.968, 0.03, 1.8)},
            {"method": "synflow", "points": decay("density", xs, 0.966, 0.04, 1.9)},
            {"method": "random", "points": decay("density", xs, 0.966, 0.08, 1.7)},
        ],
        "law": law(),
        "ticket": {
            "density": 0.1,
            "kept": 1702,
            "accuracy": estimate(0.9689),
            "difference": -0.0023,
            "low": -0.0071,
            "margin": 0.01,
            "p_value": 0.0074,
            "verdict": True,
            "file": "ticket.safetensors",
            "sentence": "Iterative magnitude pruning with rewinding keeps 10% of the weights within the margin",
        },
        "structured": {
            "before": {"parameters": 17226, "macs": 17024, "bytes": 70912, "accuracy": 0.9712},
            "after": {"parameters": 6330, "macs": 6208, "bytes": 27016, "accuracy": 0.9671},
            "file": "structured.safetensors",
            "sentence": "Removing 60% of the hidden units leaves a network of 6,330 parameters",
        },
    }


def law() -> dict[str, Any]:
    """What the pruning law of the first three levels says."""

    def at(density: float) -> dict[str, Any]:
        mean = 0.972 - 0.00002 / density**2
        return {"density": density, "accuracy": {"mean": mean, "low": mean - 0.01, "high": mean + 0.008}}

    return {
        "levels": 3,
        "predicted": {"mean": 0.061, "low": 0.042, "high": 0.083},
        "found": 0.057,
        "held_out_error": 0.11,
        "plateau": "held",
        "parameters": {
            "eps_np": {"value": 0.0288, "low": 0.0288, "high": 0.0288},
            "eps_up": {"value": 0.9, "low": 0.9, "high": 0.9},
            "gamma": {"value": 0.8, "low": 0.5, "high": 1.2},
            "p": {"value": 0.0021, "low": 0.0009, "high": 0.0040},
        },
        "points": [at(0.01 * 50 ** (k / 7)) for k in range(8)],
        "checked": [
            at(d) | {"measured": 0.9715 - 0.0000185 / d**2, "fitted": d > 0.07}
            for d in (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
        ],
        "sentence": "After 3 levels, down to 10.0% of the weights, the pruning law expects that 6.1% (4.2% to 8.3%)"
        " will match. Measured, the mean loss passes 1 point at 5.7%; at the sparser levels the law is off by 11% of"
        " the error (RMS).",
    }


def directions() -> dict[str, Any]:
    dims = [5, 10, 20, 40, 80, 160, 320]
    error = {90: 0.142, 180: 0.089, 360: 0.057, 719: 0.041, 1438: 0.029}
    path = [(k / 10, k * (10 - k) / 25) for k in range(11)]
    return {
        "status": "partial",
        "note": "the barrier rests on two pairs of runs",
        "intrinsic_dimension": {
            "dimension": 40,
            "threshold": 0.874,
            "baseline": 0.9712,
            "parameters": 17226,
            "points": [
                {"dimension": d, "accuracy": estimate(0.975 - 0.85 * (6 / (6 + d)) ** 1.2, 0.006, 3)} for d in dims
            ],
        },
        "curvature": {"top_eigenvalue": estimate(14.2, 1.1), "trace": estimate(88.0, 4.0)},
        "barrier": {
            "error": estimate(0.021, 0.004, 2),
            "loss": estimate(0.11, 0.02, 2),
            "curve": [{"at": t, "error": 0.029 + 0.021 * bump, "loss": 0.1 + 0.11 * bump} for t, bump in path],
        },
        "learning_curve": {
            "points": [{"n": n, "error": estimate(e, 0.03 * e)} for n, e in error.items()],
            "law": {
                "form": "power+offset",
                "parameters": {
                    "E": {"value": 0.008, "low": 0.0, "high": 0.015},
                    "A": {"value": 4.9, "low": 2.8, "high": 9.9},
                    "alpha": {"value": 0.79, "low": 0.66, "high": 0.95},
                },
            },
            "twice": {"n": 2876, "error": 0.021, "low": 0.0172, "high": 0.0261},
            "now": {"n": 1438, "error": 0.029},
            "sentence": "Twice the data would lower the test error from 2.9% to about 2.1%",
        },
    }


def provenance() -> dict[str, Any]:
    return {
        "runs": [
            {
                "key": f"{0x9E3779B9 * (k + 1) % 2**40:010x}",
                "part": part,
                "network": "mlp",
                "replicas": replicas,
                "seeds": list(range(5)),
                "steps": 450,
            }
            for k, (part, replicas) in enumerate(
                [("labels", 10), ("examples", 45), ("examples", 40), ("weights", 30), ("directions", 21)]
            )
        ],
        "versions": {"python": "3.11.9", "torch": "2.9.0", "numpy": "2.2.1"},
        "machine": {"system": "Linux x86_64", "processor": "2 cores", "accelerator": None},
        "seeds": [0, 1, 2, 3, 4],
    }


def sample() -> dict[str, Any]:
    """A complete result; two parts left out."""
    return {
        "surplus": "0.1.0",
        "name": "digits",
        "status": "complete",
        "data": {
            "name": "digits",
            "kind": "image",
            "train": 1438,
            "test": 359,
            "validation": None,
            "classes": [str(k) for k in range(10)],
            "carved": True,
            "fingerprint": "9b1f6a0c52d3",
        },
        "network": {"name": "mlp", "parameters": 17226, "prunable": 17024},
        "recipe": {"optimiser": "sgd", "rate": 0.1, "batch": 64, "duration": "20ep", "momentum": 0.9},
        "settings": {"seeds": 5, "margin": 0.01, "budget": None, "examples": {"fractions": [0.1, 0.2, 0.5]}},
        "labels": labels(),
        "examples": examples(),
        "weights": weights(),
        "directions": directions(),
        "provenance": provenance(),
        "left_out": [
            {"part": "examples", "what": "memorization", "why": "it needs 400 runs, more than the time budget allows"},
            {"part": "weights", "what": "GraSP", "why": "the budget was spent on the sparsest matching density"},
        ],
        "timing": {
            "total_seconds": 71.3,
            "parts": {"labels": 12.3, "examples": 24.1, "weights": 20.8, "directions": 14.1},
            "latency": {"before_ms": estimate(0.214, 0.004), "after_ms": estimate(0.121, 0.003)},
            "budget_seconds": 120,
        },
    }


def thumbnails(result: dict[str, Any]) -> dict[str, bytes]:
    """The digits themselves, 8 by 8, for whatever the result shows."""
    from sklearn.datasets import load_digits

    images = load_digits().images
    shown = [
        e
        for part, key in (("labels", "suspects"), ("examples", "hardest"), ("examples", "easiest"))
        for e in result[part][key]
    ]
    return {str(e["id"]): png(images[e["id"]] * 255 / 16) for e in shown}


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.astype("uint8")).save(file, "PNG")
    return file.getvalue()
