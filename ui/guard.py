"""Who may speak to the server, and of what: no other site's pages, no paths or addresses for it to fetch."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
LARGEST = 4 << 20  # bytes of a request that is no upload


class Guard:
    """ASGI middleware. ``hosts``: the names by which the server may be called, None: any (a page of another site is
    refused all the same, by its origin). ``public``: host and port of a proxy, whose pages are ours."""

    def __init__(self, app: Any, hosts: tuple[str, ...] | None, public: str = "") -> None:  # noqa: ANN401
        self.app, self.hosts, self.public = app, hosts, public.lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
            if reason := self._refused(scope, headers):
                return await _answer(send, 403, reason)
            sends = scope["method"] not in ("GET", "HEAD", "OPTIONS")
            if sends and not headers.get("content-type", "").strip().lower().startswith("multipart/form-data"):
                body = await _body(receive)
                if body is None:
                    return await _answer(send, 413, "the request is too large")
                if foreign(body):
                    return await _answer(send, 400, "files have to be uploaded: no addresses are fetched")
                receive = _again(body, receive)
        await self.app(scope, receive, _confined(send))

    def _refused(self, scope: Scope, headers: dict[str, str]) -> str:
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self.hosts is not None and name.lower() not in self.hosts:
            return f"this server is not called {name}"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() not in (host.lower(), self.public or host.lower()):
            return f"pages of {origin} may not use this server"
        path = unquote(unquote(scope["path"]))
        if any(mark in path for mark in ("file=http", "file/http", "proxy=", "proxy/")):
            return "no addresses are fetched"
        return ""


def foreign(body: bytes) -> bool:
    """Whether a request, of whatever kind it says it is, names a file by an address instead of having uploaded it."""
    try:
        return _names_address(json.loads(body))
    except (ValueError, RecursionError):
        return False  # no JSON: the server will say so


def _names_address(value: Any) -> bool:  # noqa: ANN401
    if isinstance(value, dict):
        path = value.get("path")
        return (isinstance(path, str) and "://" in path) or any(map(_names_address, value.values()))
    return isinstance(value, list) and any(map(_names_address, value))


async def _body(receive: Receive) -> bytes | None:
    """The whole request; None: it is too large."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        parts.append(message.get("body", b""))
        size, more = size + len(parts[-1]), message.get("more_body", False)
        if size > LARGEST:
            return None
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives a request that was read already."""
    given = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _confined(send: Send) -> Send:
    """A ``send`` whose pages load no pictures or films from elsewhere, whatever the names and texts of files say."""

    async def confined(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            policy = (b"content-security-policy", b"img-src 'self' data: blob:; media-src 'self' data: blob:")
            message = {**message, "headers": [*message.get("headers", []), policy]}
        await send(message)

    return confined


async def _answer(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
