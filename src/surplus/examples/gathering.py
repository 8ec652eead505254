"""Train what example scores need: `gather` turns the names of scores into networks, and networks into evidence.

    evidence = gather(load("digits"), ["el2n", "grand", "memorization"], Gathering(replicas=8))
    score("el2n", evidence)

A record of a few full runs serves most scores; those that ask what a network does without an example (c-score,
memorization) need networks trained on random subsets; those that read gradients or predictions look at the full runs
early in training. Only what the named scores ask for is trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from surplus.errors import InputError
from surplus.examples.evidence import EVIDENCE
from surplus.examples.scoring import arguments
from surplus.examples.subsets import mixed_subsets
from surplus.registry import find, methods
from surplus.space import seed_for
from surplus.tasks import CLASSIFICATION, Task
from surplus.training import Run, Store, fit, predict

RECORD = ("error", "correct", "confidence", "margin", "loss")
SUBSETS = ("hits", "trained_on", "share")
EARLY = ("thetas", "buffers", "probabilities")


class Gathering(BaseModel):
    """How much is trained for scores."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    replicas: Annotated[int, Field(ge=1)] = 8
    """Full training runs; scores are means over them."""
    shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.3, 0.5, 0.7)
    """Shares of the data that subset runs train on."""
    runs_per_share: Annotated[int, Field(ge=2)] = 10
    """Subset runs of each share."""
    early: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of training after which gradients and predictions are read."""
    seed: int = 0
    """From which the seeds of all runs are derived."""
    device: str = "cpu"
    """Where networks train."""


def of_record() -> list[str]:
    """The scores that an example record alone serves."""
    given = {*RECORD, "labels"}
    rows = {m.name: set(arguments(m.name, required=True)) for m in methods("example score")}
    return [name for name, asked in rows.items() if asked <= given and asked & set(RECORD)]


def gather(
    task: Task, names: Iterable[str], settings: Gathering | None = None, *, store: Store | None = None
) -> dict[str, Any]:
    """Train what these scores need, and return their evidence by argument name.

    Args:
        task: data, network and recipe; classification.
        names: of registered example scores.
        settings: how many networks; the defaults when None.
        store: where runs are kept.

    Raises:
        InputError: no such score, the task has no classes, or a score asks for what training does not give.
    """
    settings, needs = settings or Gathering(), set[str]()
    if task.objective is not CLASSIFICATION:
        raise InputError(f"example scores are for tasks with classes; {task.name!r} is {task.objective.name}")
    for name in names:
        needs |= set(arguments(find("example score", name).name))
        foreign = set(arguments(name, required=True)) - EVIDENCE.keys()
        if foreign:
            raise InputError(f"the score {name!r} asks for {', '.join(sorted(foreign))}, which training does not give")
    evidence: dict[str, Any] = {
        "labels": task.train.targets, "inputs": task.prepare(task.train.inputs), "space": task.space
    }  # fmt: skip
    if needs & {*RECORD, *EARLY}:
        evidence |= _full(task, settings, needs, store)
    if needs & set(SUBSETS):
        evidence |= _subsets(task, settings, store)
    return evidence


def _full(task: Task, settings: Gathering, needs: set[str], store: Store | None) -> dict[str, Any]:
    """The record of full runs, and what their early points say."""
    steps = task.recipe.duration.steps(-(-len(task.train) // task.recipe.batch_size))
    early = max(1, round(settings.early * steps))
    seeds = _seeds(settings, "full", settings.replicas)
    run = fit(task, seeds=seeds, record=True, keep=(early,), device=settings.device, store=store)
    _check_sound(run)
    evidence: dict[str, Any] = dict(run.record)
    if needs & set(EARLY):
        thetas = run.at(early)
        evidence |= {"thetas": thetas, "buffers": task.statistics(thetas)}
    if "probabilities" in needs:
        evidence["probabilities"] = predict(task, evidence["thetas"], task.train).softmax(-1)
    return evidence


def _subsets(task: Task, settings: Gathering, store: Store | None) -> dict[str, Tensor]:
    """What networks trained on random subsets get right, in and out of their subsets."""
    masks, share = mixed_subsets(len(task.train), settings.shares, settings.runs_per_share, settings.seed)
    seeds = _seeds(settings, "subsets", len(masks))
    run = fit(task, seeds=seeds, subsets=masks, device=settings.device, store=store)
    _check_sound(run)
    hits = (run.predict("train").argmax(-1) == task.train.targets).float()
    return {"hits": hits, "trained_on": masks, "share": share}


def _seeds(settings: Gathering, purpose: str, count: int) -> list[int]:
    return [seed_for(settings.seed, "scores", purpose, k) % 2**31 for k in range(count)]


def _check_sound(run: Run) -> None:
    if run.diverged:
        raise InputError(
            f"{len(run.diverged)} of {len(run)} networks diverged in training, so they say nothing of the examples;"
            f" lower the rate, for example with lr={run.task.recipe.lr / 10:g}"
        )
