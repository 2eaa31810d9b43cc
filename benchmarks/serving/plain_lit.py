"""What LitServe serves: see ``plain.py``. Its workers are spawned and import this file."""

from typing import Any

import litserve as ls  # pyright: ignore[reportMissingImports]
from plain import Crm


class Api(ls.LitAPI):
    """The CRM.

    Args:
        directory: Of the cascade.
    """

    def __init__(self, directory: str) -> None:
        super().__init__(api_path="/predict")
        self.directory = directory

    def setup(self, device: str) -> None:
        """Load the CRM, in a worker."""
        self.crm = Crm(self.directory)

    def predict(self, request: dict[str, Any]) -> dict[str, list[float]]:
        """Probabilities of the candidates."""
        return self.crm.answer(request["user"], request["candidates"])
