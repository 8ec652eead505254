"""What a selection costs: train on what rules keep, beside random subsets of the same size, seed by seed.

    found = compare(load("digits"), ["hardest", "ccs:beta=0.1", "facility-location"], keep=0.25)
    found.table()                 # a line per rule, with its difference to random and the interval
    found.save("selected")        # keep.parquet, comparison.csv, selection.json

All arms of a seed share the initial point and take as many steps as training on everything does; scores, embeddings and
predictions come from networks with other seeds.
"""

from __future__ import annotations

import csv
import inspect
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from surplus import __version__
from surplus.errors import InputError, check_folder, settings_of
from surplus.examples.gathering import Gathering, gather
from surplus.examples.rules.weighted import Weighted, normalised
from surplus.examples.scoring import hardness, score
from surplus.examples.selections.base import select
from surplus.registry import find
from surplus.space import generator, seed_for
from surplus.tasks import Task
from surplus.training import Store, features, fit, predict
from surplus.training.store import write_atomically

RANDOM = "random"
_GIVEN = ("embeddings", "probabilities", "validation")
"""What rules may ask of a trained network, by argument name."""


class Comparing(BaseModel):
    """How selections are compared."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    keep: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the training examples that stays."""
    score: str = "el2n"
    """What the rules that read scores rank by."""
    by_class: bool = False
    """Apply each rule inside each class, with budgets in proportion to the classes."""
    seeds: Annotated[int, Field(ge=2)] = 5
    """Networks per rule; every rule has the same seeds."""
    replicas: Annotated[int, Field(ge=1)] = 5
    """Networks behind the score."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Coverage of the intervals."""
    seed: int = 0
    """From which all seeds are derived."""
    device: str = "cpu"
    """Where networks train."""


