"""A noisy web: exact shares, a true record, and copies that are near."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from surplus.data import Dataset, read
from surplus.data.web import NoisyWeb, noisy_web
from surplus.errors import InputError


def gen(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def table(per_class: int = 200, classes: int = 4) -> Dataset:
    labels = torch.arange(classes).repeat(per_class)
    return Dataset.of(torch.eye(classes)[labels] * 3 + torch.randn(len(labels), classes, generator=gen()), labels)


def truth(web: NoisyWeb, dataset: Dataset) -> Tensor:
    return dataset.targets[web.source]


@pytest.fixture(scope="module")
def digits():
    return read("digits").train


@pytest.mark.parametrize("data", [table(), read("digits").train], ids=["table", "images"])
def test_shares_are_exact_and_the_record_tells_the_truth(data):
    web = noisy_web(data, flips=0.2, duplicates=0.15, foreign=0.1, generator=gen())
    n = len(web.dataset)
    for name, share in (("clean", 0.55), ("flipped", 0.2), ("duplicate", 0.15), ("foreign", 0.1)):
        assert abs(int(web.of(name).sum()) - share * n) <= 1
    right = web.dataset.targets == truth(web, data)
    assert right[web.of("clean") | web.of("duplicate")].all() and not right[web.of("flipped")].any()
    untouched = web.of("clean") | web.of("flipped")
    assert torch.equal(web.dataset.inputs[untouched], data.inputs[web.source[untouched]])
    assert len(web.source[untouched].unique()) == int(untouched.sum())
    assert set(web.source[web.of("duplicate")].tolist()) <= set(web.source[web.of("clean")].tolist())
    assert web.dataset.inputs.dtype == data.inputs.dtype and web.dataset.ids.tolist() == list(range(n))


def test_originals_fall_off_by_the_imbalance_in_a_random_order_of_classes():
    data = table(per_class=500)
    webs = [noisy_web(data, imbalance=5, generator=gen(s)) for s in range(3)]
    for web in webs:
        sizes = truth(web, data)[web.of("clean") | web.of("flipped")].bincount().sort().values
        assert sizes.tolist() == [100, 170, 292, 500]  # 500 / 5^(k/3)
    assert len({tuple(truth(w, data).bincount().argsort().tolist()) for w in webs}) > 1


def test_classes_are_hit_unequally_and_taken_for_the_class_that_looks_alike():
    labels = torch.arange(4).repeat(2000)
    places = torch.tensor([0.0, 1.0, 10.0, 11.0])  # 0 and 1 look alike, and so do 2 and 3
    data = Dataset.of(places[labels][:, None] + 0.1 * torch.randn(8000, 1, generator=gen()), labels)
    web = noisy_web(data, flips=0.3, duplicates=0, foreign=0, imbalance=1, generator=gen(1))
    flipped, were = web.of("flipped"), truth(web, data)
    rates = (were[flipped].bincount() / were.bincount()).sort().values
    assert 2 < rates[-1] / rates[0] < 4  # three in rate, less as the fast ones run out
    alike = (were[flipped] ^ 1) == web.dataset.targets[flipped]
    assert abs(alike.double().mean() - (0.5 + 0.5 / 3)) < 4 * (2 / 9 / 2400) ** 0.5


def test_copies_are_nearer_to_their_source_than_other_examples_of_the_class_are(digits):
    web = noisy_web(digits, generator=gen())
    copies = web.of("duplicate")
    x, source = web.dataset.inputs[copies].float(), web.source[copies]
    away = (x - digits.inputs[source].float()).flatten(1).norm(dim=1)
    same = [digits.inputs[digits.targets == k].float() for k in range(10)]
    other = torch.stack(
        [
            (same[int(k)].flatten(1) - a.flatten()).norm(dim=1).median()
            for k, a in zip(digits.targets[source], x, strict=True)
        ]
    )
    assert (away < other).double().mean() > 0.75 and (away > 0).all()


def test_a_stranger_is_a_scrambled_input_or_a_mean_of_two(digits):
    web = noisy_web(digits, generator=gen())
    strange = web.of("foreign")
    x, source = web.dataset.inputs[strange].flatten(1), digits.inputs[web.source[strange]].flatten(1)
    scrambled = (x.sort(1).values == source.sort(1).values).all(1)
    assert abs(int(scrambled.sum()) - len(x) / 2) <= 1
    remainder = 2 * x[~scrambled].float() - source[~scrambled].float()  # the other one of the two, up to rounding
    nearest = torch.cdist(remainder, digits.inputs.flatten(1).float()).min(1)
    assert (nearest.values <= 8).all()  # 64 pixels, each within 1
    assert (digits.targets[nearest.indices] != truth(web, digits)[strange][~scrambled]).all()


def test_same_seed_same_web_and_nothing_asked_for_changes_nothing(digits):
    one, same, other = (noisy_web(digits, generator=gen(s)) for s in (0, 0, 1))
    assert one.dataset.fingerprint == same.dataset.fingerprint != other.dataset.fingerprint
    data = table()
    whole = noisy_web(data, flips=0, duplicates=0, foreign=0, imbalance=1, generator=gen())
    assert whole.of("clean").all() and sorted(whole.source.tolist()) == list(range(len(data)))


def test_what_a_noisy_web_refuses(digits):
    with pytest.raises(InputError, match="leave clean ones"):
        noisy_web(digits, flips=0.5, duplicates=0.3, foreign=0.2, generator=gen())
    with pytest.raises(InputError, match="leave clean ones"):
        noisy_web(digits, flips=-0.1, generator=gen())
    regression = Dataset.of(torch.rand(9, 2), torch.rand(9))
    with pytest.raises(InputError, match="with classes"):
        noisy_web(regression, generator=gen())
    with pytest.raises(InputError, match="kind of example is called 'cleen'; did you mean clean"):
        noisy_web(digits, generator=gen()).of("cleen")
