import csv
import json

import pytest
import torch

from surplus.audit import prune
from surplus.audit.pruned import Pruning
from surplus.audit.pruning_methods import KINDS, check_arguments, find_method
from surplus.errors import InputError
from surplus.pruning import density, load_module, load_ticket
from surplus.pruning.checkpoints import load_checkpoint
from surplus.pruning.schedules.imp import Level, imp
from surplus.registry import methods
from surplus.tasks import load
from surplus.training import Store, predict

CONTROLS = ("shuffle", "reinit", "random-erk")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("runs"))


def task(**recipe):
    return load("digits").with_recipe(**{"duration": "2ep", **recipe})


@pytest.fixture(scope="module")
def found(store):
    return prune(task(), method="imp", density=0.3, seeds=2, controls=CONTROLS, options={"rate": 0.5}, store=store)


def test_the_last_level_has_exactly_the_density_that_was_asked_for(found):
    space = found.task.space
    prunable = int(space.prunable.sum())
    for mask in found.final.masks:
        assert int(mask[space.prunable].sum()) == round(0.3 * prunable)
    assert [x.density for x in found.levels] == sorted((x.density for x in found.levels), reverse=True)
    assert found.levels[0].density == 1.0


def test_controls_have_the_density_and_the_seeds_of_the_pruned_networks(found):
    assert tuple(found.controls) == CONTROLS
    for control in found.controls.values():
        assert isinstance(control, Level) and control.run.seeds == found.final.run.seeds
        assert density(found.task.space, control.masks[0]) == pytest.approx(found.final.density, abs=1e-3)
    rows = {r["control"]: r for r in found.evidence["against_controls"]}
    mine, shuffled = found.final.accuracy.double(), found.controls["shuffle"].accuracy.double()
    assert rows["shuffle"]["difference"] == pytest.approx(float((mine - shuffled).mean()), abs=1e-6)


def test_the_files_hold_what_was_found(found, tmp_path):
    found.save(tmp_path, ("dense", "csr"))
    space, level = found.task.space, found.final
    ticket = load_ticket(tmp_path / "ticket.safetensors", space)
    assert torch.equal(ticket.mask, level.masks[0]) and torch.equal(ticket.theta, level.start[0])
    for name in ("weights.safetensors", "weights-csr.safetensors"):
        module = load_checkpoint(tmp_path / name, space)
        x = found.task.prepare(found.task.test.inputs[:9])
        expected = predict(found.task, level.run.theta[0], found.task.test)[:9]
        torch.testing.assert_close(module(x).detach(), expected, atol=1e-5, rtol=1e-4)
    rows = list(csv.DictReader((tmp_path / "curve.csv").open()))
    assert len(rows) == 2 * len(found.levels) and float(rows[-1]["metric"]) == pytest.approx(float(level.accuracy[1]))
    result = json.loads((tmp_path / "pruning.json").read_text())
    assert result["settings"]["density"] == 0.3 and result["networks"][0]["name"] == "dense"


def test_two_of_four_is_a_pattern_that_can_be_written(store, tmp_path):
    found = prune(task(), method="one-shot", scope="2:4", density=0.5, seeds=1, controls=(), store=store)
    for block in found.task.space.blocks:
        if block.prunable:
            groups = found.final.masks[0][block.slice].view(-1, 4)
            assert (groups.sum(1) == 2).all()
    found.save(tmp_path, ("2:4",))
    module = load_checkpoint(tmp_path / "weights-2-4.safetensors", found.task.space)
    assert torch.equal(found.task.space.read(module), found.final.run.theta[0])


def test_until_matching_stops_where_the_dense_networks_are_no_longer_matched(store):
    faster = {"rate": 0.5}
    easy = prune(task(), until="matching", density=0.5, margin=0.5, seeds=2, controls=(), options=faster, store=store)
    assert easy.final.density == pytest.approx(0.5, abs=1e-3)  # half of the accuracy may go, so all levels match
    strict = prune(
        task(), until="matching", density=0.001, margin=0.15, seeds=2, controls=(), options=faster, store=store
    )
    chain = imp(task(), density=0.001, rate=0.5, rewind_step=2, seeds=2, store=store)
    lost = [float(chain[0].accuracy.mean() - x.accuracy.mean()) for x in chain]
    assert strict.final.density > 0.001 and strict.final.density < 1
    assert all(loss < 0.15 for x, loss in zip(chain, lost, strict=True) if x.density >= strict.final.density)


def test_a_user_s_own_module_and_data_are_pruned_alike(store):
    from surplus.data import Dataset, Splits
    from surplus.tasks import Recipe, task_from

    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=g)
    y = (x[:, 0] * x[:, 1] > 0).long()
    splits = Splits("mine", Dataset.of(x[:200], y[:200]), Dataset.of(x[200:], y[200:]))
    recipe = Recipe(lr=0.1, duration="5ep", batch_size=20)
    mine = task_from(splits, own_network, recipe=recipe)
    found = prune(mine, density=0.25, seeds=2, controls=("reinit",), options={"rate": 0.5}, store=store)
    assert found.evidence["networks"][-1]["name"] == "reinit" and found.final.density == pytest.approx(0.25, abs=0.01)