@dataclass(frozen=True)
class Selected:
    """The subsets that rules keep, and the accuracies of networks trained on them."""

    task: Task
    settings: Comparing
    kept: dict[str, Tensor]
    """(seeds, n) bool by rule, the random one included; rules that draw nothing keep the same for every seed."""
    correct: dict[str, Tensor] = field(repr=False)
    """(seeds, m) which test examples were answered rightly, by rule, and with "all examples"."""
    weights: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """(seeds, n) weights of the kept examples, of the rules that give any."""
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def accuracy(self) -> dict[str, Tensor]:
        """(seeds,) on the test set by arm."""
        return {name: correct.mean(1) for name, correct in self.correct.items()}

    def table(self) -> list[dict[str, Any]]:
        """A line per arm: accuracy with its interval, and the paired difference to random with its own."""
        rows, level = [], self.settings.level
        for name, correct in self.correct.items():
            row = {"rule": name, "kept": int(self.kept[name][0].sum()) if name in self.kept else len(self.task.train)}
            accuracy, low, high = over_seeds_and_examples(correct, level)
            row |= {"accuracy": accuracy, "low": max(0.0, low), "high": min(1.0, high)}
            if name != RANDOM:
                difference, low, high = over_seeds_and_examples(correct - self.correct[RANDOM], level)
                row |= {"minus_random": difference, "difference_low": low, "difference_high": high}
            rows.append(row | {"seeds": len(correct)})
        return rows

    def save(self, folder: str | Path) -> None:
        """Write keep.parquet (id, and a column per rule), comparison.csv and selection.json.

        Raises:
            InputError: the folder cannot be made or written to.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        folder = Path(folder)
        check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        columns = {"id": self.task.train.ids, **{name: kept[0].numpy() for name, kept in self.kept.items()}}
        columns |= {f"{name} weight": weights[0].numpy() for name, weights in self.weights.items()}
        buffer, text, rows = io.BytesIO(), io.StringIO(), self.table()
        pq.write_table(pa.table(columns), buffer, compression="zstd")
        write_atomically(folder / "keep.parquet", buffer.getvalue())
        out = csv.DictWriter(text, max(rows, key=len), lineterminator="\n")
        out.writeheader()
        out.writerows(rows)
        write_atomically(folder / "comparison.csv", text.getvalue().encode())
        found = {"comparison": rows, "settings": self.settings.model_dump(mode="json"), **self.provenance}
        write_atomically(folder / "selection.json", json.dumps(found, indent=1, ensure_ascii=False).encode())


def compare(
    task: Task,
    rules: Sequence[str] | Mapping[str, Mapping[str, Any]],
    keep: float | None = None,
    settings: Comparing | None = None,
    *,
    store: Store | None = None,
) -> Selected:
    """Select by every rule, train on what each keeps and on random subsets, and measure on the test set.

    Args:
        task: data, network and recipe; classification.
        rules: names of registered selections, each with options after a colon ("ccs:beta=0.1"), or options by name.
        keep: share of the training examples that stays; that of the settings when None.
        settings: score, seeds, device.
        store: where runs are kept.

    Raises:
        InputError: no such rule, score or option; a share that keeps nothing.
    """
    settings = settings or Comparing()
    settings = settings if keep is None else settings_of(Comparing, **{**settings.model_dump(), "keep": keep})
    arms = {**_arms(rules), RANDOM: (RANDOM, {})}
    for name, given in arms.values():
        _check_options(name, given)
    find("example score", settings.score)
    count = round(settings.keep * len(task.train))
    if count < 1:
        raise InputError(f"keeping {settings.keep:g} of {len(task.train)} examples leaves none; keep a larger share")
    source = _Source(task, settings, store)
    seeds = [seed_for(settings.seed, "select", "train", k) % 2**31 for k in range(settings.seeds)]
    kept = {arm: _chosen(source, name, count, given, seeds) for arm, (name, given) in arms.items()}
    weights = {arm: _weights(source, name, kept[arm], given) for arm, (name, given) in arms.items()}
    weighed = {arm: w for arm, w in weights.items() if w is not None}
    correct = _correct(source, kept, weighed, seeds)
    provenance = {
        "data": {"name": task.name, "fingerprint": task.train.fingerprint, "examples": len(task.train)},
        "network": task.network.identity,
        "recipe": task.recipe.model_dump(mode="json"),
        "rules": {arm: dict(given) for arm, (_, given) in arms.items()},
        "training_seeds": seeds,
        "version": __version__,
    }
    return Selected(task, settings, kept, correct, weighed, provenance)


def _arms(rules: Sequence[str] | Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Rule and options by the name of their arm, which is as written, so that one rule may stand with two settings."""
    if isinstance(rules, Mapping):
        return {(name := find("selection", rule).name): (name, given) for rule, given in rules.items()}
    texts = [rules] if isinstance(rules, str) else rules
    parsed = [(text, *written(text)) for text in texts]
    return {text if given else rule: (find("selection", rule).name, given) for text, rule, given in parsed}


def _check_options(rule: str, options: Mapping[str, Any]) -> None:
    """Refuse settings that a rule does not have, or words for numbers, before anything is trained for it."""
    accepted = inspect.signature(find("selection", rule).fn).parameters
    own = [a for a in accepted if a not in ("scores", "keep", "labels", "generator", *_GIVEN)]
    for option in options:
        if option not in own:
            raise InputError(f"the rule {rule!r} has no setting {option!r}; it takes {', '.join(own) or 'none'}")
        usual = accepted[option].default
        if isinstance(usual, (int, float)) and isinstance(options[option], str):
            raise InputError(f"{option} of the rule {rule!r} is a number, usually {usual}; got {options[option]!r}")


