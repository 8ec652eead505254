"""Ranking wrong labels: surplus beside cleanlab, given the same out-of-sample probabilities.

    python benchmarks/labels.py [--data FOLDER] [--noise 0.1] [--rounds 2]

Plants symmetric noise in the labels of a data set (the bundled digits, or MNIST's folder), trains the halves of the
label check, and ranks all examples by surplus and by each of cleanlab's scores from the very same held-out
probabilities. Shown: precision among the top N, N the number planted, with its binomial standard error.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from surplus.data import Splits, corrupt_labels, read
from surplus.examples import score_all
from surplus.examples.labels import check_labels, held_out_log_probabilities
from surplus.examples.subsets import balanced_subsets
from surplus.tasks import task_from
from surplus.training import fit


def cleanlab_scores(labels: Tensor, probabilities: Tensor) -> dict[str, Tensor]:
    """Cleanlab's rankings, high = suspicious; none where it is not installed."""
    try:
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        return {}
    y, p = labels.numpy(), probabilities.double().numpy()
    return {
        f"cleanlab {method}, {'adjusted' if adjust else 'plain'}": -torch.from_numpy(
            get_label_quality_scores(y, p, method=method, adjust_pred_probs=adjust)
        )
        for method in ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
        for adjust in ((False, True) if method != "confidence_weighted_entropy" else (False,))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=2, help="rounds of two networks on complementary halves")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    data, chance = read(args.data), torch.Generator().manual_seed(args.seed)
    noisy = corrupt_labels("symmetric", data.train.targets, args.noise, len(data.train.classes), chance)
    task = task_from(Splits(data.name, data.train.with_targets(noisy.labels), data.test))
    began = time.time()
    subsets = balanced_subsets(len(task.train), 0.5, 2 * args.rounds, args.seed)
    run = fit(task, seeds=2 * args.rounds, subsets=subsets, record=True, execution="spread")
    outputs, labels = run.predict("train"), noisy.labels
    held_out = held_out_log_probabilities(outputs, subsets)
    signals = {k: e.mean for k, e in score_all({"labels": labels, **run.record}, ("aum", "el2n")).items()}
    check = check_labels(outputs, subsets, labels, signals)
    rankings = {"surplus": check.suspicion, **cleanlab_scores(labels, held_out.softmax(1))}
    top = int(noisy.changed.sum())
    print(f"{data.name}: {top} of {len(labels)} labels planted; {len(run)} networks, {time.time() - began:.0f} s")
    for name, suspicion in rankings.items():
        hits = float(noisy.changed[suspicion.argsort(descending=True)[:top]].double().mean())
        print(f"  {name:50}{hits:.4f} +- {(hits * (1 - hits) / top) ** 0.5:.4f}")
    print(f"  {'expected by surplus itself':50}{float(check.expected_precision(top).mean):.4f}")


if __name__ == "__main__":
    main()
