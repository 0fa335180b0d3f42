"""JSON-RPC 2.0 as bytes: one request out, one answer in. Knows nothing of HTTP or of retries."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, Union

from ._errors import ProtocolError, rpc_error_from

Params = Union[Sequence[Any], Mapping[str, Any]]


def encode(method: str, params: Params, call_id: int) -> bytes:
    """The body of a request.

    `bytes` travel as `{"base64": text}`, dates and times as RFC 3339 text.

    Raises:
        TypeError: A value has no form on the wire.
        ValueError: A number is not finite.
    """
    request = {"jsonrpc": "2.0", "id": call_id, "method": method, "params": params}
    return json.dumps(
        request, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_wire_form
    ).encode()


def decode(body: bytes, call_id: int) -> Any:
    """The result in an answer.

    Raises:
        RpcError: The answer is an error.
        ProtocolError: The body is no answer to this call.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as wrong:
        raise ProtocolError("the answer is not JSON") from wrong
    if not isinstance(answer, dict):
        raise ProtocolError("the answer is not a JSON-RPC response")
    error = answer.get("error")
    if isinstance(error, dict):
        # An error for a body that could not be read has no id to echo.
        raise rpc_error_from(error)
    if answer.get("id") != call_id or "result" not in answer:
        raise ProtocolError("the answer belongs to another call")
    return answer["result"]


def _wire_form(value: object) -> Any:
    if isinstance(value, (bytes, bytearray)):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            raise TypeError("a time without a zone means another moment on every machine")
        return value.astimezone(datetime.timezone.utc).isoformat().replace("+00:00", "Z")
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"a value of type {type(value).__name__} has no form on the wire")
