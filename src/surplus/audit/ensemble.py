"""The subset ensemble: networks trained on random shares of the data. Labels and example scores all come from it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from surplus.audit.bench import Bench, divide
from surplus.errors import InputError
from surplus.examples import score_all
from surplus.examples.labels import LabelCheck, check_labels
from surplus.examples.scores.grand import grand
from surplus.examples.subsets import balanced_subsets
from surplus.space import generator
from surplus.stats import Estimate
from surplus.tasks import Task
from surplus.training import Run, code_version, processors

_READER = 0.5
"""Networks trained on less than this share read labels too badly to judge them."""
_MANY = 10
"""From so many held-out readings on, the c-score stands alone; with fewer it is averaged with its learning-speed proxy.

On CIFAR-10 with 2 readings of each example, the rank correlation with the published scores is .844 for the held-out
probability, .857 for the proxy, .870 for their mean.
"""
_MOST_ROUNDS = 64
_LONGER = 2.5
"""How much longer cleaned networks train under a budget that allows it.

On MNIST with 10% wrong labels, 4 cleaned networks find them with precision .988 after 3 epochs and .991 after 8.
"""
_ENOUGH = 3
"""With so many cleaned readings of every example, the plain networks' are left out: they read worse."""
_MOST_SUSPECT = 0.45
"""Where more examples look wrong, the others would teach little, and a half of the data might hold none of them."""
_CLEAN_ABOVE = 0.02
"""From this estimated share of wrong labels on, more networks are trained without the suspects."""


@dataclass
class Ensemble:
    """What the subset networks say."""

    task: Task
    runs: list[Run] = field(default_factory=list)
    shares: list[Tensor] = field(default_factory=list)
    cleaned: list[Run] = field(default_factory=list)
    """Networks trained without the suspects of the first ones; they read labels only."""

    suspects: Tensor | None = None
    """(n,) what the cleaned networks were spared: the plain ones' suspects."""
    _outputs: dict[int, Tensor] = field(default_factory=dict)

    def read(self, run: Run) -> Tensor:
        """(K, n, classes) of a run on all training examples, held in memory."""
        if id(run) not in self._outputs:
            self._outputs[id(run)] = run.predict("train")
        return self._outputs[id(run)]

    @property
    def sound(self) -> Tensor:
        """(runs,) which plain networks did not diverge.

        Raises:
            InputError: none is left.
        """
        sound = torch.cat([self.read(r).isfinite().flatten(1).all(1) for r in self.runs])
        if not sound.any():
            raise InputError(
                f"all {len(sound)} networks of {self.task.network.name} diverged in training;"
                f" lower the rate with --recipe lr={self.task.recipe.lr / 10:g}"
            )
        return sound

    @property
    def outputs(self) -> Tensor:
        """(runs, n, classes) of the plain networks on all training examples."""
        return torch.cat([self.read(r) for r in self.runs])[self.sound]

    @property
    def trained_on(self) -> Tensor:
        """(runs, n)."""
        return torch.cat([r.trained_on for r in self.runs])[self.sound]

    @property
    def share(self) -> Tensor:
        """(runs,)."""
        return torch.cat(self.shares)[self.sound]

    def record(self) -> dict[str, Tensor]:
        """All plain runs' records, (runs, epochs, n)."""
        return {k: torch.cat([r.record[k] for r in self.runs])[self.sound] for k in self.runs[0].record}

    def evidence(self) -> dict[str, Any]:
        """What the example scores ask for, by name. `hits` are probabilities of the label: what counts estimate."""
        labels = self.task.train.targets
        p = self.outputs.softmax(-1)
        own = p.gather(2, labels.expand(len(p), -1).unsqueeze(-1)).squeeze(-1)
        return {"labels": labels, "hits": own, "trained_on": self.trained_on, "share": self.share, **self.record()}

    def scores(self) -> dict[str, Estimate]:
        """Every registered score that the records and predictions serve."""
        scores = score_all(self.evidence())
        held_out = int((~self.trained_on).sum(0).min())
        if held_out < _MANY:
            scores["c-score"] = _mean_of(scores["c-score"], scores["cumulative-confidence"])
        return scores

    def check(self) -> LabelCheck:
        """Which labels look wrong."""
        labels = self.task.train.targets
        readers = self.share >= _READER
        outputs, trained_on = self.outputs[readers], self.trained_on[readers]
        if self.cleaned:
            more = torch.cat([self.read(r) for r in self.cleaned])
            sound = more.isfinite().flatten(1).all(1)
            more, theirs = more[sound], torch.cat([r.trained_on for r in self.cleaned])[sound]
            enough = int((~theirs).sum(0).min()) >= _ENOUGH
            outputs = more if enough else torch.cat([outputs, more])
            trained_on = theirs if enough else torch.cat([trained_on, theirs])
        return check_labels(outputs, trained_on, labels, self._signals())

    def find_suspects(self) -> None:
        """Note the plain networks' suspects, if they find enough wrong labels for others to be trained without."""
        check = self.check()
        suspects = check.probability > 0.5
        if check.rate.mean > _CLEAN_ABOVE and suspects.double().mean() <= _MOST_SUSPECT:
            self.suspects = suspects

    def _signals(self) -> dict[str, Tensor]:
        """Training's own signs of a wrong label."""
        evidence = self.evidence()
        asked = ("aum", "el2n", "memorization", "c-score")
        return {k: e.mean for k, e in score_all(evidence, asked).items()}


