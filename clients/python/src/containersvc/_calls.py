"""Calls that bear the token and raise `Error`.

A stub's methods are wrapped, and not the channel, because interceptors of a
channel cannot change what a stream raises while it is read.
"""

from __future__ import annotations

from typing import Any, AsyncIterator, Callable, Generator, Iterator

import grpc

from ._errors import Error

Metadata = tuple[tuple[str, str], ...]


class Calls:
    """The methods of a stub."""

    def __init__(self, stub: Any, metadata: Metadata) -> None:
        for name, method in vars(stub).items():
            setattr(self, name, _bearing(method, metadata))


def _bearing(method: Any, token: Metadata) -> Callable[..., Any]:
    def call(request: Any, *, metadata: Metadata = (), **options: Any) -> Any:
        try:
            answer = method(request, metadata=(*token, *metadata), **options)
        except grpc.RpcError as error:
            raise Error(error) from None
        return _Stream(answer) if isinstance(answer, grpc.Call) else answer

    return call


class _Stream:
    """A stream of answers; everything but the reading is that of grpc."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise Error(error) from None


class AsyncCalls:
    """The methods of a stub on an asyncio channel."""

    def __init__(self, stub: Any, metadata: Metadata) -> None:
        for name, method in vars(stub).items():
            setattr(self, name, _async_bearing(method, metadata))


def _async_bearing(method: Any, token: Metadata) -> Callable[..., Any]:
    def call(request: Any, *, metadata: Metadata = (), **options: Any) -> _AsyncCall:
        return _AsyncCall(method(request, metadata=(*token, *metadata), **options))

    return call


class _AsyncCall:
    """A call that is awaited, or whose answers are read."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        try:
            return await self._call
        except grpc.RpcError as error:
            raise Error(error) from None

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for answer in self._call:
                yield answer
        except grpc.RpcError as error:
            raise Error(error) from None
