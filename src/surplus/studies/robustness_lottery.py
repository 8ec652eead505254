"""Li et al. 2024, "Understanding Robustness Lottery": angle, norm and margin of the last features of pruned networks.

Dense networks, networks pruned by magnitude, parts of untrained networks (edge-popup, and multi-prize tickets with
weights of one size), and as a control networks with a random mask of the same density; all share data, architecture
without biases, recipe and seeds.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from pydantic import Field
from scipy.stats import rankdata
from torch import Tensor

from surplus.data import Dataset
from surplus.landscape.geometry import Geometry, feature_geometry
from surplus.landscape.robustness import Variant, robustness
from surplus.pruning import random_mask
from surplus.pruning.schedules.imp import Level, from_masks, one_shot
from surplus.pruning.schedules.popup import edge_popup
from surplus.space import generator
from surplus.stats import Interval, auc, bootstrap
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import splits
from surplus.studies.results import Claim, Measured, Scale, decide
from surplus.studies.verdicts import Check, Row, above, arm, beats, exactly, exceeds
from surplus.tasks import Augment, Duration, Recipe, Task, task_from
from surplus.training import features, predict

PAPER = "Li et al. 2024, arXiv 2206.07918"
EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")

WRONG = Claim(
    "misclassified-lie-at-larger-angles",
    "Misclassified examples lie at a larger angle to their own class, and have a negative margin.",
    "Li et al. 2024, sections 3 and 4",
    "Test examples of dense networks and of networks pruned by magnitude to 10%: area under the ROC curve of the"
    " true-class angle for misclassified examples > 0.7 by its 95% interval over seeds; margin negative exactly where"
    " the network is wrong, share 1 for every seed.",
    EVERYWHERE,
)
SURVIVAL = Claim(
    "margin-predicts-survival",
    "The margin of a clean example tells how much noise its class survives, better than softmax confidence does.",
    "Li et al. 2024, section 4",
    "Dense networks, test examples that are right when clean; survival = share of draws of Gaussian noise (10 for each"
    " standard deviation of 0.1 to 0.5 of the grey scale) under which they stay right. Spearman correlation with the"
    " margin, mean over networks, > 0.3, and greater than that with confidence, both by 95% bootstrap intervals over"
    " examples, paired.",
    EVERYWHERE,
)
POPUP = Claim(
    "untrained-parts-have-even-angles",
    "Subnetworks of untrained networks have a higher mean and a lower variance of the angle than pruned networks.",
    "Li et al. 2024, section 5 (multi-prize tickets)",
    "True-class angle over test examples at density 50%: mean, edge-popup - magnitude > 2 SE, and variance, magnitude -"
    " edge-popup > 2 SE, paired by seed.",
    EVERYWHERE,
)
FASTER = Claim(
    "robustness-goes-first",
    "At extreme sparsity accuracy under corruption falls faster than clean accuracy.",
    "Li et al. 2024, section 5",
    "ResNet-18 on CIFAR-10, magnitude, 98% of the weights removed, five corruptions at severities 1, 3 and 5: fall of"
    " robust accuracy from dense - fall of clean accuracy > 2 SE, paired by seed.",
    ("gpu",),
)


class LotteryProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "digits"
    """"digits", half of them to test on, or a folder below $SURPLUS_DATA."""
    widths: tuple[int, ...] = (256, 256)
    """Hidden layers of the network without biases."""
    recipe: Recipe = Recipe(lr=0.1, momentum=0.9, weight_decay=1e-4, batch_size=128, duration=Duration("800it"))
    """Training of weights and of edge-popup's scores alike."""
    draws: int = 10
    """Draws of noise per standard deviation."""
    resamples: int = 1000
    """Of the bootstrap."""
    densities: tuple[float, ...] = (0.5, 0.1, 0.02)
    """Of the ResNet."""
    kinds: tuple[str, ...] = ("gaussian-noise", "gaussian-blur", "contrast", "fog", "jpeg-compression")
    """Corruptions of the ResNet's test images."""
    images: int = 2000
    """Test images of the ResNet's that are corrupted."""
    deep: Recipe = Field(
        default=Recipe(
            lr=0.1, weight_decay=5e-4, batch_size=128, duration=Duration("40ep"), warmup=Duration("2ep"),
            augment=Augment(shift=4, flip=True), precision="bfloat16", channels_last=True,
        )
    )  # fmt: skip
    """Training of the ResNet."""
    rewind_step: int = 1000
    """Where in its training pruned ResNets go back to."""


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": LotteryProtocol(
        seeds=2, widths=(32,), draws=2, resamples=100,
        recipe=Recipe(lr=0.1, momentum=0.9, weight_decay=1e-4, batch_size=128, duration=Duration("80it")),
    ),
    "laptop": LotteryProtocol(seeds=5),
    "gpu": LotteryProtocol(seeds=3, data="mnist"),
}  # fmt: skip


