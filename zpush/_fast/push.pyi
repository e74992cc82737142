"""Makes a message of a push in one step, for delivery/usual_push.py."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

_Message = TypeVar("_Message")

class Usual(Generic[_Message]):
    def __init__(
        self,
        message: Callable[..., _Message],
        encode: Callable[[Any], bytes],
        check_message_id: Callable[[str], str],
        unset: object,
        client: int,
        kinds: Sequence[int],
        priorities: Mapping[str, int],
        normal: int,
        min_ttl_s: float,
        max_ttl_s: float,
    ) -> None:
        """client: the Target. kinds: text, binary, JSON. priorities: by label; normal: where none is given."""

    def __call__(self, push: object) -> _Message | None:
        """To one client, of plain ASCII, not direct. None for any other form, also where it is a push, and for what is
        wrong. What check_message_id raises."""

    def of(self, fields: dict[str, Any]) -> _Message | None:
        """The same of a Push's fields, where the others have their defaults."""
