import torch

from surplus.tasks import Augment
from surplus.training.augment import augment, draw


def batch(k=2, b=6, side=8):
    x = torch.arange(k * b * side * side, dtype=torch.float32).reshape(k, b, 1, side, side) % 251
    return x.to(torch.uint8), torch.arange(b).expand(k, b)


def draws(settings, seeds=(0, 1), epoch=0, side=8, n=6):
    return draw(settings, list(seeds), epoch, (1, side, side), n, torch.device("cpu"))


def test_nothing_to_change_draws_nothing():
    assert draws(Augment()) is None


def test_a_shift_is_a_crop_of_the_reflected_picture():
    x, index = batch()
    settings = Augment(shift=2)
    d = draws(settings)
    out = augment(x, settings, d, index)
    padded = torch.nn.functional.pad(x[1].float(), (2, 2, 2, 2), mode="reflect")
    for i in range(6):
        dy, dx = int(d.down[1, i]), int(d.across[1, i])
        assert torch.equal(out[1, i].float(), padded[i, :, dy : dy + 8, dx : dx + 8])


def test_a_mirrored_picture_is_the_flip_and_about_half_are():
    x, index = batch(1, 400)
    settings = Augment(flip=True)
    d = draws(settings, seeds=[3], n=400)
    out = augment(x, settings, d, index)
    flipped = (out[0] == x[0].flip(-1)).flatten(1).all(1)
    assert torch.equal(flipped, d.mirrored[0]) and 150 < int(flipped.sum()) < 250


def test_cutout_greys_a_square_that_the_border_may_clip():
    x, index = batch()
    settings = Augment(cutout=3)
    out = augment(x, settings, draws(settings), index)
    changed = (out != x).flatten(2).sum(2)
    assert ((changed > 0) & (changed <= 9)).all()


def test_a_replica_draws_the_same_alone_and_anew_each_epoch():
    settings = Augment(shift=2, flip=True)
    together, alone, later = draws(settings), draws(settings, seeds=[1]), draws(settings, epoch=1)
    assert torch.equal(together.across[1], alone.across[0]) and not torch.equal(together.across, later.across)
