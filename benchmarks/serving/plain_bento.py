"""What BentoML serves: see ``plain.py``."""

import os

import bentoml  # pyright: ignore[reportMissingImports]
from plain import Crm


@bentoml.service(workers=1, traffic={"timeout": 30})
class Plain:
    """The CRM."""

    def __init__(self) -> None:
        self.crm = Crm(os.environ["PLAIN_CASCADE"])

    @bentoml.api(route="/predict")
    def predict(self, user: str, candidates: list[str]) -> dict[str, list[float]]:
        """Probabilities of the candidates."""
        return self.crm.answer(user, candidates)
