"""A lease's text: what is written is read back, what is foreign is told apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpush._fast.lease import keys_of, read_all
from zpush.registry.base import Lease
from zpush.registry.lease import own, parse, parse_any

USER_IDS = st.text(st.characters(blacklist_categories=["Cc", "Cs"]), max_size=255)
NODE_IDS = st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=20)


@given(st.integers(0, 10**15 - 1), NODE_IDS, USER_IDS)
def test_what_is_written_is_read_back(epoch: int, node_id: str, user_id: str) -> None:
    value = f"1 {epoch} {node_id} {user_id}".encode()
    lease = parse("c", value)
    assert lease == Lease("c", node_id, epoch, user_id)
    assert own(lease) == f"{epoch} {node_id}"


def test_a_later_version_is_read_up_to_what_it_added() -> None:
    assert parse("c", b"2 17 abc some user\x1fmore\x00") == Lease("c", "abc", 17, "some user")


@pytest.mark.parametrize(
    "value",
    [b"", b"1", b"1 17 abc", b"x 17 abc u", b"0 17 abc u", b"100 17 abc u", b"1  abc u", b"1 -1 abc u", b"1 1_0 abc u",
     b"1 \xd9\xa1 abc u", b"1 1234567890123456 abc u", b"1 17  u", b"1 17 a\x01 u", b'{"node":1}', b"\xff\xfe"],
)  # fmt: skip
def test_what_is_foreign(value: bytes) -> None:
    assert parse("c", value) is None


@given(st.binary(max_size=80) | st.from_regex(rb"[12]? ?[0-9]{0,16} [a-z]{0,3}.?.? ?[ -~]*", fullmatch=True))
def test_the_short_way_is_the_pattern(value: bytes) -> None:
    assert parse("c", value) == parse_any("c", value)


USUAL = st.builds("1 {} {} {}".format, st.integers(0, 10**15 - 1), st.sampled_from(["a", "b", "ab"]), USER_IDS)


@given(st.lists(st.none() | st.binary(max_size=40) | USUAL.map(str.encode)))
def test_a_batch_is_read_as_each_alone(values: list[bytes | None]) -> None:
    """Leases of a few nodes, whose ids begin alike, among others and gaps."""
    ids = [f"c{place}" for place in range(len(values))]
    alone = [None if value is None else parse_any(each, value) for each, value in zip(ids, values, strict=True)]
    assert read_all(ids, values, parse_any) == alone


def test_a_lease_is_a_value() -> None:
    lease = Lease("c", "a", 17, user_id="u")
    assert lease.at_epoch(18) == Lease("c", "a", 18, "u") != lease == Lease("c", "a", 17, "u")
    assert len({lease, Lease("c", "a", 17, "u"), Lease("d", "a", 17, "u"), Lease("c", "b", 17, "u")}) == 3
    assert (lease.client_id, lease.node_id, lease.epoch, lease.user_id) == ("c", "a", 17, "u")
    assert repr(Lease("c", "a", 17)) == "Lease(client_id='c', node_id='a', epoch=17, user_id='')"
    with pytest.raises(AttributeError):
        lease.epoch = 18  # type: ignore[misc]
    with pytest.raises(TypeError):
        Lease(None, "a", 17)  # type: ignore[arg-type]


@given(st.text(), st.lists(st.text()))
def test_keys(prefix: str, client_ids: list[str]) -> None:
    assert keys_of(prefix, client_ids) == [prefix + client_id for client_id in client_ids]
