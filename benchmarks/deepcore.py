"""Choosing a subset: surplus beside DeepCore (Guo, Zhao & Bai 2022, arXiv 2204.08499), on that library's protocol.

    python benchmarks/deepcore.py [--data digits] [--shares 0.01 0.1] [--seeds 3] [--deepcore CHECKOUT]

A network (two hidden layers of 128) looks at all the data for a few epochs, a method chooses a share of each class, and
a new network trains on the choice. Both libraries get the same examples and choose with the same network, which surplus
trained; only forgetting, which counts while it trains, looks anew in DeepCore. Every choice is then trained and tested
by the same code, with the weights of the methods that give any. Shown: test accuracy with its standard error over
seeds, and of the last seed the seconds to choose and, as "shared", the part of our picks that DeepCore picks too.

DeepCore is not shipped. For its columns, get it, with torchvision beside it, and name the folder:

    git clone https://github.com/PatrickZH/DeepCore CHECKOUT
    pip install torchvision

Without a checkout our side alone is shown. Its methods that cannot be run are listed with the reason: CAL downloads a
ResNet-18; DeepFool adds in place to inputs that want gradients, which works only where they were copied to a GPU;
GradMatch on a GPU calls torch.lstsq, which torch no longer has.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surplus.data import Dataset, read
from surplus.examples import forgetting, grand_last, select
from surplus.examples.rules.weighted import Weighted, normalised
from surplus.examples.scores.cal import cal
from surplus.examples.scores.deepfool import deepfool
from surplus.examples.scores.uncertainty import entropy, least_confidence, prediction_margin
from surplus.examples.selections.craig import craig_weights
from surplus.examples.selections.grad_match import grad_match_weights
from surplus.space import generator
from surplus.stats import Estimate
from surplus.tasks import Duration, Recipe, Task, task_from
from surplus.training import Store, fit
from surplus.training.predict import features

COLUMNS = ("ours", "ours s", "theirs", "theirs s", "shared")
LOOKING = Recipe(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, batch_size=256, schedule="constant")
LEARNING = LOOKING.model_copy(update={"schedule": "cosine", "batch_size": 128})


@dataclass(frozen=True)
class Seen:
    """What a network that looked at everything saw."""

    task: Task
    theta: Tensor
    correct: Tensor
    """(1, epochs, n)"""
    embeddings: Tensor
    probabilities: Tensor
    """(1, n, classes)"""

    @property
    def material(self) -> dict[str, Any]:
        return {"labels": self.task.train.targets, "embeddings": self.embeddings, "probabilities": self.probabilities}


@dataclass(frozen=True)
class Choice:
    """What was chosen, and what that took."""

    kept: Tensor
    """(n,) bool"""
    seconds: float
    weights: Tensor | None = None
    """(n,)"""


@dataclass(frozen=True)
class Method:
    """One method in both libraries."""

    theirs: str
    """Name of DeepCore's class."""
    rule: str = "hardest"
    """Name of our selection rule."""
    score: Callable[[Seen], Tensor] = lambda seen: torch.zeros(len(seen.task.train))
    """High = keep first."""
    weights: Callable[..., Tensor] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """What DeepCore's class is told."""
    looks_anew: bool = False
    """Whether DeepCore needs to train for it."""


def inputs_of(seen: Seen) -> Tensor:
    return seen.task.prepare(seen.task.train.inputs)


METHODS = {
    "uniform": Method("Uniform", "random"),
    "herding": Method("Herding", "herding"),
    "k-center": Method("kCenterGreedy", "k-center", settings={"torchvision_pretrain": False}),
    "contextual diversity": Method("ContextualDiversity", "contextual-diversity"),
    "least confidence": Method(
        "Uncertainty",
        score=lambda seen: least_confidence(seen.probabilities).mean,
        settings={"selection_method": "LeastConfidence"},
    ),
    "entropy": Method(
        "Uncertainty", score=lambda seen: entropy(seen.probabilities).mean, settings={"selection_method": "Entropy"}
    ),
    "margin": Method(
        "Uncertainty",
        score=lambda seen: prediction_margin(seen.probabilities).mean,
        settings={"selection_method": "Margin"},
    ),
    "forgetting": Method("Forgetting", score=lambda seen: forgetting(seen.correct).mean, looks_anew=True),
    "GraNd": Method(
        "GraNd",
        score=lambda seen: grand_last(seen.task.space, seen.theta, inputs_of(seen), seen.task.train.targets).mean,
        settings={"repeat": 1},
    ),
    "CAL": Method("Cal", score=lambda seen: cal(seen.embeddings, seen.probabilities).mean),
    "DeepFool": Method("DeepFool", score=lambda seen: -deepfool(seen.task.space, seen.theta, inputs_of(seen)).mean),
    "CRAIG": Method("Craig", "craig", weights=craig_weights),
    "GradMatch": Method("GradMatch", "grad-match", weights=grad_match_weights),
    "GLISTER": Method("Glister", "glister"),
    "facility location": Method("Submodular", "facility-location", settings={"function": "FacilityLocation"}),
    "graph cut": Method("Submodular", "graph-cut", settings={"function": "GraphCut"}),
    "log-determinant": Method("Submodular", "log-determinant", settings={"function": "LogDeterminant"}),
}


