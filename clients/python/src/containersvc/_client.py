"""The clients: a channel, and on it the stub of each service."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from ._calls import AsyncCalls, Calls
from ._retry import service_config
from .v1 import (
    asset_service_pb2_grpc as assets,
    build_service_pb2_grpc as builds,
    container_service_pb2_grpc as containers,
    event_service_pb2_grpc as events,
    gpu_service_pb2_grpc as gpus,
    image_service_pb2_grpc as images,
    keep_service_pb2_grpc as keeps,
    log_service_pb2_grpc as logs,
    node_service_pb2_grpc as node,
    token_service_pb2_grpc as tokens,
)

# A page of log lines with their exact bytes.
_LARGEST_ANSWER = 16 << 20


class Client:
    """A connection to http://host:port, https://host:port (TLS) or unix:///path.

    It connects with the first call. Threads may share it. `ca` is a PEM file with
    the authorities to trust in place of the system's.
    """

    assets: assets.AssetServiceStub
    builds: builds.BuildServiceStub
    containers: containers.ContainerServiceStub
    events: events.EventServiceStub
    gpus: gpus.GpuServiceStub
    images: images.ImageServiceStub
    keeps: keeps.KeepServiceStub
    logs: logs.LogServiceStub
    node: node.NodeServiceStub
    tokens: tokens.TokenServiceStub

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        ca: str | None = None,
        retries: bool = True,
    ) -> None:
        target, tls = _target(address, ca)
        options = _options(retries)
        if tls is None:
            self._channel = grpc.insecure_channel(target, options)
        else:
            self._channel = grpc.secure_channel(target, tls, options)
        for name, stub in _STUBS.items():
            setattr(self, name, Calls(stub(self._channel), _metadata(token)))

    def close(self) -> None:
        """Ends the connection and the calls on it."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient:
    """The same for asyncio; made inside of the loop that uses it."""

    assets: assets.AssetServiceAsyncStub
    builds: builds.BuildServiceAsyncStub
    containers: containers.ContainerServiceAsyncStub
    events: events.EventServiceAsyncStub
    gpus: gpus.GpuServiceAsyncStub
    images: images.ImageServiceAsyncStub
    keeps: keeps.KeepServiceAsyncStub
    logs: logs.LogServiceAsyncStub
    node: node.NodeServiceAsyncStub
    tokens: tokens.TokenServiceAsyncStub

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        ca: str | None = None,
        retries: bool = True,
    ) -> None:
        target, tls = _target(address, ca)
        options = _options(retries)
        if tls is None:
            self._channel = grpc.aio.insecure_channel(target, options)
        else:
            self._channel = grpc.aio.secure_channel(target, tls, options)
        for name, stub in _STUBS.items():
            setattr(self, name, AsyncCalls(stub(self._channel), _metadata(token)))

    async def close(self) -> None:
        """Ends the connection and the calls on it."""
        await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


_STUBS: dict[str, Any] = {
    "assets": assets.AssetServiceStub,
    "builds": builds.BuildServiceStub,
    "containers": containers.ContainerServiceStub,
    "events": events.EventServiceStub,
    "gpus": gpus.GpuServiceStub,
    "images": images.ImageServiceStub,
    "keeps": keeps.KeepServiceStub,
    "logs": logs.LogServiceStub,
    "node": node.NodeServiceStub,
    "tokens": tokens.TokenServiceStub,
}


def _target(address: str, ca: str | None) -> tuple[str, grpc.ChannelCredentials | None]:
    scheme, separator, rest = address.partition("://")
    rest = rest.rstrip("/")
    if not separator or not rest:
        raise ValueError(f"the address {address!r} is none; write http://host:port")
    if scheme == "http":
        return f"dns:///{rest}", None
    if scheme == "unix":
        return f"unix:{rest}", None
    if scheme == "https":
        authorities = None
        if ca is not None:
            with open(ca, "rb") as file:
                authorities = file.read()
        return f"dns:///{rest}", grpc.ssl_channel_credentials(authorities)
    raise ValueError(f"the scheme {scheme} is not known; http, https and unix are")


def _metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token.strip()}"),) if token else ()


def _options(retries: bool) -> list[tuple[str, Any]]:
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", _LARGEST_ANSWER),
        ("grpc.enable_retries", int(retries)),
    ]
    if retries:
        options.append(("grpc.service_config", service_config()))
    return options
