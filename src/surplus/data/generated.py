"""Small generated tasks whose truth is known: each function returns (inputs, targets) drawn from a generator.

One call is one task. Training and test examples of the same task come from one call, split: a second call draws new
centres, a new teacher or a new chain, unless these are given as an argument.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from surplus.errors import InputError


def gaussian_blobs(
    n: int,
    generator: Generator,
    *,
    classes: int = 3,
    features: int = 2,
    separation: float = 4.0,
    centres: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One round cloud of unit variance per class.

    Args:
        n: examples; classes are equally likely.
        generator: source of the draws.
        classes: K.
        features: d.
        separation: typical distance between two centres: each is N(0, separation^2 / (2 d)) in every coordinate.
        centres: (K, d) to use in place of random ones.

    Returns:
        (n, d) floats and (n,) classes.
    """
    _at_least(1, n=n, classes=classes, features=features)
    if centres is None:
        centres = separation / math.sqrt(2 * features) * _normal((classes, features), generator)
    targets = torch.randint(len(centres), (n,), generator=generator, device=generator.device)
    return centres[targets] + _normal((n, centres.shape[1]), generator), targets


def teacher_perceptron(
    n: int, generator: Generator, *, features: int = 100, teacher: Tensor | None = None, flip: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Normal inputs with the labels of a perceptron, y = 1(teacher . x > 0): the teacher-student set-up.

    Args:
        n: examples.
        generator: source of the draws.
        features: d.
        teacher: (d,) normal vector of the boundary; a random one of length sqrt(d) if None.
        flip: chance that a label is wrong.

    Returns:
        (n, d) floats and (n,) classes 0 or 1.
    """
    _at_least(1, n=n, features=features)
    _share(flip=flip)
    if teacher is None:
        teacher = _normal((features,), generator)
        teacher = math.sqrt(features) * teacher / teacher.norm()
    inputs = _normal((n, len(teacher)), generator)
    wrong = torch.rand(n, generator=generator, device=generator.device) < flip
    return inputs, ((inputs @ teacher > 0) ^ wrong).long()


def two_moons(n: int, generator: Generator, *, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    """Two interleaved half circles of radius 1, around (0, 0) and (1, 1/2), blurred by normal noise.

    Args:
        n: examples; both moons are equally likely, and so is every angle.
        generator: source of the draws.
        noise: standard deviation in each coordinate.

    Returns:
        (n, 2) floats and (n,) classes: 0 the upper moon, 1 the lower.
    """
    _at_least(1, n=n)
    targets = torch.randint(2, (n,), generator=generator, device=generator.device)
    angle = math.pi * torch.rand(n, generator=generator, device=generator.device)
    sign = 1.0 - 2.0 * targets
    moon = torch.stack([sign * angle.cos() + targets, sign * angle.sin() + 0.5 * targets], 1)
    return moon + noise * _normal((n, 2), generator), targets


def xor_clusters(n: int, generator: Generator, *, features: int = 2, spread: float = 0.3) -> tuple[Tensor, Tensor]:
    """Four clusters at (+-1, +-1), the class saying whether the signs differ: no single feature, and no line, tells it.

    Args:
        n: examples.
        generator: source of the draws.
        features: d; those after the first two are noise.
        spread: standard deviation around a cluster's centre, and of the noise features.

    Returns:
        (n, d) floats and (n,) classes 0 (signs agree) or 1.
    """
    _at_least(1, n=n)
    _at_least(2, features=features)
    signs = torch.randint(2, (n, 2), generator=generator, device=generator.device)
    inputs = spread * _normal((n, features), generator)
    inputs[:, :2] += 2.0 * signs - 1
    return inputs, signs[:, 0] ^ signs[:, 1]


def zipf_frequencies(populations: int, exponent: float = 1.0) -> Tensor:
    """D(k) proportional to (k + 1)^-exponent, (populations,), summing to one: the most frequent first."""
    _at_least(1, populations=populations)
    weight = torch.arange(1, populations + 1, dtype=torch.float64) ** -exponent
    return weight / weight.sum()


def zipf_populations(n: int, generator: Generator, *, populations: int = 200, exponent: float = 1.0) -> Tensor:
    """The subpopulation (n,) of each example, drawn with Zipf's frequencies, for `zipf_table`."""
    _at_least(1, n=n)
    return (
        zipf_frequencies(populations, exponent)
        .to(generator.device)
        .multinomial(n, replacement=True, generator=generator)
    )


def zipf_table(
    population: Tensor, generator: Generator, *, features: int = 20, classes: int = 10, spread: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Feldman's long tail (2020, arXiv 1906.05271): subpopulations whose labels tell nothing of one another.

        x_i = centre[population_i] + spread noise,   y_i = label[population_i],   labels uniform and independent

    An example that is alone in its subpopulation can be answered only by remembering it. Feldman draws each frequency
    from the prior list anew; here the list is used as it stands, once each.

    Args:
        population: (n,) numbers from `zipf_populations`, for training and test examples together.
        generator: source of centres (unit normal), labels and noise.
        features: d.
        classes: K.
        spread: noise around a centre; centres lie about sqrt(2 d) apart.

    Returns:
        (n, d) floats and (n,) classes.
    """
    _at_least(1, features=features, classes=classes)
    if not len(population) or population.min() < 0:
        raise InputError(
            "population holds one number from 0 for each example, and at least one example; see zipf_populations"
        )
    many = int(population.max()) + 1
    centres = _normal((many, features), generator)
    labels = torch.randint(classes, (many,), generator=generator, device=generator.device)
    population = population.to(generator.device)
    return centres[population] + spread * _normal((len(population), features), generator), labels[population]


def sinusoid(
    n: int,
    generator: Generator,
    *,
    amplitude: float = 1.0,
    phase: float = 0.0,
    reach: float = 3.0,
    noise: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Regression on amplitude sin(x + phase), with x uniform on [-reach, reach].

    Finn et al. 2017 (arXiv 1703.03400, section 5.1) learn to learn these with amplitudes in [0.1, 5], phases in
    [0, pi], reach 5 and no noise.

    Args:
        n: examples.
        generator: source of the draws.
        amplitude: height of the wave.
        phase: its shift in radians.
        reach: half the width of the interval.
        noise: standard deviation of the targets around the curve.

    Returns:
        (n, 1) and (n, 1) floats.
    """
    _at_least(1, n=n)
    inputs = reach * (2 * torch.rand(n, 1, generator=generator, device=generator.device) - 1)
    return inputs, amplitude * torch.sin(inputs + phase) + noise * _normal((n, 1), generator)


def markov_chain(vocabulary: int, generator: Generator, *, sharpness: float = 2.0) -> Tensor:
    """A random transition matrix (V, V): softmax of sharpness times normals; 0 makes all tokens equally likely."""
    _at_least(2, vocabulary=vocabulary)
    return (sharpness * _normal((vocabulary, vocabulary), generator).double()).softmax(1)


def markov_text(
    n: int, generator: Generator, *, length: int = 32, vocabulary: int = 16, chain: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sequences from a Markov chain, to model language whose best possible loss is known: `entropy_rate(chain)`.

    Args:
        n: sequences.
        generator: source of the draws.
        length: tokens in an input.
        vocabulary: V, where no chain is given.
        chain: (V, V) row-stochastic; a random one by `markov_chain` if None.

    Returns:
        inputs (n, length) and targets (n, length): the target of a token is the token after it.
    """
    _at_least(1, n=n, length=length)
    chain = markov_chain(vocabulary, generator) if chain is None else chain.to(generator.device)
    if (
        chain.dim() != 2
        or chain.shape[0] != chain.shape[1]
        or not torch.allclose(chain.sum(1), chain.new_ones(len(chain)), atol=1e-5)
    ):
        raise InputError(f"a chain is (V, V) with rows that sum to 1; got shape {tuple(chain.shape)}")
    tokens = [stationary(chain).multinomial(n, replacement=True, generator=generator)]
    for _ in range(length):
        tokens.append(chain[tokens[-1]].multinomial(1, generator=generator).squeeze(1))
    text = torch.stack(tokens, 1)  # (n, length + 1)
    return text[:, :-1].contiguous(), text[:, 1:].contiguous()


def stationary(chain: Tensor) -> Tensor:
    """The law p (V,) that the chain keeps, p P = p; p sums to one."""
    size = len(chain)
    system = torch.cat([chain.T - torch.eye(size).to(chain), torch.ones(1, size).to(chain)])
    right = torch.zeros(size + 1, 1).to(chain)
    right[-1] = 1
    return torch.linalg.lstsq(system, right).solution.squeeze(1).clamp(min=0)


def entropy_rate(chain: Tensor) -> Tensor:
    """Nats per token that no model can beat: - sum_i p_i sum_j P_ij log P_ij with p the stationary law."""
    return stationary(chain) @ torch.special.entr(chain).sum(1)


def _normal(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)


def _at_least(least: int, **counts: int) -> None:
    for name, count in counts.items():
        if count < least:
            raise InputError(f"{name} must be at least {least}; got {count}")


def _share(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise InputError(f"{name} is a share and lies in [0, 1]; got {share}")