@study(
    slug="robustness-lottery",
    paper=PAPER,
    title='"Understanding Robustness Lottery": A Geometric Visual Comparative Analysis of Neural Network Pruning'
    " Approaches",
    claims=(WRONG, SURVIVAL, POPUP, FASTER),
    protocols=PROTOCOLS,
)
def robustness_lottery(claim: Claim, bench: Bench[LotteryProtocol]) -> Measured:
    """What do angle, norm and margin of the last features tell of errors, of noise and of pruning?"""
    tests = {WRONG: misclassified, SURVIVAL: survival, POPUP: untrained_parts, FASTER: robust_falls}
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def misclassified(bench: Bench[LotteryProtocol]) -> Measured:
    """Angle and sign of the margin against right and wrong."""
    task = _task(bench)
    dense, pruned = _pruned(bench, task, 0.1)
    checks: list[Check] = []
    rows: list[Row] = []
    for name, level in (("dense", dense), ("magnitude 10%", pruned)):
        areas, signs, wrongs = [], [], []
        for theta, found in _geometries(bench, level):
            wrong = (predict(task, theta, task.test).argmax(1) != task.test.targets.to(theta.device)).cpu()
            areas.append(float(auc(found.angle, wrong).mean))
            signs.append(float(((found.margin < 0) == wrong).double().mean()))
            wrongs.append(float(wrong.double().sum()))
        exact = Check(
            name, "share of margins with the right sign", "= 1", exactly(min(signs), len(signs)),
            "holds" if min(signs) == 1 else "fails",
        )  # fmt: skip
        checks += [exceeds(name, "AUC of the angle for wrong examples", areas, 0.7), exact]
        rows.append(arm(name, "misclassified test examples", wrongs))
    return decide(WRONG, checks, rows)


def survival(bench: Bench[LotteryProtocol]) -> Measured:
    """Margin, confidence, angle and norm of clean examples as forecasts of survival."""
    task = _task(bench)
    dense, pruned = _pruned(bench, task, 0.1)
    checks: list[Check] = []
    rows: list[Row] = []
    for name, level in (("dense", dense), ("magnitude 10%", pruned)):
        table = torch.stack([_forecasts(bench, task, theta, g) for theta, g in _geometries(bench, level)], 1)
        spearman = {k: _correlation(bench, table, k) for k in FORECASTS}
        gain = _correlation(bench, table, "margin", "confidence")
        quantity = "Spearman correlation with survival"
        found = [
            Check(f"{name}, margin", quantity, "> 0.3", spearman["margin"], above(spearman["margin"], 0.3)),
            Check(f"{name}, margin - confidence", quantity, "> 0", gain, above(gain)),
        ]
        checks += found if name == "dense" else []
        rows += [] if name == "dense" else [c.detail() for c in found]
        others = [k for k in FORECASTS if k != "margin"]
        rows += [Check(f"{name}, {k}", quantity, "", spearman[k], "undecided").detail() for k in others]
    return decide(
        SURVIVAL, checks, rows, "Angle and norm are shown with their signs: a large angle should not survive."
    )


