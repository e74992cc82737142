"""Request heads (protocol/head.py)."""

def parse(head: bytes) -> tuple[str, str, bytes, bool, dict[bytes, bytes]]:
    """head: whole, its blank line included, and nothing after it. ValueError with a reason where it is malformed.

    Else method, path (as sent, never decoded; an absolute target's with its authority), query without `?`, HTTP/1.1
    or 1.0, and fields: names in lower case, values without the white space around them. A list in several fields is
    one value, joined by commas (RFC 9110 §5.3), cookies by semicolons (RFC 9113 §8.2.3).
    """

def parameter(query: bytes, name: bytes) -> bytes | None:
    """The value of a query's parameter as it stands there, not decoded. ValueError where it comes twice."""
