"""Which calls are repeated when nobody answered them."""

from __future__ import annotations

import json

from google.protobuf.descriptor_pb2 import MethodOptions

from .v1 import (
    asset_service_pb2,
    build_service_pb2,
    container_service_pb2,
    event_service_pb2,
    gpu_service_pb2,
    image_service_pb2,
    keep_service_pb2,
    log_service_pb2,
    node_service_pb2,
    token_service_pb2,
)

_FILES = (
    asset_service_pb2,
    build_service_pb2,
    container_service_pb2,
    event_service_pb2,
    gpu_service_pb2,
    image_service_pb2,
    keep_service_pb2,
    log_service_pb2,
    node_service_pb2,
    token_service_pb2,
)


def service_config() -> str:
    """Repeats what the proto calls idempotent; of the others, nobody knows whether
    they were done."""
    names = [
        {"service": service.full_name, "method": method.name}
        for file in _FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if method.GetOptions().idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN
    ]
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.2s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": policy}]})
