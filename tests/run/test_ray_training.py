"""Ray Train starts the processes: two on this machine, as the how-to says."""

import json
import os

import pytest

import corellarec as cr
from corellarec.config import load_config

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
]


@pytest.mark.hard
def test_ray_train_trains_a_run(tiny_settings, tmp_path):
    pytest.importorskip("ray.train.torch")
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    def work(given):
        """What each process does."""
        config = load_config(settings=given["settings"])
        model = cr.CoReLLa(config, directory=given["directory"], quiet=True)
        model.fit()
        model.evaluate()

    settings = [*tiny_settings, "stage1.epochs=1", "stage2.rows=60", "stage3.rows=60"]
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    try:
        TorchTrainer(
            work,
            train_loop_config={"settings": settings, "directory": str(tmp_path / "run")},
            scaling_config=ScalingConfig(num_workers=2),
            run_config=RunConfig(name="run", storage_path=str(tmp_path / "ray")),
        ).fit()
    finally:
        ray.shutdown()
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["rows"] > 0
