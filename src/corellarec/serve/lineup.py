"""Which cascades answer: one in service, another beside it, and the one before for a roll-back."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from corellarec.serve.llm import LlmThread
from corellarec.serve.model import ServedModel

Mode = Literal["live", "shadow", "share"]
Load = Callable[[Path], ServedModel]
Start = Callable[[ServedModel], LlmThread | None]


@dataclass(frozen=True, eq=False)
class InService:
    """A cascade that answers.

    Args:
        model: The CRM, the router and the tables.
        llm: The language model's thread; None where it is off.
    """

    model: ServedModel
    llm: LlmThread | None

    def close(self, wait_s: float = 1.0) -> None:
        """End the language model's thread."""
        if self.llm:
            self.llm.close(wait_s)


@dataclass(frozen=True)
class Lineup:
    """The cascades at one moment; a request takes one of them and keeps it to its end.

    Args:
        live: Answers all users, or those who are not the other's.
        beside: Answers a share of the users, or none (``shadow``).
        share: Of the users, by a hash of their ids; 0 where it is a shadow.
        previous: Was live before.
    """

    live: InService
    beside: InService | None = None
    share: float = 0.0
    previous: InService | None = None

    @property
    def all(self) -> list[InService]:
        """Every cascade that is loaded."""
        found = (self.live, self.beside, self.previous)
        return list({id(one): one for one in found if one}.values())

    @property
    def shadow(self) -> InService | None:
        """The one whose answers are logged and not served."""
        return self.beside if self.share == 0 else None

    def of(self, user: str) -> InService:
        """The cascade that answers a user."""
        if self.beside is None or self.share == 0:
            return self.live
        digest = hashlib.blake2b(user.encode(), digest_size=7).digest()
        return self.beside if int.from_bytes(digest, "big") / 2**56 < self.share else self.live

    def with_loaded(self, new: InService, mode: Mode, share: float) -> "Lineup":
        """The line-up once a cascade is loaded in some mode."""
        if mode == "live":
            return Lineup(new, previous=self.live)
        return replace(self, beside=new, share=share if mode == "share" else 0.0)

    def rolled_back(self) -> "Lineup | None":
        """Without the one beside or, where there is none, the one before in its place."""
        if self.beside is not None:
            return replace(self, beside=None, share=0.0)
        if self.previous is not None:
            return Lineup(self.previous, previous=self.live)
        return None
