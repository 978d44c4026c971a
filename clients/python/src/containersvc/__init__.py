"""A client of container-svc, sync and asyncio.

One connection that bears the token, speaks TLS where the address asks for it,
and repeats calls that may be repeated. The messages are in `containersvc.v1`.
"""

from ._client import AsyncClient, Client
from ._errors import Error, Violation

__all__ = ["AsyncClient", "Client", "Error", "Violation"]
