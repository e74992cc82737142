"""What a hook's answer means. Pure: status and body in; an identity, a refusal or a failure out."""

from __future__ import annotations

import math

import msgspec

from zpush.auth.base import Identity
from zpush.auth.fetch import FetchFailed
from zpush.errors import MalformedMessage, Unauthorized
from zpush.protocol.handshake import Refusal
from zpush.protocol.message import check_id


class _Answer(msgspec.Struct):
    """Unknown members are ignored, so that a service may say more than we know."""

    client: str
    user: str | None = None
    expires: float | None = None


_read = msgspec.json.Decoder(_Answer).decode


def read_identity(status: int, body: bytes, now_s: float) -> Identity:
    """Raises Unauthorized, Refusal (403), or FetchFailed where the service did not do its part."""
    if status == 401:
        raise Unauthorized("the hook says 401")
    if status == 403:
        raise Refusal(403, "forbidden", "this client may not connect")
    if status != 200:
        raise FetchFailed(f"the answer is {status}")
    try:
        answer = _read(body)
        user_id = check_id(answer.user, "user") if answer.user else ""
        identity = Identity(check_id(answer.client, "client"), user_id, answer.expires)
    except MalformedMessage as e:
        raise FetchFailed(f"the answer: {e.reason}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise FetchFailed('the answer is not JSON of the form {"client": "…", "user": "…", "expires": …}') from None
    if answer.expires is not None and not math.isfinite(answer.expires):
        raise FetchFailed("the answer: expires is not a time")
    if answer.expires is not None and answer.expires <= now_s:
        raise Unauthorized("the hook's answer has expired")
    return identity
