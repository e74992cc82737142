"""Durations, sizes and addresses: every spelling, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpush.config import units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30m", 1800),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        ("2h", 7200),
        ("1d", 86400),
        ("7", 7),
        (7, 7),
        (0.5, 0.5),
        ("0", 0),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert units.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "m", "-1s", "1 y", "1mm", "1e3", "١s", "1s ", "1s2", True, -1, float("nan"), float("inf"), None, [1], "64KiB"],
)
def test_no_durations(text: object) -> None:
    with pytest.raises(ValueError):
        units.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"), [("64KiB", 65536), ("1MiB", 1 << 20), ("512B", 512), (7, 7), ("7", 7), ("1.5KiB", 1536)]
)
def test_sizes(text: object, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "64KB", "64k", "0.3B", "1.0001KiB", True, 1.5, "-1", "30m"])
def test_no_sizes(text: object) -> None:
    with pytest.raises(ValueError):
        units.parse_size(text)


@given(st.integers(0, 10**9).map(lambda ms: ms / 1000))
def test_a_written_duration_reads_back(seconds: float) -> None:
    assert units.parse_duration(units.format_duration(seconds)) == pytest.approx(seconds, abs=1e-9)


@given(st.integers(0, 1 << 40))
def test_a_written_size_reads_back(size: int) -> None:
    assert units.parse_size(units.format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:8080", ("127.0.0.1", 8080)), ("[::1]:0", ("::1", 0)), ("example.com:65535", ("example.com", 65535))],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert units.split_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "8080", ":8080", "127.0.0.1", "127.0.0.1:", "::1:80", "[::g]:80", "a:65536", "a:-1", "a:1x"]
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(ValueError):
        units.split_address(text)


def test_only_this_machine_reaches_loopback() -> None:
    assert all(units.is_loopback(host) for host in ("127.0.0.1", "127.8.9.1", "::1", "localhost"))
    assert not any(units.is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example.com"))
