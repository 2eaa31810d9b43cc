"""RecBole's item-kNN and EASE on a split that it is given; runs in RecBole's own environment.

RecBole 1.2.1 needs numpy below 1.24. In an environment of its own:

    pip install torch==2.13.0 "numpy<1.24" "scipy<1.12" "pandas<2.2" "scikit-learn<1.5" tqdm
        colorlog==4.7.2 colorama==0.4.4 pyyaml tensorboard thop tabulate plotly texttable psutil
    pip install --no-deps recbole==1.2.1

`ranking.py --peer-python PYTHON` calls it: the first argument is a folder with the data set `log`,
the second one settings in JSON. The last line of stdout is one JSON object.
"""

import json
import sys
from typing import Any

from recbole.config import Config  # pyright: ignore[reportMissingImports]
from recbole.data import (  # pyright: ignore[reportMissingImports]
    create_dataset,
    data_preparation,
)
from recbole.utils import get_model, get_trainer  # pyright: ignore[reportMissingImports]

COMMON = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "load_col": {"inter": ["user_id", "item_id"]},
    "benchmark_filename": ["train", "valid", "test"],
    "eval_args": {
        "split": {"RS": [0.8, 0.1, 0.1]},
        "order": "TO",
        "group_by": "user",
        "mode": "full",
    },
    "metrics": ["NDCG", "Recall", "Hit", "MRR", "MAP"],
    "metric_decimal_place": 10,
    "topk": [10, 20],
    "valid_metric": "NDCG@10",
    "epochs": 1,
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
}


def measure(folder: str, model: str, settings: dict[str, Any]) -> dict[str, float]:
    """Test metrics of one model."""
    config = Config(
        model=model,
        dataset="log",
        config_dict={**COMMON, **settings, "data_path": folder, "checkpoint_dir": folder},
    )
    dataset = create_dataset(config)
    train, valid, test = data_preparation(config, dataset)
    network = get_model(model)(config, train.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, network)
    trainer.fit(train, valid, verbose=False, saved=False)
    return dict(trainer.evaluate(test, load_best_model=False))


if __name__ == "__main__":
    sys.argv, (folder, wanted) = sys.argv[:1], sys.argv[1:]  # RecBole reads the command line
    found = {
        name: measure(folder, model, settings)
        for name, (model, settings) in json.loads(wanted).items()
    }
    sys.stdout.write(json.dumps(found) + "\n")