def own_network():
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))


@pytest.mark.parametrize("row", [m for k in KINDS[:1] for m in methods(k)], ids=lambda m: m.name)
def test_every_pruning_schedule_ends_at_its_density(row, store):
    quick = task(duration="1ep")
    settings = Pruning(method=row.name, density=0.5, seeds=1)
    levels = row.fn(quick, density=0.5, **check_arguments(quick, settings, row), store=store)
    kept = levels[-1].masks[0][quick.space.prunable]
    assert abs(int(kept.sum()) - 0.5 * len(kept)) <= 1
    assert levels[-1].run.evaluate("test").metric.shape == (1,)


@pytest.mark.parametrize("row", methods("structured pruning"), ids=lambda m: m.name)
def test_every_structured_pruning_leaves_a_smaller_network_that_loads_again(row, store, tmp_path):
    quick = load("digits", NETWORKS.get(row.name)).with_recipe(duration="1ep")
    found = prune(quick, method=row.name, density=0.6, seeds=1, store=store, options=QUICK.get(row.name, {}))
    (run,) = found.smaller
    assert run.task.space.size < 1.05 * quick.space.size and run.evaluate("test").metric.shape == (1,)
    found.save(tmp_path)
    make = run.task.network if row.name == "consensus-subnetwork" else None  # its network has no name of its own
    module = load_module(tmp_path / "smaller-model", make)
    assert sum(p.numel() for p in module.parameters()) == run.task.space.size
    x = quick.prepare(quick.test.inputs[:9])
    torch.testing.assert_close(module(x).detach(), run.predict("test")[0, :9], atol=1e-5, rtol=1e-4)


NETWORKS = {"consensus-subnetwork": "gated-mlp"}
QUICK = {"tas": {"epochs": 2}}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "impp"}, "imp"),
        ({"method": "edge-popup", "score": "snip"}, "takes no score"),
        ({"method": "imp", "options": {"rat": 0.3}}, "rate"),
        ({"method": "imp", "score": "snipp"}, "snip"),
        ({"method": "imp", "scope": "5:4"}, "scope"),
        ({"method": "imp", "scope": "2:4"}, "one cut"),
        ({"method": "random-search", "until": "matching"}, "until"),
        ({"method": "random-search", "controls": ("shuffle",)}, "from scratch"),
        ({"method": "imp", "options": {"rate": 2}}, "rate"),
        ({"method": "imp", "options": {"rate": "abc"}}, "rate"),
        ({"method": "imp", "options": {"options": 3}}, "no option of imp"),
        ({"method": "imp", "options": {"levels": 3}}, "no option of imp"),
        ({"method": "imp", "exclude": ("foo",)}, "foo"),
        ({"method": "imp", "exclude": ("linear1", "linear2", "head")}, "excluded"),
        ({"method": "one-shot", "scope": "2:4"}, "density 0.5"),
        ({"method": "imp", "density": 1e-9}, "raise the density"),
        ({"method": "imp", "density": 1.0}, "density"),
        ({"method": "imp", "rewind": 100_000}, "lies beyond the 69 steps"),
        ({"method": "tas", "options": {"epoch": 2}}, "epochs"),
        ({"method": "tas", "options": {"epochs": 0}}, "epochs"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_trained(settings, said, store):
    before = len(store.entries())
    with pytest.raises(InputError, match=said):
        prune(task(duration="3ep"), **settings, store=store)
    assert len(store.entries()) == before


def test_scores_prune_before_training_or_after_it_by_what_they_read():
    assert find_method("snip").kind == "weight score"
    quick = task()
    assert "rewind_step" not in check_arguments(quick, Pruning(method="snip"), find_method("snip"))
    assert check_arguments(quick, Pruning(method="movement"), find_method("movement"))["rewind_step"] == 2


def test_gated_networks_are_compared_with_the_ungated_ones(store):
    found = prune(
        load("digits").with_recipe(duration="1ep"), method="consensus-subnetwork", density=0.5, seeds=1, store=store
    )
    (dense, small, *_) = found.evidence["networks"]
    assert small["nonzero"] < dense["nonzero"] and small["density"] <= 1


def test_a_pattern_goes_with_scores_that_are_iterated_by_default(store):
    found = prune(task(duration="1ep"), method="synflow", scope="2:4", density=0.5, seeds=1, controls=(), store=store)
    block = next(b for b in found.task.space.blocks if b.prunable)
    assert (found.final.masks[0][block.slice].view(-1, 4).sum(1) == 2).all()


def test_where_nothing_sparser_matches_the_first_try_is_shown(store):
    found = prune(
        task(), method="random", until="matching", density=0.1, margin=0.001, seeds=2, controls=(), store=store
    )
    assert [round(x.density, 2) for x in found.levels] == [1.0, 0.8]
    assert "No network sparser than the dense one" in found.evidence["sentences"][0]


def test_diverged_networks_are_not_pruned(store):
    with pytest.warns(UserWarning, match="diverged"), pytest.raises(InputError, match="lower the learning rate"):
        prune(task(duration="2ep", lr=1e8), method="one-shot", density=0.5, seeds=1, store=store)
