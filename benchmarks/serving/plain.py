"""The same CRM behind LitServe or BentoML, as plain as can be: one request, one pass.

Called as ``plain.py litserve|bentoml CASCADE PORT``.
"""

import os
import sys

import torch

from corellarec.base.metrics import sigmoid
from corellarec.cascade.cascade import Cascade
from corellarec.crm.build import build_reader


class Crm:
    """A cascade's CRM, which answers one user's candidates from the log."""

    def __init__(self, directory: str) -> None:
        torch.set_num_threads(1)
        self.cascade = Cascade.load(directory, device="cpu")
        log = self.cascade.log
        self.users = {one: i for i, one in enumerate(log.users["id"])}
        self.items = {one: i for i, one in enumerate(log.items["id"])}
        self.reader = build_reader(self.cascade.recipe.crm, log, torch.device("cpu"))

    def answer(self, user: str, candidates: list[str]) -> dict[str, list[float]]:
        """Probabilities of the candidates."""
        item = torch.tensor([self.items[one] for one in candidates])
        users = torch.full_like(item, self.users.get(user, -1))
        samples = self.cascade.log.candidates(users, item)
        logit = self.cascade.models.crm_logits(self.reader, samples)
        return {"p": sigmoid(self.cascade.router.crm(logit)).tolist()}


def litserve(directory: str, port: int) -> None:
    """Serve by LitServe."""
    import litserve as ls  # pyright: ignore[reportMissingImports]
    from plain_lit import Api

    server = ls.LitServer(Api(directory), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="error")


def bentoml(directory: str, port: int) -> None:
    """Serve by BentoML, whose workers import this file."""
    os.environ["PLAIN_CASCADE"] = directory
    command = [sys.executable, "-m", "bentoml", "serve", "plain_bento:Plain"]
    command += ["--working-dir", sys.path[0], "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    {"litserve": litserve, "bentoml": bentoml}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
