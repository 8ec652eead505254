"""Transformable Architecture Search: choices, sampling, interpolation, costs, the search, and the controls."""

import math

import pytest
import torch
import torch.nn.functional as F

from surplus.data import Dataset, Splits
from surplus.errors import InputError
from surplus.networks import build
from surplus.networks.sized import resnet_widths, with_channels
from surplus.pruning import count
from surplus.pruning.structured.tas import MissedTarget, searched, student, tas
from surplus.pruning.structured.tas_search import (
    Architecture,
    Layer,
    Pick,
    SearchNetwork,
    SearchSettings,
    cost_loss,
    interpolate_channels,
    mixed_depth,
    pick_two,
    search,
    temperature,
)
from surplus.pruning.structured.tas_sizes import (
    Sizes,
    backbone,
    depth_choices,
    random_sizes,
    sized_task,
    uniform_sizes,
    width_choices,
)
from surplus.registry import find
from surplus.space import generator, seeded
from surplus.tasks import Recipe, load, task_from


@pytest.fixture(scope="module")
def dense():
    return load("digits", "mlp", recipe=Recipe(lr=0.1, batch_size=64, duration="2ep"), widths=(20, 16, 12))


@pytest.fixture(scope="module")
def residual():
    x = torch.randint(256, (60, 3, 9, 9), generator=generator(0, "pixels"), dtype=torch.uint8)
    y = torch.arange(60) % 3
    data = Splits("pictures", Dataset.of(x, y), Dataset.of(x[:10], y[:10]))
    return task_from(data, "resnet-cifar", recipe=Recipe(batch_size=30, duration="2it"), depth=14, width=0.5)


# ---- choices --------------------------------------------------------------------------------------------------------


def test_width_choices_are_those_of_the_authors_code():
    assert width_choices(16) == (4, 6, 8, 9, 11, 12, 14, 16)
    assert width_choices(32) == (9, 12, 16, 19, 22, 25, 28, 32)
    assert width_choices(64) == (19, 25, 32, 38, 44, 51, 57, 64)
    assert width_choices(10)[0] == 3 and width_choices(1) == (1,)


def test_depth_choices_are_all_up_to_three_and_then_every_second_and_the_last():
    assert [depth_choices(n) for n in (1, 2, 3)] == [(1,), (1, 2), (1, 2, 3)]
    assert depth_choices(5) == (1, 3, 5) and depth_choices(9) == (1, 3, 5, 7, 9)
    assert depth_choices(18) == (1, 3, 5, 7, 9, 11, 13, 15, 17, 18)


# ---- the parts of the search ----------------------------------------------------------------------------------------


