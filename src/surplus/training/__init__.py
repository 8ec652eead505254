"""Training: one loop for any number of replicas, the example record, and runs that can be resumed and trusted."""

from surplus.training.executor import fan_out, processors
from surplus.training.fitting import Diverged, fit
from surplus.training.observers import Observer, Probe, Progress, Step
from surplus.training.predict import Evaluation, evaluate, features, predict
from surplus.training.record import ExampleRecord, read_record
from surplus.training.rules import Batch, Choice, Moment, Rule
from surplus.training.run import Run, describe
from surplus.training.store import DamagedFile, Entry, Store, code_version, home

__all__ = [
    "Batch",
    "Choice",
    "DamagedFile",
    "Diverged",
    "Entry",
    "Evaluation",
    "ExampleRecord",
    "Moment",
    "Observer",
    "Probe",
    "Progress",
    "Rule",
    "Run",
    "Step",
    "Store",
    "code_version",
    "describe",
    "evaluate",
    "fan_out",
    "features",
    "fit",
    "home",
    "predict",
    "processors",
    "read_record",
]