class _Source:
    """What rules ask for by argument name, worked out once each, when it is asked for."""

    def __init__(self, task: Task, settings: Comparing, store: Store | None) -> None:
        self.task, self.settings, self.store = task, settings, store

    @cached_property
    def scores(self) -> Tensor:
        """(n,) high = hard."""
        s = self.settings
        gathering = Gathering(replicas=s.replicas, seed=s.seed, device=s.device)
        evidence = gather(self.task, [s.score], gathering, store=self.store)
        return hardness(s.score, score(s.score, evidence).mean).nan_to_num(0.0)

    @cached_property
    def theta(self) -> Tensor:
        """(P,) one trained network, whose features and predictions the rules look at."""
        seed = seed_for(self.settings.seed, "select", "look") % 2**31
        return fit(self.task, seeds=[seed], device=self.settings.device, store=self.store).theta[0]

    @cached_property
    def embeddings(self) -> Tensor:
        """(n, width)."""
        return features(self.task, self.theta, self.task.train)

    @cached_property
    def probabilities(self) -> Tensor:
        """(n, classes)."""
        return predict(self.task, self.theta, self.task.train).softmax(-1)

    @cached_property
    def validation(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Embeddings, probabilities and labels of the validation set, where the task has one."""
        from surplus.examples.selections.gradients import Validation

        data = self.task.validation
        if data is None:
            return None
        outputs = predict(self.task, self.theta, data)
        return Validation(features(self.task, self.theta, data), outputs.softmax(-1), data.targets)

    def given(self, rule: str) -> dict[str, Any]:
        """What this rule asks for."""
        asked = inspect.signature(find("selection", rule).fn).parameters
        wanted = [name for name in _GIVEN if name in asked]
        return {"labels": self.task.train.targets, **{name: getattr(self, name) for name in wanted}}


def _chosen(source: _Source, rule: str, count: int, options: Mapping[str, Any], seeds: Sequence[int]) -> Tensor:
    """(seeds, n) what the rule keeps; each seed draws for itself."""
    given = {**source.given(rule), **options, "by_class": source.settings.by_class}
    draws = [generator(seed, "select", rule) for seed in seeds]
    return torch.stack([select(rule, source.scores, count, generator=draw, **given) for draw in draws])


def _weights(source: _Source, rule: str, kept: Tensor, options: Mapping[str, Any]) -> Tensor | None:
    """(seeds, n) the weights that a rule gives what it kept, of mean 1 there; None for a rule that gives none."""
    weigh = find("selection", rule).traits.get("weights")
    if weigh is None:
        return None
    accepted = inspect.signature(weigh).parameters
    given = {**source.given(rule), **options, "by_class": source.settings.by_class}
    own = {name: value for name, value in given.items() if name in accepted}
    return torch.stack([normalised(weigh(mask, **own), mask) for mask in kept])


def _correct(
    source: _Source, kept: Mapping[str, Tensor], weights: Mapping[str, Tensor], seeds: Sequence[int]
) -> dict[str, Tensor]:
    """(seeds, m) right answers on the test set by rule, and with all examples; weighed where there are weights."""
    task, settings = source.task, source.settings
    steps = task.recipe.duration.steps(-(-len(task.train) // task.recipe.batch_size))
    equal = task.with_recipe(duration=f"{steps}it")
    train = partial(fit, device=settings.device, store=source.store)
    plain = {name: mask for name, mask in kept.items() if name not in weights}
    run = train(equal, seeds=list(seeds) * len(plain), subsets=torch.cat(list(plain.values())))
    correct = dict(zip(plain, run.evaluate("test").per_example.view(len(plain), len(seeds), -1), strict=True))
    for name, own in weights.items():
        weighed = train(equal, seeds=seeds, subsets=kept[name], rule=Weighted(own))
        correct[name] = weighed.evaluate("test").per_example
    full = train(task, seeds=seeds).evaluate("test").per_example
    return {**{name: correct[name] for name in kept}, "all examples": full}


def over_seeds_and_examples(values: Tensor, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of values (seeds, m) with an interval for other seeds and for other test examples.

        half-width^2 = (t SE over the seeds' means)^2 + (z SE over the examples' means)^2

    Seeds that happen to agree would alone give an interval of no width.
    """
    from scipy.stats import norm, t

    v, tail = values.double(), 0.5 + level / 2
    seeds, examples = v.mean(1), v.mean(0)
    of_seeds = float(seeds.std() / len(seeds) ** 0.5) * float(t.ppf(tail, len(seeds) - 1))
    of_examples = float(examples.std() / len(examples) ** 0.5) * float(norm.ppf(tail))
    mean, half = float(v.mean()), (of_seeds**2 + of_examples**2) ** 0.5
    return mean, mean - half, mean + half


def written(text: str) -> tuple[str, dict[str, Any]]:
    """A rule and its options from one word: "ccs:beta=0.1"."""
    from surplus.tasks import parse_network

    if "," in text.partition(":")[0]:
        raise InputError(f"rules are separated by spaces, as in: --rules hardest ccs:beta=0.1; got {text!r}")
    name, options = parse_network(text)
    assert name is not None
    return name, options