def test_the_temperature_falls_by_a_cosine():
    expected = [5.0, 4.2824, 2.55, 0.8176, 0.1]
    assert [temperature(s) for s in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx(expected, abs=5e-5)


def test_interpolation_has_the_worked_values_on_the_channel_axis_alone():
    row = torch.arange(6.0)
    assert interpolate_channels(row[None], 4).tolist() == [[0.5, 1.5, 3.5, 4.5]]
    assert interpolate_channels(row[None], 8).tolist() == [[0, 0.5, 1.5, 2, 3, 3.5, 4.5, 5]]
    assert interpolate_channels(row[None, :4], 6).tolist() == [[0, 0.5, 1, 2, 2.5, 3]]
    x = torch.randn(3, 6, 4, 5)
    y = interpolate_channels(x, 4)
    assert y.shape == (3, 4, 4, 5)
    torch.testing.assert_close(y[2, :, 1, 3], interpolate_channels(x[2, :, 1, 3][None], 4)[0])


@pytest.mark.parametrize(("before", "after"), [(7, 3), (5, 11), (19, 64), (9, 4)])
def test_interpolation_averages_the_bins_that_the_definition_names(before, after):
    x = torch.randn(2, before, 3, dtype=torch.float64)
    bins = [(math.floor(i * before / after), math.ceil((i + 1) * before / after)) for i in range(after)]
    torch.testing.assert_close(interpolate_channels(x, after), torch.stack([x[:, a:b].mean(1) for a, b in bins], 1))


def test_two_different_candidates_are_drawn_with_the_softmax_over_the_pair():
    logits, g = torch.tensor([0.0, 1.0, -1.0, 2.0], requires_grad=True), generator(0, "picks")
    for tau in (5.0, 0.1):
        for _ in range(50):
            pick = pick_two(logits, tau, g)
            assert len(set(pick.chosen)) == 2 and pick.weights.sum().item() == pytest.approx(1)
    (grad,) = torch.autograd.grad(pick_two(logits, 1.0, g).weights[0], logits)
    assert (grad != 0).sum() == 2 and grad.sum().item() == pytest.approx(0, abs=1e-6)
    assert pick_two(torch.zeros(1), 1.0, g) == Pick((0,), torch.ones(1))


def test_the_first_candidate_is_drawn_by_the_softmax_of_the_logits_and_the_pair_mixes_by_its_own():
    logits, g, n = torch.tensor([0.0, 1.0, -0.5]), generator(0, "frequencies"), 4000
    picks = [pick_two(logits, 1.0, g) for _ in range(n)]
    # Multinomial draws from the softmax of perturbed logits, whose expectation is near that of a warmer softmax.
    noise = -torch.empty(200_000, 3).exponential_(generator=g).log()
    expected = (logits.log_softmax(0) + noise).softmax(1).mean(0)
    first = torch.tensor([p.chosen[0] for p in picks]).bincount(minlength=3) / n
    assert ((first - expected).abs() < 4 * (expected * (1 - expected) / n).sqrt()).all()
    larger = [p for p in picks if 2 not in p.chosen]
    mixed = [float(p.weights[p.chosen.index(1)]) for p in larger]
    assert sum(m > 0.5 for m in mixed) / len(mixed) > 0.6  # candidate 1 is the likelier


def test_an_overflow_is_drawn_again_and_logits_that_diverged_are_refused():
    with pytest.raises(InputError, match="diverged"):
        pick_two(torch.tensor([0.0, math.nan]), 1.0, generator(0))


def test_the_cost_loss_switches_on_the_most_probable_sizes():
    e = torch.tensor(50.0, requires_grad=True)
    for macs, slope in ((61.0, 1 / 50), (60.0, 0.0), (55.0, 0.0), (54.0, -1 / 50)):
        (grad,) = torch.autograd.grad(cost_loss(e, macs, target=60.0, tolerance=5.0), e)
        assert grad.item() == pytest.approx(slope)


def test_a_layer_mixes_its_two_widths_each_under_its_own_norm():
    with seeded(0):
        layer = Layer(torch.nn.Conv2d(5, 8, 3, padding=1, bias=False), (2, 4, 8), 5).train()
        torch.nn.init.uniform_(layer.norms[1].weight)
    x, weights = torch.randn(6, 3, 4, 4), torch.tensor([0.3, 0.7])
    y = layer.layer(F.pad(x, (0, 0, 0, 0, 0, 2)))
    wide = layer.norms[1](y[:, :4])
    narrow = interpolate_channels(layer.norms[0](y[:, :2]), 4)
    out = layer(x, Pick((1, 0), weights))
    torch.testing.assert_close(out, 0.3 * wide + 0.7 * narrow)
    assert layer.norms[2].num_batches_tracked == 0  # that candidate was not asked


def test_depths_mix_at_the_widest_of_them():
    a, b = torch.randn(2, 3, 4, 4), torch.randn(2, 6, 4, 4)
    out = mixed_depth([a, b], torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(out, 0.25 * interpolate_channels(a, 6) + 0.75 * b)


# ---- sizes and what they cost ---------------------------------------------------------------------------------------


def test_the_cost_of_sizes_is_that_of_the_network_which_is_built(dense, residual):
    for task in (dense, residual):
        back, g = backbone(task), generator(0, "sizes")
        for _ in range(5):
            sizes = random_sizes(back, 0, g, tries=1)
            module = sized_task(task, sizes).space.module
            assert count(module, task.train.shape).macs == back.macs(sizes)
        full = sized_task(task, back.full)
        assert back.macs(back.full) == count(task.space.module, task.train.shape).macs
        assert full.space.size == task.space.size


def test_the_expected_cost_is_the_mean_over_independent_sizes(residual):
    """Widths are independent of depths, and neighbouring widths of each other: by brute force over a small backbone."""
    back = backbone(residual)
    sizes = Architecture(back, generator(0, "a"))
    g = generator(1, "values")
    for a in sizes.logits:
        a.data = torch.randn(len(a), generator=g)
    shares = [a.softmax(-1).detach().double() for a in sizes.logits]
    n, total = len(back.widths), 0.0
    means = [float(s @ torch.tensor(c).double()) for s, c in zip(shares[:n], sizes.widths, strict=True)]
    for i, d1 in enumerate(sizes.depths[0]):
        for j, d2 in enumerate(sizes.depths[1]):
            for k, d3 in enumerate(sizes.depths[2]):
                ends = [[float(b + 1 == d) for b in range(2)] for d in (d1, d2, d3)]
                total += float(shares[n][i] * shares[n + 1][j] * shares[n + 2][k]) * back.cost(means, ends)
    assert sizes.expected().item() == pytest.approx(total, rel=1e-5)


def test_expected_cost_of_sure_logits_is_that_of_the_most_probable_sizes(residual):
    back = backbone(residual)
    sizes = Architecture(back, generator(0, "a"))
    for a in sizes.logits:
        a.data = 200 * F.one_hot(torch.tensor(1 % len(a)), len(a)).float()
    assert sizes.expected().item() == pytest.approx(back.macs(sizes.sizes), rel=1e-5)
    assert sizes.sizes.depths == (2, 2, 2) and sizes.sizes.widths[0] == width_choices(8)[1]


def test_the_search_network_at_full_sizes_is_the_sized_network(residual):
    back = backbone(residual)
    with seeded(0):
        network = SearchNetwork(back).train()
    full = [Pick((len(width_choices(w)) - 1,), torch.ones(1)) for w in back.widths]
    last = [F.one_hot(torch.tensor(len(depth_choices(d)) - 1), len(depth_choices(d))).float() for d in back.depths]
    plain = sized_task(residual, back.full).space.module.train()
    layers = [plain.conv, *(c for b in plain.blocks for c in (b.conv1, b.conv2))]
    for own, other in zip(layers, network.layers, strict=True):
        own.weight = other.layer.weight
    plain.head = network.head
    x = torch.randn(8, 3, 9, 9)
    torch.testing.assert_close(network(x, full, last), plain(x))


def test_every_weight_and_every_logit_gets_a_gradient(dense, residual):
    for task in (dense, residual):
        back, g = backbone(task), generator(0, "draws")
        sizes = Architecture(back, g)
        with seeded(0):
            network = SearchNetwork(back).train()
        x = task.prepare(task.train.inputs[:6])
        total = sum(network(x, *sizes.draw(1.0, g)).square().sum() for _ in range(40))
        for grad in torch.autograd.grad(total, [*network.parameters(), *sizes.logits], allow_unused=True):
            assert grad is not None and grad.isfinite().all()


def test_uniform_and_random_sizes_cost_about_as_much(dense, residual):
    for task in (dense, residual):
        back = backbone(task)
        for share in (0.25, 0.4, 0.55):
            macs = share * back.macs(back.full)
            uniform, chance = uniform_sizes(back, macs), random_sizes(back, macs, generator(0, "sizes"))
            assert back.macs(chance) == pytest.approx(macs, rel=0.03)
            assert back.macs(uniform) == pytest.approx(macs, rel=0.1)
            assert uniform.depths == back.depths
            ratios = [a / b for a, b in zip(uniform.widths, back.widths, strict=True)]
            assert max(ratios) - min(ratios) < 0.15
        assert uniform_sizes(back, back.macs(back.full)) == back.full


def test_unknown_backbones_are_refused():
    with pytest.raises(InputError, match="sizes are searched for mlp"):
        backbone(load("digits", "small-conv"))
    with pytest.raises(InputError, match="sizes are searched for mlp"):
        backbone(load("digits", "mlp", widths=()))


# ---- the network of given sizes -------------------------------------------------------------------------------------


def test_the_sized_network_of_usual_sizes_has_the_parameters_of_the_resnet():
    sized, plain = build("sized-resnet", (3, 32, 32), 10), build("resnet-20", (3, 32, 32), 10)
    assert sum(p.numel() for p in sized.parameters()) == sum(p.numel() for p in plain.parameters()) == 269_722
    assert resnet_widths((3, 3, 3)) == (16,) * 7 + (32,) * 6 + (64,) * 6


def test_the_shortcut_aligns_the_first_channels():
    x = torch.arange(6.0).view(1, 3, 2, 1)
    assert torch.equal(with_channels(x, 2), x[:, :2]) and torch.equal(with_channels(x, 3), x)
    wider = with_channels(x, 5)
    assert torch.equal(wider[:, :3], x) and not wider[:, 3:].any()
    assert torch.equal(with_channels(x[:, :, 0, 0], 4), torch.tensor([[0.0, 2, 4, 0]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (1, 1), "widths": (4, 4, 4)}, r"depths \(1, 1\) have 5 convolutions.*got 3 widths"),
        ({"depths": (1, 0)}, "depths is a whole number from 1 up; got 0"),
        ({"depths": (1,), "widths": (4, 0, 4)}, "widths is a whole number from 1 up; got 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        build("sized-resnet", (3, 8, 8), 10, **options)


# ---- the search and what comes of it --------------------------------------------------------------------------------


def test_a_strong_push_meets_the_target_and_the_same_seed_finds_the_same(dense):
    settings = SearchSettings(epochs=3, batch_size=128, size_lr=0.2, cost_weight=50.0)
    found, again, other = (search(dense, 0.4, settings, seed) for seed in (0, 0, 1))
    assert found.met and found.macs == backbone(dense).macs(found.sizes)
    assert found.target - found.tolerance <= found.macs <= found.target
    assert found.sizes == again.sizes and torch.equal(found.course, again.course)
    assert not torch.equal(found.course, other.course)


def test_the_result_is_of_the_last_epoch_that_met_the_target(dense):
    found = search(dense, 0.5, SearchSettings(epochs=6, batch_size=128), 3)
    met = [macs for macs in found.course[:, 0].tolist() if found.meets(macs)]
    assert found.macs == (met[-1] if met else found.course[-1, 0])


def test_the_search_runs_over_images_with_their_augmentation(residual):
    task = residual.with_recipe(augment={"shift": 1, "flip": True})
    found = search(task, 0.5, SearchSettings(epochs=1, batch_size=16), 0)
    assert len(found.sizes.widths) == 13 and len(found.sizes.depths) == 3 and found.course.shape == (1, 2)
    assert not torch.equal(search(residual, 0.5, SearchSettings(epochs=1, batch_size=16), 0).course, found.course)


def test_a_search_is_kept(dense, monkeypatch):
    settings = SearchSettings(epochs=1, batch_size=256)
    first = searched(dense, 0.5, 0, settings)
    monkeypatch.setattr("surplus.pruning.structured.tas.search", lambda *_: pytest.fail("searched again"))
    again = searched(dense, 0.5, 0, settings)
    assert first.sizes == again.sizes and first.macs == again.macs and torch.equal(first.course, again.course)


def test_students_stand_on_tasks_of_their_own_sizes(dense):
    settings = SearchSettings(epochs=3, batch_size=128, size_lr=0.2, cost_weight=50.0)
    runs = tas(dense, keep=0.4, seeds=2, settings=settings, execution="stacked")
    full = backbone(dense).macs(backbone(dense).full)
    for seed, run in enumerate(runs):
        assert len(run) == 1 and run.seeds == (seed,)
        macs = count(run.task.space.module, run.task.train.shape).macs
        assert 0.35 * full <= macs <= 0.4 * full
        assert run.parts[0].spec["rule"]["name"] == "Distillation"
    plain = student(dense, searched(dense, 0.4, 0, settings).sizes, 0)
    assert plain.parts[0].spec["rule"] is None and plain.task.space.size == runs[0].task.space.size
    assert find("structured pruning", "tas").fn is tas


def test_a_missed_target_is_warned_of(dense):
    settings = SearchSettings(epochs=1, batch_size=720, tolerance=1e-6)
    with pytest.warns(MissedTarget, match="never met its target"):
        tas(dense, keep=0.31, seeds=[0], settings=settings, alpha=0.0)


def test_settings_out_of_bounds_are_refused(dense):
    with pytest.raises(InputError, match="density"):
        tas(dense, keep=1.2)
    with pytest.raises(ValueError, match="tolerance"):
        SearchSettings(tolerance=0)


def test_two_stages_of_the_sizes_are_counted_by_the_layers_that_are_used(residual):
    back = backbone(residual)
    sizes = Sizes(tuple(range(1, 14)), (1, 2, 1))
    assert back.used(sizes) == (1, 2, 3, 6, 7, 8, 9, 10, 11)
    widths = sized_task(residual, sizes).network.options["widths"]
    assert widths == back.used(sizes) and back.depths == (2, 2, 2)
