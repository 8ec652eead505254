import pytest
import torch
from torch import nn

from surplus.space import WeightSpace
from surplus.tasks import CLASSIFICATION, Objective, Recipe
from surplus.tasks.objective import REGRESSION
from surplus.training.chain import Chain
from surplus.training.engine import Separate, Stacked, engine_for

CPU = torch.device("cpu")
CHAINS = {
    "relu": lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)),
    "tanh, no bias": lambda: nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 3)),
    "two linear layers in a row": lambda: nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3), nn.ReLU()),
}


def parts(make, k=3, seed=0):
    space, g = WeightSpace(make), torch.Generator().manual_seed(seed)
    x, y = torch.randn(k, 8, 6, generator=g), torch.randint(0, 3, (k, 8), generator=g)
    return space, space.init_many(range(k)), x, y


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_by_hand_are_those_of_autograd(name, smoothing):
    space, theta, x, y = parts(CHAINS[name])
    recipe = Recipe(label_smoothing=smoothing)
    chain = Chain.of(space, CLASSIFICATION, recipe)
    stacked = Stacked(space, CLASSIFICATION, recipe, 3, CPU)
    separate = Separate(space, CLASSIFICATION, recipe, [0, 1, 2], CPU)
    found = chain(theta, x, y, 0)
    for engine in (stacked, separate):
        for a, b in zip(found, engine(theta, x, y, 0), strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(chain.outputs(theta, x, 0), found[0])


def test_weights_of_examples_and_losses_of_a_rule_enter():
    space, theta, x, y = parts(CHAINS["relu"])
    weights = torch.rand(3, 8, generator=torch.Generator().manual_seed(1))

    def own(outputs):
        return outputs.square().sum(-1) * (1 + outputs.mean(1, keepdim=True).sum(-1))  # of the whole batch

    engines = [Chain.of(space, CLASSIFICATION, Recipe()), Separate(space, CLASSIFICATION, Recipe(), [0, 1, 2], CPU)]
    for weigh, loss in (
        (lambda _: weights, None),
        (None, own),
        (lambda _: weights, own),
        (lambda _: None, lambda _: None),
    ):
        a, b = (engine(theta, x, y, 0, weigh, loss) for engine in engines)
        for left, right in zip(a, b, strict=True):
            torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-5)


def test_other_objectives_are_differentiated_too():
    space, theta, x, _ = parts(CHAINS["tanh, no bias"])
    y = torch.randn(3, 8, 3, generator=torch.Generator().manual_seed(2))
    a = Chain.of(space, REGRESSION, Recipe())(theta, x, y, 0)
    b = Separate(space, REGRESSION, Recipe(), [0, 1, 2], CPU)(theta, x, y, 0)
    torch.testing.assert_close(a[2], b[2], atol=1e-6, rtol=1e-5)


def test_a_gradient_survives_the_next_call():
    space, theta, x, y = parts(CHAINS["relu"])
    chain = Chain.of(space, CLASSIFICATION, Recipe())
    first = chain(theta, x, y, 0)[2]
    kept = first.clone()
    chain(theta, 2 * x, y, 1)
    assert torch.equal(first, kept)


def shared():
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(6, 3))


def frozen():
    net = CHAINS["relu"]()
    net[0].weight.requires_grad_(False)
    return net


def hooked():
    net = CHAINS["relu"]()
    net[1].register_forward_hook(lambda *_: None)
    return net


@pytest.mark.parametrize(
    "make",
    [
        *(shared, frozen, hooked),
        lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)),
        lambda: nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5), nn.Linear(4, 3)),
        lambda: nn.Sequential(nn.Linear(6, 4), nn.GELU(), nn.Linear(4, 3)),
        lambda: nn.Sequential(nn.ReLU(), nn.Linear(6, 3)),
        lambda: nn.Sequential(nn.Linear(6, 4), nn.Flatten(), nn.Linear(4, 3)),
        lambda: nn.Sequential(nn.Sequential(nn.Linear(6, 4), nn.ReLU()), nn.Linear(4, 3)),
    ],
)
def test_whatever_is_no_plain_chain_is_left_to_the_other_engines(make):
    space = WeightSpace(make)
    assert Chain.of(space, CLASSIFICATION, Recipe()) is None
    assert isinstance(engine_for(space, CLASSIFICATION, Recipe(), [0, 1], CPU, stacked=True), Stacked)
    assert isinstance(engine_for(space, CLASSIFICATION, Recipe(), [0], CPU, stacked=False), Separate)


def test_half_precision_is_left_to_the_other_engines():
    space = WeightSpace(CHAINS["relu"])
    assert Chain.of(space, CLASSIFICATION, Recipe(precision="bfloat16")) is None
    assert isinstance(engine_for(space, CLASSIFICATION, Recipe(), [0], CPU, stacked=False), Chain)


def test_a_user_s_own_loss_is_an_objective_like_any_other():
    from surplus.tasks.objective import custom

    space, theta, x, _ = parts(CHAINS["linear"])
    y = torch.randn(3, 8, 3, generator=torch.Generator().manual_seed(2))
    objective: Objective = custom(lambda o, t: (o - t).abs().sum(-1))
    a = Chain.of(space, objective, Recipe())(theta, x, y, 0)
    b = Separate(space, objective, Recipe(), [0, 1, 2], CPU)(theta, x, y, 0)
    torch.testing.assert_close(a[2], b[2], atol=1e-6, rtol=1e-5)
