"""Numbers of stored dataclasses, with ranges that are checked where a file is read."""

from typing import Annotated

from pydantic import Field

Finite = Annotated[float, Field(allow_inf_nan=False)]
# Three of these multiplied, as a weight and two features are, stay finite.
Weight = Annotated[float, Field(ge=-1e30, le=1e30)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[int, Field(ge=1, lt=2**31)]
