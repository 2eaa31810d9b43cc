"""Errors of requests as problem details.

Source: RFC 9457, https://www.rfc-editor.org/rfc/rfc9457
"""

from collections.abc import Mapping
from http import HTTPStatus

from corellarec.base.errors import one_line
from corellarec.serve.schemas import Problem

MEDIA_TYPE = "application/problem+json"
FAULT = "an error of the service; its log has the request's id"


class ProblemError(Exception):
    """A request that cannot be answered.

    Args:
        status: HTTP status code.
        detail: What was found, and what to do.
        headers: Of the answer.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, dict(headers or {})


def problem_json(status: int, detail: str, request_id: str) -> bytes:
    """The body of an error."""
    problem = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=one_line(detail, 1000),
        request_id=request_id,
    )
    return problem.model_dump_json().encode()


def retry_after(seconds: float) -> dict[str, str]:
    """The header of an error that goes away by itself."""
    return {"Retry-After": str(max(1, round(seconds)))}
