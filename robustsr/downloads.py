"""Downloads that continue where they stopped, and leave only what has the checksum that was expected."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from .files import move, sha256
from .types import RobustSRError


def download(url: str, target: Path, digest: str, size: int, progress: Callable[[int, int], None]) -> None:
    """Fetches ``url``, ``size`` bytes, to ``target`` by way of ``target.part``; only a file of that SHA-256 gets there.

    RobustSRError: the server or the disk refuses, or something else comes than what is expected.
    """
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        have = begun = part.stat().st_size if part.exists() else 0
        if have < size:
            have = _fetch(url, part, have, size, progress)
        found = sha256(part)
        if have == size and found == digest:
            return move(part, target)
        part.unlink()
        if begun:  # by what may have been another file
            return download(url, target, digest, size, progress)
    except urllib.error.HTTPError as error:
        error.close()
        raise RobustSRError(f"{url}: the server answered {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        kept = "; what was fetched is kept, run it again to continue" if part.exists() else ""
        other = f"; fetched in another way, it belongs at {target}" if isinstance(error, urllib.error.URLError) else ""
        raise RobustSRError(f"cannot fetch {url}: {reason}{kept}{other}") from error
    raise RobustSRError(f"{url}: SHA-256 is {found}, expected {digest}; the download was deleted")


def _fetch(url: str, part: Path, have: int, size: int, progress: Callable[[int, int], None]) -> int:
    """Appends what is missing of ``size`` bytes, never more than one block beyond; returns how much there is."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=60) as response:
        continued = have and (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-")
        have = have if continued else 0  # else the server starts over
        length = int(response.headers.get("Content-Length") or size - have)
        if have + length != size:
            raise RobustSRError(
                f"{url}: the server sends {have + length} bytes, expected {size}: is that a login page?"
            )
        with open(part, "ab" if continued else "wb") as file:
            while have <= size and (block := response.read(1 << 18)):
                file.write(block)
                have += len(block)
                progress(have, size)
            file.flush()
            os.fsync(file.fileno())
    if have < size:
        raise ConnectionError(f"the connection ended after {have} of {size} bytes")
    return have