# ---- our side -------------------------------------------------------------------------------------------------------


def look(task: Task, epochs: int, seed: int, store: Store | None = None) -> Seen:
    """Train one network on everything."""
    recipe = LOOKING.model_copy(update={"duration": Duration(f"{epochs}ep")})
    run = fit(task, seeds=[1000 + seed], recipe=recipe, record=True, store=store)
    h = features(task, run.theta[0], task.train)
    return Seen(task, run.theta, run.record["correct"], h, run.predict("train").softmax(-1))


def ours(method: Method, seen: Seen, share: float, seed: int) -> Choice:
    """What our rule keeps, class by class."""
    began, n = time.perf_counter(), len(seen.task.train)
    draw = generator(seed, "benchmark", "choice")
    material = seen.material if method.rule != "hardest" else {"labels": seen.task.train.targets}
    kept = select(method.rule, method.score(seen), max(1, round(share * n)), by_class=True, generator=draw, **material)
    weights = None
    if method.weights is not None:
        mean = {**seen.material, "probabilities": seen.probabilities[0]}
        weights = method.weights(kept, **mean, by_class=all_there(kept, seen))
    return Choice(kept, time.perf_counter() - began, weights)


def all_there(kept: Tensor, seen: Seen) -> bool:
    """Whether every class has a kept example to stand for it."""
    labels = seen.task.train.targets
    return len(labels[kept].unique()) == len(labels.unique())


def accuracy(task: Task, choice: Choice, epochs: int, seed: int, store: Store | None = None) -> float:
    """Test accuracy of a new network trained on a choice."""
    recipe = LEARNING.model_copy(update={"duration": Duration(f"{epochs}ep")})
    weighted = choice.weights is not None and bool((choice.weights[choice.kept] > 0).any())
    rule = Weighted(normalised(choice.weights, choice.kept)) if weighted and choice.weights is not None else None
    run = fit(task, seeds=[seed], subsets=[choice.kept], recipe=recipe, rule=rule, store=store)
    return float(run.evaluate("test").metric)


# ---- DeepCore -------------------------------------------------------------------------------------------------------