def untrained_parts(bench: Bench[LotteryProtocol]) -> Measured:
    """Mean and variance of the angle, by way of getting to density 50%."""
    task = _task(bench)
    dense, pruned = _pruned(bench, task, 0.5)
    how = {"density": 0.5, "seeds": bench.seeds, **bench.options}
    arms = {
        "dense": dense,
        "magnitude": pruned,
        "random mask": _random(bench, dense, 0.5),
        "edge-popup": edge_popup(task, **how)[0],
        "multi-prize": edge_popup(task, binary=True, weights="kaiming-normal", **how)[0],
    }
    means, variances, rows = {}, {}, []
    for name, level in arms.items():
        bench.noted(level.run)
        angles = torch.stack([g.angle for _, g in _geometries(bench, level)]).double()  # (K, n)
        centred = torch.stack([g.angle for _, g in _geometries(bench, level, centred=True)]).double()
        means[name], variances[name] = angles.mean(1), angles.var(1)
        rows += [
            arm(name, "mean angle, degrees", means[name]),
            arm(name, "variance of the angle", variances[name]),
            arm(name, "mean angle, features centred", centred.mean(1)),
            arm(name, "variance of the angle, features centred", centred.var(1)),
            arm(name, "test accuracy", bench.accuracy(level.run)),
        ]
    checks = [
        beats("edge-popup", "magnitude", "mean angle, degrees", means["edge-popup"], means["magnitude"]),
        beats("magnitude", "edge-popup", "variance of the angle", variances["magnitude"], variances["edge-popup"]),
    ]
    first, second = "multi-prize", "magnitude"
    rows.append(beats(first, second, "mean angle, degrees", means[first], means[second]).detail())
    rows.append(beats(second, first, "variance of the angle", variances[second], variances[first]).detail())
    return decide(POPUP, checks, rows)


def robust_falls(bench: Bench[LotteryProtocol]) -> Measured:
    """Clean and robust accuracy of a ResNet by density."""
    p, data = bench.protocol, splits("cifar10", 0)
    task = task_from(data, "resnet-18", recipe=p.deep)
    how = {"rewind_step": p.rewind_step, "seeds": bench.seeds, **bench.options, "execution": "spread"}
    levels = {"dense": one_shot(task, density=p.densities[0], **how)[0]}
    for density in p.densities:
        levels[f"magnitude {density:.0%}"] = one_shot(task, density=density, **how)[1]
    sparsest = list(levels)[-1]
    levels["random mask"] = _random(bench, levels["dense"], p.densities[-1], p.rewind_step)
    clean, robust = {}, {}
    for name, level in levels.items():
        bench.noted(level.run)
        tables = [_accuracies(bench, task, theta, data.test[: p.images]) for theta in level.run.theta]
        clean[name], robust[name] = (torch.tensor([t[k] for t in tables]) for k in ("clean", "robust"))
    falls = [found["dense"] - found[sparsest] for found in (robust, clean)]
    rows = [
        arm(name, f"{kind} accuracy", values, density=levels[name].density)
        for kind, found in (("clean", clean), ("robust", robust))
        for name, values in found.items()
    ]
    return decide(FASTER, [beats("robust", "clean", f"fall of accuracy, dense to {sparsest}", *falls)], rows)


# ---- tasks, networks, measurements ----------------------------------------------------------------------------------

FORECASTS = ("margin", "confidence", "angle", "norm")
_SIGMAS = (0.1, 0.2, 0.3, 0.4, 0.5)


def _task(bench: Bench[LotteryProtocol]) -> Task:
    p = bench.protocol
    return task_from(splits(p.data, 0, 0.5), "mlp", recipe=p.recipe, widths=p.widths, bias=False)


