"""Studies: a paper's claims, measured anew by a criterion fixed beforehand; each holds, fails or is undecided."""

from surplus.studies.base import Bench, Protocol, Untestable, draw_study, run_study, studies, study
from surplus.studies.results import Claim, Measured, Scale, StudyResult, decide, load_result, undecided
from surplus.studies.verdicts import (
    Check,
    Verdict,
    above,
    arm,
    beats,
    exactly,
    exceeds,
    joint,
    not_above,
    over_seeds,
    smaller_by_sign,
    two_stderr,
    within,
)

__all__ = [
    "Bench",
    "Check",
    "Claim",
    "Measured",
    "Protocol",
    "Scale",
    "StudyResult",
    "Untestable",
    "Verdict",
    "above",
    "arm",
    "beats",
    "decide",
    "draw_study",
    "exactly",
    "exceeds",
    "joint",
    "load_result",
    "not_above",
    "over_seeds",
    "run_study",
    "smaller_by_sign",
    "studies",
    "study",
    "two_stderr",
    "undecided",
    "within",
]
