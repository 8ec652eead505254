from __future__ import annotations

import pytest
import torch

from surplus.pruning import density
from surplus.studies import Bench
from surplus.studies import joint_surplus as study
from surplus.studies.joint_surplus import ADDITIVE, FORGETS, HARD, HARD_HALF, PROTOCOLS, RANDOM_HALF
from surplus.tasks import Augment, Duration
from surplus.training import Store


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench("smoke", PROTOCOLS["smoke"], Store(tmp_path_factory.mktemp("joint")))


@pytest.fixture(scope="module")
def task(bench):
    return study._task(bench)


def test_random_halves_differ_between_seeds_and_the_hard_half_is_that_of_the_highest_el2n(bench, task):
    first, second = study.subsets(bench, "random", 0.5)
    assert len(first) == len(second) == round(0.5 * len(task.train)) and not torch.equal(first, second)
    hard = study.subsets(bench, "hardest", 0.5)
    scores = study.el2n(bench, "train")
    rest = torch.ones(len(scores), dtype=torch.bool).index_fill(0, hard[0], False)
    assert torch.equal(hard[0], hard[1]) and scores[hard[0]].min() >= scores[rest].max()


def test_chains_reach_their_densities_on_their_own_examples_and_cost_in_proportion(bench, task):
    whole, half = study.chain(bench, "all", 1.0), study.chain(bench, "random", 0.5)
    for levels in (whole, half):
        assert [density(task.space, x.masks[0]) for x in levels] == pytest.approx([1, 0.1, 0.05], abs=1e-3)
        assert all(torch.equal(x.start, task.space.init_many([0, 1])) for x in levels)
    assert whole[0].run.subsets is None and len(half[0].run.subsets[0]) == round(0.5 * len(task.train))
    steps = [x.run.parts[0].manifest["steps"] for x in (whole[0], half[0])]
    assert steps == [2 * 21, 2 * 11]  # 1,258 and 629 examples, 60 at a time
    assert study._cost(bench, "random", 0.5) == pytest.approx(0.5 * study._cost(bench, "all", 1.0), rel=0.01)


def test_a_search_costs_every_training_before_the_ticket_s_own(bench, task):
    deeper = Bench("smoke", bench.protocol.model_copy(update={"ticket": 0.05}), bench.store)
    weights = 64 * 16 + 16 * 8 + 8 * 10
    one = 3 * weights * len(task.train) * 2  # two epochs
    assert study._cost(bench, "all", 1.0) == pytest.approx(one)
    assert study._cost(deeper, "all", 1.0) == pytest.approx(one * (1 + round(0.1 * weights) / weights))


def test_a_ticket_of_half_the_data_is_trained_on_all_of_it_from_the_same_weights(bench, task):
    half = study._at(bench, study.chain(bench, "random", 0.5), 0.1)
    again = study._retrained(bench, half, half.masks)
    assert again.run.subsets is None and torch.equal(again.masks, half.masks) and torch.equal(again.start, half.start)


def test_controls_of_a_ticket_have_its_density(bench, task):
    ticket = study._at(bench, study.chain(bench, "all", 1.0), 0.1)
    for control in study.ticket_controls(bench, ticket).values():
        assert density(task.space, control.masks[0]) == ticket.density
    arms = study.forgetting_arms(bench)
    assert list(arms) == ["dense", "other dense", "ticket", "random mask", "small dense"]
    assert set(arms["other dense"].seeds).isdisjoint(bench.seeds)
    kept = int(study._at(bench, study.chain(bench, "all", 1.0), 0.05).masks[0].sum())
    assert arms["small dense"].task.space.size <= kept


def test_disagreement_is_counted_against_independent_networks(bench, monkeypatch):
    answers = {"dense": [[0, 0, 0, 0], [0, 0, 0, 1]], "ticket": [[0, 0, 1, 1], [0, 1, 1, 1]]}
    answers |= {"random mask": [[1] * 4] * 2, "small dense": [[0] * 4] * 2}
    monkeypatch.setattr(study, "forgetting_arms", lambda _: {n: n for n in answers})
    monkeypatch.setattr(study, "reference", lambda _: "others")
    tables = {n: torch.tensor(a) for n, a in answers.items()} | {"others": torch.tensor([[0, 0, 0, 0], [0, 0, 0, 2]])}
    monkeypatch.setattr(study, "_answers", lambda _, run, part="test": tables[run])
    monkeypatch.setattr(Bench, "accuracy", lambda _, run: torch.zeros(2))
    measured = study.joint_surplus(FORGETS, bench)
    shares = {r["row"]: r["value"] for r in measured.rows if r["quantity"] == study.DISAGREES}
    assert shares["dense"] == (0 + 1 + 1 + 1) / 16 and shares["ticket"] == (2 + 2 + 3 + 3) / 16
    assert shares["ticket - dense"] == pytest.approx(7 / 16) and measured.verdict == "holds"


