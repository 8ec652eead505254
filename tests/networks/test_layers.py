"""The parts of networks against closed forms, properties and independent versions."""

import pytest
import torch
from torch import nn

from surplus.errors import InputError
from surplus.networks import build
from surplus.networks.attention import Attention
from surplus.networks.layers import glorot_normal, he_normal
from surplus.networks.resnet import Block, PadShortcut
from surplus.networks.speednet import ShiftNorm, cosine_basis, whitening_basis
from surplus.space import generator, seeded


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=generator(seed, "test"), dtype=dtype)


def test_an_mlp_without_hidden_layers_is_a_linear_map():
    m, x = build("mlp", (1, 2, 2), 3, widths=()), randn(5, 1, 2, 2)
    torch.testing.assert_close(m(x), x.flatten(1) @ m.head.weight.T + m.head.bias)


def test_an_mlp_without_biases_and_with_relu_is_homogeneous_in_its_input():
    m, x = build("mlp", (6,), 3, widths=(8, 8), bias=False), randn(5, 6)
    torch.testing.assert_close(m(3 * x), 3 * m(x))


def test_the_pad_shortcut_takes_every_second_pixel_and_adds_channels_of_zeros():
    x = torch.arange(25.0).view(1, 1, 5, 5)
    y = PadShortcut(extra=3, stride=2)(x)
    assert y.shape == (1, 4, 3, 3)
    assert torch.equal(y[0, 1], torch.tensor([[0.0, 2, 4], [10, 12, 14], [20, 22, 24]]))
    assert not y[0, [0, 2, 3]].any()


def test_a_residual_block_whose_branch_is_zero_is_the_relu_of_its_input():
    block, x = Block(4, 4, 1, nn.BatchNorm2d, "pad"), randn(3, 4, 5, 5)
    nn.init.zeros_(block.norm2.weight)
    torch.testing.assert_close(block(x), x.relu())


def test_group_norm_does_not_mix_examples_and_batch_norm_does():
    x = randn(4, 3, 8, 8)
    for kind, alone in (("group", True), ("batch", False)):
        m = build("resnet-20", (3, 8, 8), 2, norm=kind).train()
        assert torch.allclose(m(x)[:2], m(x[:2]), atol=1e-5) == alone


def test_starts_have_the_variances_of_their_papers():
    with seeded(0):
        layer = nn.Linear(400, 1600)
        assert he_normal(layer).weight.var().item() == pytest.approx(2 / 400, rel=0.02)
        assert glorot_normal(layer).weight.var().item() == pytest.approx(2 / 2000, rel=0.02)
    assert not layer.bias.any()


@pytest.mark.parametrize("causal", [False, True])
def test_attention_agrees_with_torchs_own(causal):
    ours, x = Attention(12, 3, causal, fused=False), randn(2, 5, 12)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    torch.testing.assert_close(ours(x), theirs(x, x, x, attn_mask=mask, need_weights=False)[0])


def test_the_fused_kernel_gives_the_same_answer():
    exact, fused = Attention(12, 3, True, fused=False), Attention(12, 3, True, fused=True)
    fused.load_state_dict(exact.state_dict())
    x = randn(2, 5, 12)
    torch.testing.assert_close(exact(x), fused(x), atol=1e-5, rtol=1e-5)


def test_a_vit_without_positions_ignores_the_order_of_patches():
    m = build("vit-small", (1, 8, 8), 3, width=16, depth=2, heads=2)
    x = randn(2, 1, 8, 8)
    swapped = torch.cat([x[:, :, 4:], x[:, :, :4]], dim=2)
    assert not torch.allclose(m(x), m(swapped), atol=1e-5)
    nn.init.zeros_(m.positions)
    torch.testing.assert_close(m(x), m(swapped), atol=1e-5, rtol=1e-5)


