"""Training rules: how batches, weights or gradients change as training goes; a file per published rule."""

from surplus.examples.rules.batch_choice import (
    BaldChoice,
    ChosenBatches,
    ConditionalEntropyChoice,
    GradientNorm,
    GradientNormSampling,
    HighestLoss,
    LossMinusEntropyChoice,
    PredictiveEntropyChoice,
    UniformChoice,
)
from surplus.examples.rules.cdr import CDR, CDROptimizer, critical_weights
from surplus.examples.rules.co_teaching import CoTeaching, exchange, label_precision
from surplus.examples.rules.nested_dropout import (
    NestedCoTeaching,
    best_epoch,
    best_prefix,
    compressed,
    freeze_norms,
    predict_prefix,
)
from surplus.examples.rules.outlier_filter import OutlierFilter, detection, removed
from surplus.examples.rules.rho_loss import (
    LowestIrreducibleLoss,
    RhoLoss,
    double_irreducible_losses,
    held_apart,
    irreducible_losses,
    reducible_losses,
)
from surplus.examples.rules.robust_gradients import (
    M3,
    RM3,
    RM3Optimizer,
    Winsorized,
    m3_backward,
    median_of_three,
    winsorized_backward,
    winsorized_mean,
)
from surplus.examples.rules.weighted import Weighted, normalised

__all__ = [
    "CDR", "M3", "RM3", "BaldChoice", "CDROptimizer", "ChosenBatches", "CoTeaching", "ConditionalEntropyChoice",
    "GradientNorm", "GradientNormSampling", "HighestLoss", "LossMinusEntropyChoice", "LowestIrreducibleLoss",
    "NestedCoTeaching", "OutlierFilter", "PredictiveEntropyChoice", "RM3Optimizer", "RhoLoss", "UniformChoice",
    "Weighted", "Winsorized", "best_epoch", "best_prefix", "compressed", "critical_weights", "detection",
    "double_irreducible_losses", "exchange", "freeze_norms", "held_apart", "irreducible_losses", "label_precision",
    "m3_backward", "median_of_three", "normalised", "predict_prefix", "reducible_losses", "removed",
    "winsorized_backward", "winsorized_mean",
]  # fmt: skip
