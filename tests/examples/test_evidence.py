import pytest
import torch

from surplus.errors import InputError
from surplus.examples import c_score, el2n, same_class_density
from surplus.examples.evidence import EVIDENCE


def test_a_wrong_number_of_axes_is_named_with_the_right_one():
    with pytest.raises(InputError, match=r"error must have shape \(runs, epochs, n\), .*; got shape \(3, 4\)"):
        el2n(torch.ones(3, 4))


def test_a_disagreement_on_the_number_of_examples_names_both_pieces():
    with pytest.raises(InputError, match="labels has n = 4 but inputs has n = 5"):
        same_class_density(torch.randn(5, 2), torch.zeros(4, dtype=torch.long))


def test_a_disagreement_on_the_number_of_runs_is_refused():
    with pytest.raises(InputError, match="share has runs = 3 but hits has runs = 4"):
        c_score(torch.ones(4, 2), torch.ones(4, 2), torch.ones(3))


def test_empty_evidence_is_refused():
    with pytest.raises(InputError, match="error is empty"):
        el2n(torch.ones(0, 3, 4))


def test_labels_must_be_integers():
    with pytest.raises(InputError, match=r"integer classes; got torch.float32"):
        same_class_density(torch.randn(5, 2), torch.zeros(5))


def test_inputs_may_have_any_number_of_further_axes():
    labels = torch.arange(5) % 2
    assert same_class_density(torch.randn(5, 3, 4, 4), labels).mean.shape == (5,)
    with pytest.raises(InputError, match="inputs must have shape"):
        same_class_density(torch.randn(5), labels)


def test_each_piece_tells_its_shape_and_source():
    assert str(EVIDENCE["labels"]) == "(n,), integer classes; from the data set"
    assert all(piece.source for piece in EVIDENCE.values())
