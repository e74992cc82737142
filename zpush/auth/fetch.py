"""One bounded HTTP call: for keys, and for the answers of a hook.

Rules. Everything has a bound: the whole call's time, the answer's bytes. Redirects are not followed and an answer that
is compressed is refused: both would reach past the bounds. Certificates are checked against the system's store, where
a company's own authority stands. An error's text names the host at most: a path or query may hold a secret.
"""

from __future__ import annotations

import asyncio
import ssl

import httpx


class FetchFailed(Exception):
    """No answer that can be used; the text says why."""


def open_client(connections: int, use_proxies: bool) -> httpx.AsyncClient:
    """use_proxies: those of the environment (HTTPS_PROXY and so on)."""
    return httpx.AsyncClient(
        verify=ssl.create_default_context(),
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=20.0),
        headers={"Accept-Encoding": "identity", "User-Agent": "zpush"},
        timeout=None,  # of a single step; the whole is bounded
        trust_env=use_proxies,
    )


async def fetch(
    client: httpx.AsyncClient, request: httpx.Request, timeout_s: float, max_bytes: int
) -> tuple[int, bytes]:
    """Status and body, whatever the status is. Raises FetchFailed."""
    try:
        async with asyncio.timeout(timeout_s):
            response = await client.send(request, stream=True)
            try:
                return response.status_code, await _read(response, max_bytes)
            finally:
                await response.aclose()
    except TimeoutError:
        raise FetchFailed(f"no whole answer within {timeout_s:g} s") from None
    except httpx.HTTPError as e:
        raise FetchFailed(f"{type(e).__name__}: {e}" if str(e) else type(e).__name__) from None


async def _read(response: httpx.Response, max_bytes: int) -> bytes:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise FetchFailed("the answer is compressed")
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > max_bytes:
            raise FetchFailed(f"the answer is larger than {max_bytes} bytes")
    return bytes(body)
