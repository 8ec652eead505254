"""Knowledge distillation: the worked value, both ends of alpha, and the teacher's rows."""

import pytest
import torch
import torch.nn.functional as F

from surplus.errors import InputError
from surplus.pruning.structured.distillation import Distillation, distillation
from surplus.space import generator
from surplus.tasks import Recipe, load
from surplus.training import fit


@pytest.fixture(scope="module")
def task():
    return load("digits", "mlp", recipe=Recipe(lr=0.1, batch_size=64, duration="12it"), widths=(16,))


def test_the_loss_has_the_worked_value():
    student, teacher, labels = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([0])
    assert distillation(student, teacher, labels, 0.0, 4.0).item() == pytest.approx(0.169846, abs=1e-6)
    assert distillation(student, teacher, labels, 1.0, 4.0).item() / 16 == pytest.approx(0.029884, abs=1e-6)
    assert distillation(student, teacher, labels, 0.9, 4.0).item() == pytest.approx(0.447320, abs=1e-6)


def test_it_is_cross_entropy_and_the_batch_mean_of_the_divergence():
    g = generator(0, "logits")
    student, teacher = torch.randn(7, 5, generator=g), torch.randn(7, 5, generator=g)
    labels = torch.randint(5, (7,), generator=g)
    hard = F.cross_entropy(student, labels)
    soft = F.kl_div((student / 3).log_softmax(1), (teacher / 3).softmax(1), reduction="batchmean")
    torch.testing.assert_close(distillation(student, teacher, labels, 0.7, 3.0).mean(), 0.3 * hard + 0.7 * 9 * soft)


def test_a_teacher_that_agrees_costs_nothing():
    logits = torch.randn(4, 3, generator=generator(0, "logits"))
    assert distillation(logits, logits + 5, torch.zeros(4).long(), 1.0, 2.0).abs().max() < 1e-6


def test_without_weight_on_the_teacher_training_is_the_usual_one(task):
    teacher = torch.randn(len(task.train), 10, generator=generator(0, "teacher"))
    plain, distilled = fit(task, seeds=1), fit(task, seeds=1, rule=Distillation(teacher, alpha=0.0))
    torch.testing.assert_close(plain.theta, distilled.theta)


def test_a_student_learns_from_its_teacher_alone(task):
    labels = (task.train.targets + 1) % 10  # a teacher that names the next digit
    rule = Distillation(8.0 * F.one_hot(labels, 10), alpha=1.0, temperature=2.0)
    run = fit(task.with_recipe(duration="6ep"), seeds=1, rule=rule)
    answers = run.predict("test")[0].argmax(1)
    assert (answers == (task.test.targets + 1) % 10).float().mean() > 0.9


def test_each_replica_may_have_a_teacher_of_its_own(task):
    teachers = torch.randn(2, len(task.train), 10, generator=generator(0, "teacher"))
    for execution in ("stacked", "spread"):
        both = fit(task, seeds=[0, 1], rule=Distillation(teachers), execution=execution, jobs=1)
        alone = fit(task, seeds=[1], rule=Distillation(teachers[1]))
        torch.testing.assert_close(both.theta[1], alone.theta[0], atol=1e-5, rtol=1e-4)


def test_logits_of_another_shape_and_settings_out_of_bounds_are_refused(task):
    n = len(task.train)
    with pytest.raises(InputError, match=rf"shape \({n}, 9\).*one row per training example"):
        fit(task, rule=Distillation(torch.zeros(n, 9)))
    with pytest.raises(InputError, match=r"alpha=1\.5"):
        fit(task, rule=Distillation(torch.zeros(n, 10), alpha=1.5))
    with pytest.raises(InputError, match="temperature=0"):
        fit(task, rule=Distillation(torch.zeros(n, 10), temperature=0))
    with pytest.raises(InputError, match="for classes"):
        fit(load("sinusoid"), rule=Distillation(torch.zeros(n, 10)))