def _pruned(bench: Bench[LotteryProtocol], task: Task, density: float) -> list[Level]:
    """The dense level, and that of one cut by magnitude in each layer, rewound and trained."""
    levels = one_shot(task, density=density, scope="layer", seeds=bench.seeds, **bench.options)
    for level in levels:
        bench.noted(level.run)
    return levels


def _random(bench: Bench[LotteryProtocol], dense: Level, density: float, step: int = 0) -> Level:
    """The control: as many weights in each layer, at random places."""
    task = dense.run.task
    chances = [generator(seed, "study robustness-lottery", density) for seed in bench.seeds]
    masks = torch.stack([random_mask(task.space, density, chance, "uniform") for chance in chances])
    return from_masks(task, masks, dense.start, bench.seeds, step, **bench.options)


def _geometries(bench: Bench[LotteryProtocol], level: Level, centred: bool = False) -> list[tuple[Tensor, Geometry]]:
    """For each seed its weights and the geometry of the test examples, on the processor."""
    task, found = level.run.task, []
    for theta in level.run.theta.to(bench.device):
        centre = features(task, theta, task.train).mean(0) if centred else None
        g = feature_geometry(task, theta, task.test, centre=centre)
        found.append((theta, Geometry(**{k: v.cpu() for k, v in vars(g).items()})))
    return found


def _forecasts(bench: Bench[LotteryProtocol], task: Task, theta: Tensor, found: Geometry) -> Tensor:
    """(n, 5): the forecasts of one network, then survival; NaN where the clean example is wrong."""
    x, labels = task.test.inputs, task.test.targets
    x = (x.float() / 255 if x.dtype == torch.uint8 else x).cpu()
    kept = torch.zeros(len(x), dtype=torch.float64)
    for sigma in _SIGMAS:
        chance = generator(0, "study robustness-lottery", sigma)  # the same noise for all networks
        for _ in range(bench.protocol.draws):
            noisy = (x + sigma * torch.randn(x.shape, generator=chance)).clamp(0, 1)
            data = Dataset(noisy, labels, task.test.ids, task.test.classes, task.test.kind)
            kept += (predict(task, theta, data).argmax(1).cpu() == labels.cpu()).double()
    survival = kept / (len(_SIGMAS) * bench.protocol.draws)
    confidence = found.logits.double().log_softmax(1).amax(1)  # as ranks of it; no ties at 1
    table = torch.stack([found.margin.double(), confidence, found.angle.double(), found.norm.double(), survival], 1)
    return table.masked_fill((found.prediction != found.labels)[:, None], torch.nan)


def _correlation(bench: Bench[LotteryProtocol], table: Tensor, name: str, less: str | None = None) -> Interval:
    """Mean over networks of a forecast's Spearman correlation (or of the lead over another), by bootstrap.

    Args:
        bench: its protocol says how often to draw.
        table: (n, K, 5) of `_forecasts`; examples are drawn, the same for all networks.
        name: the forecast.
        less: another one, to be subtracted.
    """
    columns = [FORECASTS.index(k) for k in (name, less) if k] + [-1]

    def statistic(rows: np.ndarray) -> float:
        leads = []
        for own in rows.swapaxes(0, 1):  # (n, 2 or 3) of a network
            r = np.corrcoef(rankdata(own[~np.isnan(own[:, 0])], axis=0), rowvar=False)[-1]
            leads.append(r[0] - r[1] if less else r[0])
        return float(np.mean(leads))

    return bootstrap(table.numpy()[..., columns], statistic, resamples=bench.protocol.resamples)


def _accuracies(bench: Bench[LotteryProtocol], task: Task, theta: Tensor, data: Dataset) -> Mapping[str, float]:
    """Clean and robust accuracy of one network."""
    variants = {"network": Variant(theta.to(bench.device))}
    (row,) = robustness(task, variants, corruptions=bench.protocol.kinds, data=data).table()
    return row
