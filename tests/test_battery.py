"""One battery over every registered method: it says what it is, its docstring fits, its name is found."""

import inspect
import re

import pytest
import torch

from surplus.registry import KINDS, find, methods
from surplus.space import WeightSpace

METHODS = methods()
IDS = [f"{m.kind}: {m.name}" for m in METHODS]
each = pytest.mark.parametrize("m", METHODS, ids=IDS)


def of(kind):
    rows = [m for m in METHODS if m.kind == kind]
    return pytest.mark.parametrize("m", rows, ids=[m.name for m in rows])


@each
def test_it_says_in_one_sentence_what_it_is(m):
    assert 10 < len(m.summary) < 180 and m.summary.rstrip().endswith((".", ":", "?")), m.summary


@each
def test_it_is_found_by_its_name_in_either_spelling(m):
    assert find(m.kind, m.name) is m and find(m.kind, m.name.replace("-", "_")) is m


@each
def test_its_docstring_names_only_arguments_that_it_has(m):
    doc = inspect.getdoc(m.fn) or ""
    section = re.search(r"\nArgs:\n(.*?)(\n\n|\nReturns|\nRaises|\Z)", doc, re.S)
    parameters = inspect.signature(m.fn).parameters
    named = re.findall(r"^    (\w+):", section.group(1), re.M) if section else []
    missing = [n for n in named if n not in parameters and "options" not in parameters and "kwargs" not in parameters]
    assert not missing, f"{m.name} documents {missing}"


@each
def test_its_arguments_are_typed(m):
    if inspect.isclass(m.fn):
        return
    bare = [p.name for p in inspect.signature(m.fn).parameters.values() if p.annotation is p.empty and p.name != "self"]
    assert not bare


def test_published_methods_name_their_paper():
    unpublished = {
        m.name
        for m in METHODS
        if not m.paper and m.kind in ("example score", "weight score", "pruning schedule", "study")
    }
    assert unpublished <= {"random", "magnitude"}, unpublished


def test_kinds_are_known():
    assert {m.kind for m in METHODS} <= set(KINDS)


EVIDENCE_N, RUNS, EPOCHS, CLASSES = 30, 6, 4, 3


def evidence(seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(RUNS, EPOCHS, EVIDENCE_N, CLASSES, generator=g)
    labels = torch.arange(EVIDENCE_N) % CLASSES
    from surplus.tasks import classification_record

    flat = classification_record(logits.flatten(0, 2), labels.repeat(RUNS * EPOCHS))
    record = {k: v.view(RUNS, EPOCHS, EVIDENCE_N) for k, v in flat.items()}
    trained_on = torch.zeros(RUNS, EVIDENCE_N, dtype=torch.bool)
    for r in range(0, RUNS, 2):
        trained_on[r] = torch.rand(EVIDENCE_N, generator=g) < 0.5
        trained_on[r + 1] = ~trained_on[r]
    space = WeightSpace(lambda: torch.nn.Linear(4, CLASSES))
    return {
        "labels": labels,
        **record,
        "hits": torch.rand(RUNS, EVIDENCE_N, generator=g).round(),
        "trained_on": trained_on,
        "share": torch.full((RUNS,), 0.5),
        "inputs": torch.randn(EVIDENCE_N, 4, generator=g),
        "space": space,
        "thetas": space.init_many(range(RUNS)),
        "probabilities": logits[:, -1].softmax(-1),
    }


@of("example score")
def test_an_example_score_gives_one_finite_number_per_example_the_same_each_time(m):
    from surplus.examples import score

    a, b = score(m.name, evidence()), score(m.name, evidence())
    assert a.mean.shape == (EVIDENCE_N,) and a.mean.isfinite().all()
    assert torch.equal(a.mean, b.mean)
    assert m.traits.get("high") in ("hard", "easy", "noisy")


@of("example score")
def test_an_example_score_ignores_the_order_of_examples(m):
    from surplus.examples import score

    given = evidence()
    order = torch.randperm(EVIDENCE_N, generator=torch.Generator().manual_seed(1))
    axis = {"labels": 0, "inputs": 0, "hits": 1, "trained_on": 1, "probabilities": 1}
    moved = {
        k: v if k in ("space", "thetas", "share") else v.index_select(axis.get(k, 2), order) for k, v in given.items()
    }
    torch.testing.assert_close(score(m.name, moved).mean, score(m.name, given).mean[order], rtol=1e-4, atol=1e-5)


@of("selection")
def test_a_selection_keeps_the_exact_number_the_same_each_time(m):
    from surplus.examples import select

    scores = torch.randn(40, generator=torch.Generator().manual_seed(0))
    picks = [
        select(
            m.name,
            scores,
            13,
            labels=torch.arange(40) % 4,
            embeddings=torch.randn(40, 5, generator=torch.Generator().manual_seed(2)),
            probabilities=torch.randn(40, 4, generator=torch.Generator().manual_seed(4)).softmax(1),
            generator=torch.Generator().manual_seed(3),
        )
        for _ in range(2)
    ]
    assert picks[0].dtype == torch.bool and int(picks[0].sum()) == 13 and torch.equal(*picks)


@of("weight score")
def test_a_weight_score_gives_one_number_per_weight_the_same_each_time(m):
    space = WeightSpace(lambda: torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)))
    theta, g = space.init(0), torch.Generator().manual_seed(0)
    batch = (torch.randn(12, 4, generator=g), torch.arange(12) % 3)
    takes = inspect.signature(m.fn).parameters
    given = {"generator": lambda: torch.Generator().manual_seed(5), "start": lambda: space.init(1)}
    runs = [m.fn(space, theta, batch, **{k: make() for k, make in given.items() if k in takes}) for _ in range(2)]
    assert runs[0].shape == (space.size,) and runs[0][space.prunable].isfinite().all() and torch.equal(*runs)


@of("task")
def test_a_task_loads_and_its_network_fits(m):
    from surplus.tasks import load

    task = load(m.name)
    assert len(task.train) > len(task.test) > 0 and task.space.size > 0


@of("reparametrisation")
def test_a_reparametrisation_starts_where_it_says_and_pulls_gradients_back(m):
    theta = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = {
        "identity": lambda: m.fn(theta),
        "mask": lambda: m.fn(theta, torch.arange(12) % 2 == 0),
        "random-subspace": lambda: m.fn(theta, 5),
        "line": lambda: m.fn(torch.stack([theta, theta + 1])),
        "simplex": lambda: m.fn(torch.stack([theta, theta + 1, theta - 2])),
        "dct-plus-sparse": lambda: m.fn(WeightSpace(lambda: torch.nn.Linear(3, 3)), theta, torch.arange(12) % 2 == 0),
        "frozen": lambda: m.fn(theta, torch.arange(12) % 2 == 0, theta + 1),
        "supermask": lambda: m.fn(theta, [(0, 5), (7, 11)], theta[:9], rescale=True),
        "top-k": lambda: m.fn(theta, [(0, 5), (7, 11)], theta[:9], [2, 3]),
    }
    r = made[m.name]()
    z = r.start()
    g = torch.randn(12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z_ = z.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(r.to_theta(z_), z_, g)
    torch.testing.assert_close(r.pullback(z, g), expected)
    assert r.spec() == made[m.name]().spec()
