from __future__ import annotations

import pytest
import torch

from surplus.errors import InputError
from surplus.studies import Untestable, data


def test_files_that_nobody_provides_are_named_with_the_way_to_provide_them(no_files, tmp_path, monkeypatch):
    with pytest.raises(Untestable, match=r"needs the files cifar10, .*SURPLUS_DATA names, which is not set"):
        data.provided("cifar10", data.CSCORES)
    (tmp_path / "cifar10").mkdir()
    monkeypatch.setenv(data.FOLDER, str(tmp_path))
    assert data.provided("cifar10") == [tmp_path / "cifar10"]
    with pytest.raises(Untestable, match=r"needs the files scores/\S+ in .* missing"):
        data.provided("cifar10", data.CSCORES)


def test_flips_move_exactly_their_share_of_training_labels_and_no_other():
    clean = data.splits("digits", 3)
    noisy, wrong = data.flipped(clean, 0.1, 3)
    assert torch.equal(noisy.train.targets != clean.train.targets, wrong)
    assert float(wrong.float().mean()) == pytest.approx(0.1, abs=0.005)
    assert torch.equal(noisy.test.targets, clean.test.targets)
    assert not torch.equal(data.flipped(clean, 0.1, 4)[1], wrong)


def test_the_digits_are_cut_anew_for_each_seed():
    first, again, other = (data.splits("digits", seed).test.fingerprint for seed in (0, 0, 1))
    assert first == again != other


def test_the_worse_label_is_wrong_where_any_answer_is():
    clean = torch.tensor([0, 1, 2, 0])
    singles = torch.tensor([[0, 1, 2, 1], [0, 2, 2, 2], [0, 1, 2, 1]])
    people = data.HumanLabels(torch.arange(4), clean, clean, singles)
    assert people.worse_is_wrong.tolist() == [False, True, False, True]
    for seed in range(20):
        assert torch.equal(people.worse(seed) != clean, people.worse_is_wrong)
        assert int(people.worse(seed)[1]) == 2
    assert {int(people.worse(seed)[3]) for seed in range(20)} == {1, 2}


def test_tables_are_joined_by_index_whatever_their_order():
    at = data.joined(
        torch.tensor([4, 0]), torch.tensor([9, 7]), torch.tensor([4, 2, 0]), torch.tensor([9, 8, 7]), "a and b"
    )
    assert at.tolist() == [0, 2]


def test_tables_in_different_orders_are_refused():
    with pytest.raises(InputError, match="1 of 2 labels differ"):
        data.joined(torch.tensor([0, 1]), torch.tensor([7, 8]), torch.tensor([0, 1]), torch.tensor([7, 7]), "a and b")
    with pytest.raises(InputError, match="1 rows of one have no partner"):
        data.joined(torch.tensor([0, 5]), torch.tensor([7, 8]), torch.tensor([0, 1]), torch.tensor([7, 8]), "a and b")


def test_a_label_file_of_another_kind_is_refused(provided_files):
    (provided_files / data.CIFAR10N).write_bytes((provided_files / data.CSCORES).read_bytes())
    with pytest.raises(InputError, match="no column clean"):
        data.human_labels()