def _mean_of(a: Estimate, b: Estimate) -> Estimate:
    """Mean of two estimates on one scale; as they rest on the same networks, the standard error is the larger one's."""
    stderr = torch.fmax(a.stderr.expand_as(a.mean), b.stderr.expand_as(b.mean))
    return Estimate((a.mean + b.mean) / 2, stderr, a.repeats)


def train_ensemble(bench: Bench) -> Ensemble:
    """Train the ensemble: all of the plan's runs, or as many rounds as the budget allows."""
    ensemble, plan = Ensemble(_shortened(bench)), bench.plan
    keep = (_early_step(ensemble.task),)
    if bench.settings.budget is None:
        for share in plan.shares:
            _add(bench, ensemble, share, 0, plan.runs_per_share, keep)
        ensemble.find_suspects()
        if ensemble.suspects is not None:
            _add_cleaned(bench, ensemble, 0, plan.runs_per_share, ensemble.task)
        return ensemble
    _add_rounds(bench, ensemble, keep)
    return ensemble


def _add_rounds(bench: Bench, ensemble: Ensemble, keep: tuple[int, ...]) -> None:
    """Rounds of one run per processor until no further one would end in time; once 40% is spent, cleaned ones.

    Without wrong labels to learn by heart, longer training pays: cleaned networks train longer if rounds of it fit.
    """
    size, spent, last, rounds, plain, task = max(2, processors()), 0.0, 0.0, 0, 0, ensemble.task
    while rounds < _MOST_ROUNDS:
        began = time.monotonic()
        if rounds and spent + 1.1 * last > bench.plan.ensemble_seconds:
            break
        if not plain and spent > 0.4 * bench.plan.ensemble_seconds:
            ensemble.find_suspects()
            plain, left = rounds, bench.plan.ensemble_seconds - spent
            if ensemble.suspects is not None and left > 3 * _LONGER * spent / rounds:
                task = task.with_recipe(duration=f"{max(1, round(_LONGER * epochs(task)))}ep")
        if ensemble.suspects is not None:
            _add_cleaned(bench, ensemble, (rounds - plain) * size, size, task)
        else:
            _add(bench, ensemble, 0.5, rounds * size, size, keep)
        if not rounds:
            bench.learn_cost(ensemble.runs[0], 0.5, epochs(ensemble.task) / epochs(bench.task))
            bench.plan = divide(bench)
        last = _seconds(bench, (ensemble.cleaned or ensemble.runs)[-1], time.monotonic() - began)
        spent, rounds = spent + last, rounds + 1


