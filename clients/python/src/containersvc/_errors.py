"""What a call answers in place of a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]


@dataclass(frozen=True)
class Violation:
    """One wrong field of a request."""

    field: str
    """Its path in JSON names, as "ports[0].internal"."""
    description: str
    """Why it is wrong and what to do."""


class Error(Exception):
    """The service refused, or nobody answered."""

    code: grpc.StatusCode
    message: str
    reason: str
    """Names the cause for programs, as "NAME_TAKEN"; empty when the answer does not
    come from container-svc."""
    metadata: dict[str, str]
    """Facts for programs, as the permission that is missing."""
    violations: list[Violation]
    """The wrong fields of the request."""

    def __init__(self, error: grpc.RpcError) -> None:
        self.code = error.code()
        self.message = error.details() or ""
        self.reason = ""
        self.metadata = {}
        self.violations = []
        super().__init__(f"{self.code.name}: {self.message}")
        # Pairs in both kinds of channel, which the stubs of grpc do not know.
        for key, value in cast(Any, error.trailing_metadata() or ()):
            if key == "grpc-status-details-bin":
                self._read(status_pb2.Status.FromString(value))

    def _read(self, status: Any) -> None:
        info, wrong = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        for detail in status.details:
            if detail.Unpack(info):
                self.reason, self.metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(wrong):
                self.violations = [
                    Violation(each.field, each.description) for each in wrong.field_violations
                ]