@pytest.mark.parametrize(
    ("easy", "seeds_alone", "verdict"), [(False, False, "holds"), (True, False, "fails"), (False, True, "fails")]
)
def test_what_is_forgotten_is_hard_when_its_score_is_higher_than_that_of_what_another_seed_forgets(
    bench, task, monkeypatch, easy, seeds_alone, verdict
):
    n = {"test": len(task.test), "train": len(task.train)}

    def right(_, run, part):
        """Independent networks miss the first ten, tickets the last forty, too, another seed the same or any forty."""
        table = torch.ones(2, n[part], dtype=torch.bool)
        table[:, :10] = False
        if run == "other dense" and not seeds_alone:
            table[:, 10:410:10] = False
        elif run not in ("others", "dense"):
            table[:, -40:] = False
        return table

    arms = ("dense", "other dense", "ticket", "random mask")
    monkeypatch.setattr(study, "forgetting_arms", lambda _: {k: k for k in arms})
    monkeypatch.setattr(study, "reference", lambda _: "others")
    monkeypatch.setattr(study, "_right", right)
    line = {p: torch.arange(m).double() * (-1 if easy else 1) for p, m in n.items()}
    monkeypatch.setattr(study, "hardness_scores", lambda _, part: {"EL2N": line[part]})
    measured = study.joint_surplus(HARD, bench)
    area, excess = measured.rows[:2]
    assert measured.verdict == verdict and area["value"] == (0 if easy else 1)
    assert area["forgotten"] == 40 and area["examples"] == n["test"] - 10
    assert excess["row"] == "ticket - other dense: EL2N, test" and excess["needs"] == "> 0"
    assert (excess["low"] > 0.3) == (verdict == "holds") and (excess["value"] == 0) == seeds_alone
    assert {r["part"] for r in measured.rows} == {"test", "train"}


def test_scores_are_high_for_what_is_hard_and_come_from_networks_of_their_own(bench, task):
    for part in ("test", "train"):
        scores = study.hardness_scores(bench, part)
        assert list(scores)[:3] == ["EL2N", "learned late", "small margin"]
        assert ("forgetting events" in scores) == (part == "train")
        late = 1 - study._right(bench, study.scored(bench).run, part).double().mean(0)
        for name, values in scores.items():
            assert torch.corrcoef(torch.stack([values.double(), late]))[0, 1] > 0.1, name
    assert set(study.scored(bench).run.seeds).isdisjoint({*bench.seeds, *study.reference(bench).seeds})


@pytest.mark.parametrize(
    ("both", "verdict"), [(0.85, "holds"), (0.80, "fails"), (0.8395, "undecided")]
)  # 0.95, less 0.05 for the data and 0.05 for the weights
def test_losses_add_up_when_both_cost_as_much_as_each(bench, monkeypatch, both, verdict):
    values = {(1.0, 1.0): 0.95, (0.5, 1.0): 0.9, (1.0, 0.1): 0.9, (0.5, 0.1): both}
    chains = {f: study.chain(bench, "random", f) for f in (0.5, 1.0)}
    where = {id(x.run): (f, d) for f, c in chains.items() for x, d in zip(c, (1.0, 0.1, 0.05), strict=True)}
    wobble = torch.tensor([0.0005, -0.0005])
    monkeypatch.setattr(study, "chain", lambda b, which, f: chains[f])

    def accuracy(_, run):
        at = where.get(id(run))
        return values.get(at, 0.5) + (2 * wobble if at == (0.5, 0.1) else wobble)

    monkeypatch.setattr(Bench, "accuracy", accuracy)
    measured = study.joint_surplus(ADDITIVE, bench)
    assert measured.verdict == verdict and measured.value == pytest.approx(both - 0.85, abs=1e-6)
    assert len([r for r in measured.rows if "fraction" in r]) == 6


@pytest.mark.parametrize(("lost", "verdict", "narrow"), [(0.008, "holds", "fails"), (0.0, "holds", "holds")])
def test_a_loss_below_a_point_is_told_from_one_below_half_a_point(bench, monkeypatch, lost, verdict, narrow):
    whole = study._at(bench, study.chain(bench, "all", 1.0), 0.1).run
    monkeypatch.setattr(Bench, "accuracy", lambda _, run: torch.tensor([0.9, 0.91]) - (0 if run is same else lost))
    same = whole
    chain = study.chain
    kept = {w: chain(bench, w, f) for w, f in (("all", 1.0), ("random", 0.5), ("hardest", 0.5))}
    kept["all"][1] = type(kept["all"][1])(0.1, kept["all"][1].masks, kept["all"][1].start, same)
    monkeypatch.setattr(study, "chain", lambda b, which, f: kept[which])
    measured = study.joint_surplus(RANDOM_HALF, bench)
    row = next(r for r in measured.rows if r["row"].endswith("by half a point"))
    assert (measured.verdict, row["would"], row["margin"]) == (verdict, narrow, 0.005) and "verdict" not in row
    assert row["value"] == pytest.approx(-lost, abs=1e-6)


def test_the_protocol_of_a_deep_network_runs_when_it_is_made_small(tmp_path, provided_files):
    changes = {
        "seeds": 2,
        "nets": 2,
        "network": "small-conv",
        "options": {"norm": "batch"},
        "rewind_step": 2,
        "looks": 2,
        "score_steps": 2,
        "execution": "stacked",
    }
    recipe = PROTOCOLS["gpu"].recipe.model_copy(
        update={"duration": Duration("2ep"), "batch_size": 20, "augment": Augment(), "milestones": (Duration("1ep"),)}
    )
    changes |= {"densities": (0.5, 0.1), "ticket": 0.5, "forgetting": 0.1, "fractions": (0.5, 1.0), "recipe": recipe}
    small = Bench("gpu", PROTOCOLS["gpu"].model_copy(update=changes), Store(tmp_path))
    measured = study.joint_surplus(HARD_HALF, small)
    assert measured.seeds == 2 and measured.verdict in ("holds", "fails", "undecided")
    assert study.joint_surplus(RANDOM_HALF, small).claim is RANDOM_HALF
    assert PROTOCOLS["gpu"].network == "resnet-20" and PROTOCOLS["gpu"].exclude == ("head",)
    from_two = [e.spec["start_step"] for e in small.runs.values()]
    assert {0, 2} == set(from_two)
