"""The secure token of one connection, as in Zuul Push: who presents it has it from that very connection's client.

Rules. HMAC-SHA256 over client id and epoch, cut to 15 bytes, base64url (20 characters, as long as Zuul's). Nothing
is stored: whoever knows the peers' secret and the lease can check it, on any box. A reconnect has a new
epoch, so the old token is worth nothing from then on.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

TOKEN_BYTES = 15
_PURPOSE = b"zpush secure token v1"


class SecureTokens:
    """secret: the peers' own; the tokens' key is derived from it."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, _PURPOSE, hashlib.sha256)

    def token(self, client_id: str, epoch: int) -> str:
        digest = hmac.digest(self._key, b"%d %b" % (epoch, client_id.encode()), hashlib.sha256)
        return base64.urlsafe_b64encode(digest[:TOKEN_BYTES]).decode()

    def matches(self, presented: str, client_id: str, epoch: int) -> bool:
        return hmac.compare_digest(presented.encode(errors="replace"), self.token(client_id, epoch).encode())
