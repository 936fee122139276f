"""Which errors of qdrant-client may pass by themselves."""

from __future__ import annotations

from grpc import RpcError, StatusCode
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

__all__ = ["may_pass"]


def may_pass(error: BaseException) -> bool:
    """Say whether an error may pass: no connection, a timeout, too many requests, a server that is not ready."""
    if isinstance(error, UnexpectedResponse):
        return error.status_code in (408, 429, 502, 503, 504)
    if isinstance(error, RpcError):
        code = getattr(error, "code", lambda: None)()
        return code in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED)
    return isinstance(error, ResponseHandlingException)