def _seconds(bench: Bench, run: Run, seconds: float) -> float:
    """What a round took when it was first trained: an audit that is run again counts the same and goes the same way."""
    spec = {"of": "seconds of a round", "runs": run.keys}
    return float(bench.store.cached(spec, lambda: {"seconds": torch.tensor(seconds)})["seconds"])


def _add(bench: Bench, ensemble: Ensemble, share: float, first: int, count: int, keep: tuple[int, ...]) -> None:
    subsets = balanced_subsets(len(ensemble.task.train), share, first + count, bench.settings.seed)[first:]
    seeds = bench.seeds(f"ensemble {share}", first + count)[first:]
    ensemble.runs.append(bench.fit("labels", ensemble.task, seeds=seeds, subsets=subsets, record=True, keep=keep))
    ensemble.shares.append(torch.full((count,), share))


def _add_cleaned(bench: Bench, ensemble: Ensemble, first: int, count: int, task: Task) -> None:
    """Runs on halves from which the plain networks' suspects are taken out; all halves keep the same size."""
    assert ensemble.suspects is not None
    n, seeds = len(ensemble.task.train), bench.seeds("ensemble cleaned", first + count)[first:]
    subsets = balanced_subsets(n, 0.5, first + count, bench.settings.seed + 1)[first:] & ~ensemble.suspects
    size = int(subsets.sum(1).min())
    positions = []
    for subset, seed in zip(subsets, seeds, strict=True):
        rows = subset.nonzero().squeeze(1)
        positions.append(rows[torch.randperm(len(rows), generator=generator(seed, "cleaned"))[:size]].sort().values)
    ensemble.cleaned.append(bench.fit("labels", task, seeds=seeds, subsets=positions))


def epochs(task: Task) -> float:
    """Length of training in epochs of all data."""
    per_epoch = -(-len(task.train) // task.recipe.batch_size)
    return task.recipe.duration.steps(per_epoch) / per_epoch


def _early_step(task: Task) -> int:
    """The step at which GraNd looks: a tenth of training, on half of the data."""
    steps = task.recipe.duration.steps(-(-len(task.train) // (2 * task.recipe.batch_size)))
    return max(1, steps // 10)


def _shortened(bench: Bench) -> Task:
    """The task, trained for fewer epochs where two rounds of the usual length would not fit the budget."""
    task, seconds = bench.task, bench.plan.ensemble_seconds
    rounds = bench.wall(0.5 * max(2, processors()))
    if 2.3 * rounds <= seconds:
        return task
    return task.with_recipe(duration=f"{max(1, math.floor(epochs(task) * seconds / (2.3 * rounds)))}ep")


def grand_scores(bench: Bench, ensemble: Ensemble) -> Estimate:
    """GraNd of all training examples at an early step of a few networks, kept in the store."""
    task = ensemble.task
    run, _ = min(zip(ensemble.runs, ensemble.shares, strict=True), key=lambda pair: abs(float(pair[1][0]) - 0.5))
    step, count = _early_step(task), min(bench.plan.grand_runs, len(run))
    thetas = run.at(step)[:count].to(bench.settings.device)
    task = task.to(bench.settings.device)

    def compute() -> dict[str, Tensor]:
        e = grand(task.space, thetas, task.prepare(task.train.inputs), task.train.targets, task.statistics(thetas))
        return {"mean": e.mean.cpu(), "stderr": e.stderr.cpu()}

    version = code_version("space", "examples")
    spec = {"of": "grand", "runs": run.keys, "step": step, "count": count, "version": version}
    found = bench.store.cached(spec, compute)
    return Estimate(found["mean"], found["stderr"], count)