def test_a_causal_transformer_does_not_look_ahead():
    m = build("causal-transformer", (7, 5), 7, width=16, depth=2, heads=2)
    x = torch.tensor([[1, 2, 3, 4, 5]])
    y, changed = m(x), m(torch.tensor([[1, 2, 3, 0, 0]]))
    torch.testing.assert_close(y[:, :3], changed[:, :3])
    assert not torch.allclose(y[:, 3], changed[:, 3])
    torch.testing.assert_close(m(x[:, :3]), y[:, :3])  # shorter rows are fine


def test_predicting_at_the_last_token_is_the_last_row_of_predicting_at_all():
    options = {"width": 16, "depth": 1, "heads": 2}
    every = build("causal-transformer", (7, 5), 7, **options)
    last = build("causal-transformer", (7, 5), 7, predict="last", **options)
    last.load_state_dict(every.state_dict())
    x = torch.tensor([[1, 2, 3], [4, 5, 6]])
    torch.testing.assert_close(last(x), every(x)[:, -1])


def test_weights_are_tied_when_outputs_are_tokens_unless_told_otherwise():
    tied = build("causal-transformer", (7, 5), 7)
    assert tied.head.weight is tied.tokens.weight
    for m in (build("causal-transformer", (7, 5), 7, tied=False), build("causal-transformer", (7, 5), 4)):
        assert m.head.weight is not m.tokens.weight


def test_a_row_longer_than_the_context_is_refused():
    m = build("causal-transformer", (7, 5), 7)
    with pytest.raises(InputError, match="at most 5 tokens in a row; got 6"):
        m(torch.zeros(1, 6, dtype=torch.long))


def test_the_cosine_basis_is_orthonormal():
    rows = cosine_basis(3, 2).flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(12))


def test_whitened_patches_have_unit_covariance():
    images = randn(40, 3, 9, 9, dtype=torch.float64).cumsum(-1).cumsum(-2)  # neighbours are correlated
    responses = nn.functional.conv2d(images - images.mean(), whitening_basis(images, 2, floor=0))
    covariance = responses.movedim(1, 0).flatten(1).cov(correction=0)
    torch.testing.assert_close(covariance, torch.eye(12, dtype=torch.float64))


def test_speed_net_can_be_whitened_with_both_signs_of_each_filter():
    images = randn(20, 3, 9, 9)
    m = build("speed-net", (3, 9, 9), 2, width=0.1).whiten(images)
    positive, negative = m.stem.weight.chunk(2)
    torch.testing.assert_close(positive, whitening_basis(images, 2))
    assert torch.equal(positive, -negative)


def test_speed_net_refuses_to_whiten_a_plain_stem_or_images_of_other_channels():
    with pytest.raises(InputError, match="stem='whiten'"):
        build("speed-net", (3, 9, 9), 2, width=0.1, stem="plain").whiten(torch.zeros(1, 3, 9, 9))
    with pytest.raises(InputError, match=r"\(n, 3, H, W\); got \(1, 1, 9, 9\)"):
        build("speed-net", (3, 9, 9), 2, width=0.1).whiten(torch.zeros(1, 1, 9, 9))


def test_speed_nets_blocks_start_as_the_identity_on_the_channels_they_receive():
    conv = build("speed-net", (3, 9, 9), 2, width=0.5).blocks[0].conv1  # 24 to 32 channels
    x = randn(2, 24, 5, 5)
    torch.testing.assert_close(conv(x)[:, :24], x)


def test_the_logit_scale_multiplies_the_logits():
    one, x = build("speed-net", (3, 9, 9), 2, width=0.1, logit_scale=1.0).eval(), randn(2, 3, 9, 9)
    third = build("speed-net", (3, 9, 9), 2, width=0.1, logit_scale=1 / 3).eval()
    third.load_state_dict(one.state_dict())
    torch.testing.assert_close(third(x), one(x) / 3)


def test_shift_norm_standardises_and_adds_its_shift():
    layer, x = ShiftNorm(2), 5 + 3 * randn(64, 2, 4, 4)
    with torch.no_grad():
        layer.shift.copy_(torch.tensor([1.0, -2.0]))
    y = layer(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), layer.shift.detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std((0, 2, 3), correction=0), torch.ones(2), atol=1e-4, rtol=0)