class Examples(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """A data set as DeepCore's methods expect it: `targets`, `classes`, and pairs (C, H, W) and label."""

    transform = None

    def __init__(self, task: Task, data: Dataset) -> None:
        x = task.prepare(data.inputs)
        side = round(x[0].numel() ** 0.5)
        self.inputs = x if x.ndim == 4 else x.view(-1, 1, side, side)
        self.targets = data.targets
        self.classes = list(data.classes)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.inputs[i], self.targets[i]


def load(checkout: Path) -> ModuleType:
    """Their package of methods; torchvision comes in with it."""
    if not (checkout / "deepcore" / "methods").is_dir():
        sys.exit(f"{checkout} is no checkout of DeepCore: it has no folder deepcore/methods; see --help")
    here = Path(__file__).resolve().parent  # this file must not be taken for their package
    sys.path[:] = [str(checkout), *(p for p in sys.path if Path(p).resolve() != here)]
    if not hasattr(np, "in1d"):  # k-center calls it; numpy 2.4 took it away
        np.in1d = np.isin
    return importlib.import_module("deepcore.methods")


def hand_over(seen: Seen) -> None:
    """Enter the network that looked among theirs, as "Looked"."""
    nets = importlib.import_module("deepcore.nets")

    def looked(*given: Any, **settings: Any) -> torch.nn.Module:
        network: torch.nn.Module = nets.MLP(*given, **settings)
        torch.nn.utils.vector_to_parameters(seen.theta[0].clone(), network.parameters())
        return network

    nets.Looked = looked  # type: ignore[attr-defined]


def arguments(data: Examples, device: str) -> Namespace:
    """What DeepCore's methods read off the command line, at the values of its main.py but for the network."""
    return Namespace(
        model="MLP",
        channel=data.inputs.shape[1],
        im_size=tuple(data.inputs.shape[2:]),
        num_classes=len(data.classes),
        class_names=data.classes,
        device=device,
        gpu=None,
        workers=0,
        print_freq=10**9,
        lr=LOOKING.lr,
        batch=LOOKING.batch_size,
        train_batch=LOOKING.batch_size,
        selection_batch=LOOKING.batch_size,
        selection_optimizer="SGD",
        selection_lr=LOOKING.lr,
        selection_momentum=LOOKING.momentum,
        selection_weight_decay=LOOKING.weight_decay,
        selection_nesterov=LOOKING.nesterov,
        selection_test_interval=0,
        selection_test_fraction=1.0,
    )


def theirs(
    methods: ModuleType, method: Method, data: Examples, share: float, epochs: int, seed: int, device: str
) -> Choice:
    """What DeepCore keeps, class by class, with the network handed over; its printing is swallowed."""
    kind = getattr(methods, method.theirs)
    looking = {"epochs": epochs, "specific_model": None}
    handed = {"epochs": 0, "specific_model": "Looked"}
    settings = {
        "balance": True,
        "greedy": "LazyGreedy",
        **(looking if method.looks_anew else handed),
        **method.settings,
    }
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        found: Mapping[str, Any] = kind(data, arguments(data, device), share, seed, **settings).select()
    seconds = time.perf_counter() - began
    rows = torch.as_tensor(found["indices"]).long().cpu()
    kept = torch.zeros(len(data), dtype=torch.bool).index_fill(0, rows, True)
    if "weights" not in found:
        return Choice(kept, seconds)
    weights = torch.zeros(len(data)).index_put((rows,), torch.as_tensor(found["weights"]).float().cpu())
    return Choice(kept, seconds, weights)


# ---- the table ------------------------------------------------------------------------------------------------------


def number(values: list[float], digits: int = 3) -> str:
    """A mean with its standard error, or a dash."""
    if not values:
        return "-"
    e = Estimate.over(torch.tensor(values).double())
    return f"{float(e.mean):.{digits}f}" + (f" ± {float(e.stderr):.{digits}f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, or a folder of images that `surplus` reads")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.1])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--looks", type=int, default=10, help="epochs on everything before choosing; DeepCore's are 40")
    parser.add_argument("--epochs", type=int, default=50, help="epochs on the choice; DeepCore's are 200")
    parser.add_argument("--deepcore", type=Path, help="a checkout of DeepCore")
    parser.add_argument("--device", default="cpu", help="where DeepCore chooses")
    args = parser.parse_args()
    torch.set_num_threads(1)
    task = task_from(read(args.data), "mlp", recipe=LEARNING, widths=(128, 128))
    peer, skipped = None, dict[str, str]()
    if args.deepcore:
        try:
            peer = load(args.deepcore)
        except ImportError as error:
            skipped["all of DeepCore's"] = f"{error} (its code imports it)"
    data, looked, table = Examples(task, task.train), [], dict[tuple[float, str], dict[str, list[float]]]()
    for seed in range(args.seeds):
        began = time.perf_counter()
        seen = look(task, args.looks, seed)
        looked.append(time.perf_counter() - began)
        if peer is not None:
            hand_over(seen)
        for share in args.shares:
            for name in args.methods:
                row = table.setdefault(
                    (share, name), {k: [] for k in ("ours", "ours s", "theirs", "theirs s", "shared")}
                )
                mine = ours(METHODS[name], seen, share, seed)
                row["ours"].append(accuracy(task, mine, args.epochs, seed))
                row["ours s"].append(mine.seconds)
                if peer is None or f"{name}, {share:.3g}" in skipped:
                    continue
                try:
                    other = theirs(peer, METHODS[name], data, share, args.looks, seed, args.device)
                except Exception as error:  # whatever stops a method of theirs is for the table to tell
                    skipped[f"{name}, {share:.3g}"] = (
                        f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                    )
                    continue
                row["theirs"].append(accuracy(task, other, args.epochs, seed))
                row["theirs s"].append(other.seconds)
                row["shared"].append(float((mine.kept & other.kept).sum() / mine.kept.sum()))
    show(args, task, looked, table, skipped)


def show(
    args: Namespace,
    task: Task,
    looked: list[float],
    table: Mapping[tuple[float, str], Mapping[str, list[float]]],
    skipped: Mapping[str, str],
) -> None:
    print(
        f"{args.data}: {len(task.train)} examples, MLP 128-128, {args.looks} epochs of looking ({number(looked, 1)} s),"
        f" {args.epochs} epochs on the choice, {args.seeds} seeds, class by class, torch {torch.__version__}"
    )
    print(f"\n{'kept':>6}  {'method':22}{'surplus':>17}{'s':>8}{'DeepCore':>19}{'s':>8}{'shared':>8}")
    for (share, name), row in table.items():
        mine, seconds = number(row["ours"]), number(row["ours s"][-1:], 2)
        other = number(row["theirs"]), number(row["theirs s"][-1:], 2), number(row["shared"][-1:], 2)
        print(f"{100 * share:5.3g}%  {name:22}{mine:>17}{seconds:>8}{other[0]:>19}{other[1]:>8}{other[2]:>8}")
    for name, reason in skipped.items():
        print(f"not run: {name}: {reason}")
    if not args.deepcore:
        print("DeepCore's side was not asked for: --deepcore CHECKOUT (see --help)")


if __name__ == "__main__":
    main()
