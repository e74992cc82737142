"""Which of the configuration's keys a command presents to the API."""

from __future__ import annotations

import argparse

import pytest

from zpush.cli.api import add_api_options, find_api

PUSH, READ, ALL = "p" * 16, "r" * 16, "a" * 16


def found(purpose: str, *keys: str) -> str:
    parser = argparse.ArgumentParser()
    add_api_options(parser)
    listed = ", ".join(f'"{key}"' for key in keys)
    return find_api(parser.parse_args(["--set", f"api.keys=[{listed}]"]), purpose).key


@pytest.mark.parametrize(("purpose", "key"), [("read", READ), ("push", PUSH)], ids=["where and status", "push"])
def test_the_first_key_for_the_purpose_without_its_name(purpose: str, key: str) -> None:
    assert found(purpose, f"push:{PUSH}", f"read:{READ}", ALL) == key


def test_one_key_for_everything() -> None:
    assert found("read", ALL) == found("push", ALL) == ALL
    assert found("read", f"operate:{READ}") == READ


def test_no_key_for_the_purpose() -> None:
    assert found("read", f"push:{PUSH}") == ""
    assert found("read") == ""
