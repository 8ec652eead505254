import pytest
import torch
from torch import nn
from torch.nn import functional as F

from surplus.errors import InputError
from surplus.space import generator
from surplus.tasks import LANGUAGE, REGRESSION, Recipe, load
from surplus.training import ExampleRecord, Store, fit, read_record
from surplus.training.record import record_arrays


def batches(n=12, classes=3, epochs=2, size=5, replicas=1, seed=0):
    """Per epoch a list of (index, logits, labels); with several replicas each has a leading axis."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=g)
    for _ in range(epochs):
        order = torch.stack([torch.randperm(n, generator=g) for _ in range(replicas)])
        logits = torch.randn(replicas, n, classes, generator=g)
        parts = [(i, z, labels[i]) for i, z in zip(order.split(size, 1), logits.split(size, 1), strict=True)]
        yield [tuple(t[0] for t in part) for part in parts] if replicas == 1 else parts


def written(record, epochs):
    for epoch in epochs:
        for batch in epoch:
            record.update(*batch)
        record.end_epoch()
    return record


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k].nan_to_num(-99), b[k].nan_to_num(-99)) for k in a)


# ---- what is recorded -----------------------------------------------------------------------------------------------


def test_the_five_numbers_of_a_visit_have_their_closed_forms():
    record = ExampleRecord(3)
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]]))
    record.update(torch.tensor([2, 0]), logits, torch.tensor([0, 1]))
    record.end_epoch()
    a = record.arrays()
    nan = torch.nan
    expected = {
        "loss": [-torch.log(torch.tensor(0.25)), nan, -torch.log(torch.tensor(0.7))],
        "correct": [0.0, nan, 1.0],
        "margin": [torch.log(torch.tensor(0.25 / 0.5)), nan, torch.log(torch.tensor(0.7 / 0.2))],
        "confidence": [0.25, nan, 0.7],
        "error": [(0.5**2 + 0.75**2 + 0.25**2) ** 0.5, nan, (0.3**2 + 0.2**2 + 0.1**2) ** 0.5],
    }
    assert a.keys() == expected.keys()
    for name, row in expected.items():
        torch.testing.assert_close(a[name], torch.tensor([[row]]), equal_nan=True)


def test_a_users_own_loop_records_what_fit_records(tmp_path):
    """A plain torch loop over digits, with the seeds and the recipe of a run of `fit`."""
    recipe = Recipe(lr=0.05, momentum=0.9, weight_decay=1e-3, batch_size=256, duration="2ep", schedule="constant")
    task = load("digits", "mlp", widths=(8,)).with_recipe(**recipe.model_dump())
    run = fit(task, seeds=[3], record=True, store=Store(tmp_path / "store"))

    module = task.space.write(task.space.init(3)).train()
    optimiser = torch.optim.SGD(module.parameters(), 0.05, 0.9, weight_decay=1e-3)
    n, x, y = len(task.train), task.prepare(task.train.inputs), task.train.targets
    with ExampleRecord(n=n, folder=tmp_path / "record") as record:
        for epoch in range(2):
            order = torch.randperm(n, generator=generator(3, "order", epoch))
            for index in order.tensor_split(-(-n // 256)):
                logits = module(x[index])
                record.update(index, logits, y[index])
                optimiser.zero_grad()
                F.cross_entropy(logits, y[index]).backward()
                optimiser.step()
            record.end_epoch()

    mine = read_record(tmp_path / "record", n)
    assert mine.keys() == run.record.keys() and mine["loss"].shape == (1, 2, n)
    for name in ("loss", "margin", "confidence", "error"):
        torch.testing.assert_close(mine[name], run.record[name], rtol=1e-3, atol=1e-4)
    assert (mine["correct"] != run.record["correct"]).float().mean() < 0.005


def test_replicas_in_company_record_what_each_records_alone():
    epochs = list(batches(replicas=3))
    together = written(ExampleRecord(12, replicas=3), epochs).arrays()
    for k in range(3):
        alone = written(ExampleRecord(12), [[tuple(t[k] for t in batch) for batch in epoch] for epoch in epochs])
        assert same(alone.arrays(), {name: v[k : k + 1] for name, v in together.items()})


def test_what_was_not_visited_is_nan_and_nothing_else_is():
    record = ExampleRecord(5, replicas=2)
    record.update(torch.tensor([[0, 1], [2, 3]]), torch.zeros(2, 2, 4), torch.zeros(2, 2, dtype=torch.long))
    record.end_epoch()
    record.update(torch.tensor([[4], [4]]), torch.zeros(2, 1, 4), torch.zeros(2, 1, dtype=torch.long))
    record.end_epoch()
    visited = torch.tensor([[[1, 1, 0, 0, 0], [0, 0, 0, 0, 1]], [[0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]]).bool()
    for values in record.arrays().values():
        assert torch.equal(~values.isnan(), visited)


def test_the_last_visit_of_an_epoch_counts():
    record = ExampleRecord(1)
    for logit in (5.0, -2.0):
        record.update(torch.tensor([0]), torch.tensor([[logit, 0.0]]), torch.tensor([0]))
    record.end_epoch()
    assert record.arrays()["margin"].tolist() == [[[-2.0]]]


def test_a_diverged_replica_keeps_its_place(tmp_path):
    """Its losses are NaN; the visits are on disk all the same."""
    with ExampleRecord(2, tmp_path, replicas=2) as record:
        logits = torch.stack([torch.zeros(2, 3), torch.full((2, 3), torch.nan)])
        record.update(torch.arange(2).expand(2, 2), logits, torch.zeros(2, 2, dtype=torch.long))
        record.end_epoch()
    a = read_record(tmp_path)
    assert a["loss"].shape == (2, 1, 2) and a["loss"][1].isnan().all() and (a["correct"][1] == 0).all()


def test_half_precision_logits_are_recorded_in_single():
    record = ExampleRecord(2)
    record.update(torch.arange(2), torch.randn(2, 3, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.long))
    record.end_epoch()
    assert {v.dtype for v in record.arrays().values()} == {torch.float32}


def test_recording_holds_no_graph():
    record, weight = ExampleRecord(2), torch.ones(3, requires_grad=True)
    record.update(torch.arange(2), torch.ones(2, 3) * weight, torch.zeros(2, dtype=torch.long))
    assert not record._pending[0][1].requires_grad


@pytest.mark.parametrize(
    ("objective", "outputs", "targets", "names"),
    [
        (REGRESSION, torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [3.0, 4.0]]), ("loss", "error")),
        (REGRESSION, torch.tensor([[2.0], [0.0]]), torch.tensor([0.0, 5.0]), ("loss", "error")),
        (LANGUAGE, torch.zeros(2, 6, 4), torch.zeros(2, 6, dtype=torch.long), ("loss", "correct")),
    ],
    ids=["two outputs", "one output", "tokens"],
)
def test_other_objectives_record_their_own_numbers(tmp_path, objective, outputs, targets, names):
    with ExampleRecord(3, tmp_path, reduce=objective.record) as record:
        record.update(torch.tensor([2, 0]), outputs, targets)
        record.end_epoch()
    a, direct = read_record(tmp_path, 3), objective.record(outputs, targets)
    assert tuple(a) == names
    for name in names:
        torch.testing.assert_close(a[name][0, 0, [2, 0]], direct[name].float())
        assert a[name][0, 0, 1].isnan()


def test_a_reduction_of_ones_own_is_recorded_under_its_names():
    record = ExampleRecord(2, reduce=lambda z, y: {"entropy": -(z.softmax(-1) * z.log_softmax(-1)).sum(-1)})
    record.update(torch.arange(2), torch.zeros(2, 4), torch.zeros(2, dtype=torch.long))
    record.end_epoch()
    torch.testing.assert_close(record.arrays(), {"entropy": torch.full((1, 1, 2), 4.0).log()})


# ---- grouping, disk and interruption --------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 3])
def test_when_batches_are_reduced_and_written_changes_no_bit(tmp_path, monkeypatch, replicas):
    from surplus.training import record as module

    epochs = list(batches(n=257, classes=7, epochs=4, size=31, replicas=replicas))
    whole = written(ExampleRecord(257, replicas=replicas), epochs).arrays()
    for pending, seconds in [(1, -1.0), (3000, 1e9), (10**9, -1.0)]:  # each batch alone; some; all
        monkeypatch.setattr(module, "_PENDING", pending)
        monkeypatch.setattr(module, "_FLUSH_SECONDS", seconds)
        folder = tmp_path / f"{pending}"
        with ExampleRecord(257, folder, replicas=replicas) as record:
            written(record, epochs)
        assert same(read_record(folder, 257, replicas), whole)
        assert len(list(folder.iterdir())) == (4 if seconds < 0 else 1)


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_record_goes_on_in_the_middle_of_an_epoch(tmp_path, on_disk):
    epochs = list(batches(epochs=3))
    whole = written(ExampleRecord(12), epochs).arrays()
    for cut in range(len(epochs[1]) + 1):
        folder = tmp_path / f"{cut}" if on_disk else None
        first = written(ExampleRecord(12, folder), epochs[:1])
        for batch in epochs[1][:cut]:
            first.update(*batch)
        state = {k: v.clone() for k, v in first.state().items()}
        for batch in epochs[1][cut:]:
            first.update(*batch)
        first.end_epoch()
        first.flush()  # written after the checkpoint, then killed

        second = ExampleRecord(12, folder)
        second.load_state(state)
        for batch in epochs[1][cut:]:
            second.update(*batch)
        second.end_epoch()
        written(second, epochs[2:])
        assert same(second.arrays(), whole)


def test_a_new_training_in_the_folder_of_an_old_one_replaces_it(tmp_path):
    old, new = list(batches(epochs=4)), list(batches(epochs=2, seed=1))
    for epoch in (0, 1, 2, 3):  # four files
        record = ExampleRecord(12, tmp_path)
        record.load_state({"epoch": torch.tensor(epoch)})
        written(record, old[epoch : epoch + 1]).flush()
    assert len(list(tmp_path.iterdir())) == 4
    record = written(ExampleRecord(12, tmp_path), new)
    assert same(record.arrays(), written(ExampleRecord(12), new).arrays())


def test_what_is_read_back_is_what_was_written(tmp_path):
    epochs = list(batches())
    with ExampleRecord(12, tmp_path) as record:
        written(record, epochs)
    a = read_record(tmp_path)
    assert same(a, written(ExampleRecord(12), epochs).arrays()) and same(a, record.arrays())
    assert read_record(tmp_path, n=20)["loss"].shape == (1, 2, 20)
    with open(tmp_path / "epochs-00000.parquet", "rb") as file:
        assert same(record_arrays([file]), a)


def test_leaving_the_block_by_an_error_keeps_the_closed_epochs(tmp_path):
    epochs = list(batches(epochs=2))
    with pytest.raises(RuntimeError), ExampleRecord(12, tmp_path) as record:
        written(record, epochs[:1])
        record.update(*epochs[1][0])
        raise RuntimeError
    assert same(read_record(tmp_path, 12), written(ExampleRecord(12), epochs[:1]).arrays())


@pytest.mark.parametrize("where", [4, 0.3, 0.6, -1])
def test_a_damaged_file_of_a_record_is_named(tmp_path, where):
    with ExampleRecord(400, tmp_path) as record:
        written(record, list(batches(n=400, size=100)))
    file = tmp_path / "epochs-00000.parquet"
    content = bytearray(file.read_bytes())
    at = where if isinstance(where, int) else int(where * len(content))
    content[at] ^= 0x10
    file.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"epochs-00000\.parquet is damaged"):
        read_record(tmp_path)


def test_a_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no example record"):
        read_record(tmp_path)


# ---- misuse ---------------------------------------------------------------------------------------------------------

INDEX, LOGITS, LABELS = torch.arange(4), torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)


@pytest.mark.parametrize(
    ("index", "logits", "labels", "message"),
    [
        (INDEX + 7, LOGITS, LABELS, r"indices lie in 0\.\.9; update was given indices from 7 to 10"),
        (INDEX - 1, LOGITS, LABELS, r"from -1 to 2"),
        (INDEX, LOGITS[:3], LABELS, r"shapes \(4,\), \(3, 3\), \(4,\); expected are \(B,\), \(B, \.\.\.\)"),
        (INDEX, LOGITS, LABELS[:3], r"shapes \(4,\), \(4, 3\), \(3,\)"),
        (INDEX[None].expand(2, 4), LOGITS.expand(2, 4, 3), LABELS.expand(2, 4), r"shapes \(2, 4\)"),
        (torch.tensor(1), LOGITS[0], LABELS[0], r"shapes \(\), \(3,\), \(\)"),
    ],
)
def test_batches_that_do_not_fit_are_refused_when_the_epoch_ends(index, logits, labels, message):
    record = ExampleRecord(10)
    record.update(index, logits, labels)
    with pytest.raises(InputError, match=message):
        record.end_epoch()


def test_with_several_replicas_each_tensor_needs_the_leading_axis():
    record = ExampleRecord(10, replicas=2)
    record.update(INDEX, LOGITS, LABELS)
    with pytest.raises(InputError, match="each with a leading 2 for the replicas"):
        record.end_epoch()


def test_an_epoch_needs_a_batch_and_a_record_an_example():
    with pytest.raises(InputError, match="before any batch was recorded"):
        ExampleRecord(3).end_epoch()
    with pytest.raises(InputError, match="at least one example"):
        ExampleRecord(0)


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    record = ExampleRecord(4, tmp_path / "file")
    record.update(INDEX, LOGITS, LABELS)
    record.end_epoch()
    with pytest.raises(InputError, match="cannot be written"):
        record.flush()


def test_a_module_in_the_users_hands_is_left_as_it_was():
    model = nn.Linear(2, 3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x, record = torch.randn(4, 2), ExampleRecord(4)
    logits = model(x)
    record.update(INDEX, logits, LABELS)
    record.end_epoch()
    F.cross_entropy(logits, LABELS).backward()  # the graph is still whole
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
