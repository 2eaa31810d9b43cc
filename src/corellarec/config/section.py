"""What every section of the settings is, and the numbers that settings take."""

from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True)
class Range:
    """Which numbers a setting takes: those from ``ge``, or above ``gt``, to ``le``.

    True and false are no numbers. The upper bounds are far above what is of use: what is beyond
    them fails later, in memory or in arithmetic.
    """

    le: float
    ge: float | None = None
    gt: float | None = None

    def __str__(self) -> str:
        begin = f"above {self.gt:,.12g}" if self.ge is None else f"from {self.ge:,.12g}"
        return f"{begin} to {self.le:,.12g}"

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Pydantic's schema of the number, and the check."""
        what = "a whole number" if source is int else "a number"

        def check(value: Any, parse: ValidatorFunctionWrapHandler) -> float:  # noqa: ANN401
            try:
                number = None if isinstance(value, bool) else parse(value)
            except ValidationError:
                number = None
            low = self.gt if self.ge is None else self.ge
            assert low is not None
            if number is None or not (low <= number <= self.le) or number == self.gt:
                raise ValueError(f"{what} {self}")
            return number

        return core_schema.no_info_wrap_validator_function(check, handler(source))


Share = Annotated[float, Range(ge=0.0, le=1.0)]
Dropout = Annotated[float, Range(ge=0.0, le=0.95)]
Rate = Annotated[float, Range(gt=0.0, le=10.0)]  # learning rates, exponents
Weight = Annotated[float, Range(ge=0.0, le=1e6)]  # of a loss, or a decay
Scale = Annotated[float, Range(gt=0.0, le=1e6)]
Rating = Annotated[float, Range(ge=-1e9, le=1e9)]
Seed = Annotated[int, Range(ge=0, le=100_000_000)]  # times ten and more, it stays below 2^32
Count = Annotated[int, Range(ge=0, le=1_000_000_000)]  # rows, and the like
Positive = Annotated[int, Range(ge=1, le=1_000_000)]
Tokens = Annotated[int, Range(ge=1, le=10_000_000)]  # of a batch
Length = Annotated[int, Range(ge=1, le=10_000)]  # rows of a history, lines of a sequence
Width = Annotated[int, Range(ge=1, le=16_384)]  # of a layer, numbers
Few = Annotated[int, Range(ge=1, le=100)]  # layers, heads


class Section(BaseModel):
    """A part of the configuration: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="after")
    def _has_no_nul(self) -> Self:
        """No text holds the character NUL, which no path and no query may."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and "\0" in text:
                    raise ValueError(f"{name} holds the character NUL")
        return self
