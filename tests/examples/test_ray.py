"""The same calls over Ray's joblib backend, on two workers of a local Ray."""

import joblib
import pytest
import torch

from surplus.examples import embeddings
from surplus.examples.embeddings import Embeddings, write_embeddings
from surplus.examples.scores.neighbours import knn_distance
from surplus.examples.scores.prototypes import prototype_distance
from surplus.space import generator
from surplus.tasks import load
from surplus.training import Store, fit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def on_ray():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # it would call home
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray
        from ray.util.joblib import register_ray

        quiet = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
        ray.init(address="local", num_cpus=2, object_store_memory=100 * 2**20, **quiet)
        register_ray()
        yield lambda: joblib.parallel_config("ray", n_jobs=2)
        ray.shutdown()


def test_scores_of_files_are_the_same_over_ray(on_ray, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "ENTRIES", 8 * 500)
    x = torch.randn(3000, 8, generator=generator(0)) + 4 * torch.eye(8)[torch.arange(3000) % 8]
    write_embeddings(tmp_path / "e.parquet", [x], rows=500)
    data = Embeddings.of(tmp_path)
    assert len(data.parts) == 6
    alone = prototype_distance(data, k=8, inits=2), knn_distance(data, k=5, cells=10)
    with on_ray():
        spread = prototype_distance(data, k=8, inits=2), knn_distance(data, k=5, cells=10)
    for a, b in zip(alone, spread, strict=True):
        torch.testing.assert_close(b.mean, a.mean, atol=1e-5, rtol=1e-4)


def test_networks_are_the_same_over_ray(on_ray, tmp_path):
    task = load("digits").with_recipe(duration="1ep")
    alone = fit(task, seeds=2, execution="spread", jobs=1, store=Store(tmp_path / "alone"))
    with on_ray():
        spread = fit(task, seeds=2, execution="spread", jobs=2, store=Store(tmp_path / "ray"))
    torch.testing.assert_close(spread.theta, alone.theta)
