import pytest
import torch

from surplus.errors import InputError
from surplus.examples.labels import check_labels, held_out_log_probabilities, label_statistic, noise_matrix

CLASSES = 5


def readers(n, noise, *, sharp=3.0, runs=6, seed=0):
    """Simulated networks that read true classes with Gaussian logits; labels with a known share of errors."""
    g = torch.Generator().manual_seed(seed)
    true = torch.randint(CLASSES, (n,), generator=g)
    wrong = torch.rand(n, generator=g) < noise
    labels = torch.where(wrong, (true + torch.randint(1, CLASSES, (n,), generator=g)) % CLASSES, true)
    common = torch.randn(n, CLASSES, generator=g)
    signal = sharp * torch.nn.functional.one_hot(true, CLASSES)
    outputs = signal + 0.7 * common + 0.7 * torch.randn(runs, n, CLASSES, generator=g)
    trained_on = torch.zeros(runs, n, dtype=torch.bool)
    for r in range(0, runs, 2):
        trained_on[r] = torch.rand(n, generator=g) < 0.5
        trained_on[r + 1] = ~trained_on[r]
    return outputs, trained_on, labels, wrong


def test_the_statistic_of_a_worked_example():
    log_p = torch.tensor([[0.7, 0.2, 0.1]]).log()
    s = label_statistic(log_p, torch.tensor([1]))
    torch.testing.assert_close(s, 1.5 * torch.tensor([0.2]).log() - 0.5 * torch.tensor([0.7]).log())


def test_only_networks_that_did_not_train_on_an_example_read_it():
    outputs = torch.tensor([[[5.0, 0.0]], [[0.0, 5.0]]])
    log_p = held_out_log_probabilities(outputs, torch.tensor([[True], [False]]))
    torch.testing.assert_close(log_p, outputs[1].log_softmax(-1))


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.3])
def test_the_estimated_share_of_wrong_labels_lands_within_four_standard_errors(noise):
    outputs, trained_on, labels, wrong = readers(20_000, noise)
    check = check_labels(outputs, trained_on, labels)
    sampling = (noise * (1 - noise) / len(labels)) ** 0.5
    assert (
        abs(float(check.rate.mean) - float(wrong.float().mean()))
        < 4 * (float(check.rate.stderr) + sampling) + 0.01 * noise
    )


def test_probabilities_are_calibrated():
    outputs, trained_on, labels, wrong = readers(20_000, 0.1, sharp=2.0)
    p = check_labels(outputs, trained_on, labels).probability
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.01)):
        inside = (p >= low) & (p < high)
        assert inside.sum() > 50
        gap = p[inside].mean() - wrong[inside].double().mean()
        assert abs(float(gap)) < 0.08


def test_expected_precision_foretells_precision():
    outputs, trained_on, labels, wrong = readers(20_000, 0.1, sharp=2.0)
    check = check_labels(outputs, trained_on, labels)
    for top in (500, 2000):
        foretold = check.expected_precision(top)
        assert abs(float(foretold.mean) - float(wrong[check.ranking()[:top]].double().mean())) < 0.05


def test_clean_labels_give_a_share_near_zero_and_say_how_near():
    outputs, trained_on, labels, _ = readers(4000, 0.0, sharp=6.0)
    check = check_labels(outputs, trained_on, labels)
    assert float(check.rate.mean) < 0.003 and 0 < float(check.rate.stderr) < 0.003


def test_the_noise_matrix_finds_who_is_taken_for_whom():
    outputs, trained_on, labels, _ = readers(20_000, 0.0, sharp=4.0)
    g = torch.Generator().manual_seed(1)
    flipped = torch.where((labels == 2) & (torch.rand(len(labels), generator=g) < 0.3), 4, labels)
    t = check_labels(outputs, trained_on, flipped).transition
    assert abs(float(t[2, 4]) - 0.3) < 0.03 and float(t[2].sum()) == pytest.approx(1)
    assert float(t[0, 0]) > 0.97


def test_a_noise_matrix_of_certain_labels_is_the_identity():
    log_p = (8 * torch.eye(3)).log_softmax(-1).repeat(100, 1)
    t = noise_matrix(log_p, torch.arange(3).repeat(100), torch.zeros(300))
    torch.testing.assert_close(t, torch.eye(3), atol=1e-4, rtol=0)


def test_the_order_of_examples_does_not_matter():
    outputs, trained_on, labels, _ = readers(3000, 0.1)
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(0))
    a = check_labels(outputs, trained_on, labels)
    b = check_labels(outputs[:, order], trained_on[:, order], labels[order])
    assert torch.corrcoef(torch.stack([a.probability[order], b.probability]))[0, 1] > 0.995  # planted labels differ


def test_a_misleading_signal_cannot_spoil_the_ranking_and_a_good_one_may_join():
    outputs, trained_on, labels, wrong = readers(10_000, 0.1, sharp=2.0)
    noise = torch.randn(10_000, generator=torch.Generator().manual_seed(3))
    top = int(wrong.sum())
    precision = lambda c: float(wrong[c.ranking()[:top]].double().mean())
    alone = precision(check_labels(outputs, trained_on, labels))
    spoiled = check_labels(outputs, trained_on, labels, {"noise": noise})
    helped = check_labels(outputs, trained_on, labels, {"hint": wrong + 0.1 * noise})
    assert precision(spoiled) > alone - 0.005 and abs(spoiled.weights["noise"]) < 0.02
    assert precision(helped) >= alone and helped.weights["hint"] > 0.03


def test_suggestions_name_the_most_likely_other_class():
    outputs, trained_on, labels, wrong = readers(2000, 0.2, sharp=8.0)
    check = check_labels(outputs, trained_on, labels)
    assert (check.suggested != labels).all()
    log_p = held_out_log_probabilities(outputs, trained_on)
    assert (check.suggested[wrong] == log_p.argmax(1)[wrong]).float().mean() > 0.99


def test_an_example_that_was_never_held_out_is_refused():
    outputs, trained_on, labels, _ = readers(100, 0.1)
    trained_on[:, 7] = True
    with pytest.raises(InputError, match="the first is 7"):
        check_labels(outputs, trained_on, labels)
