"""auth.keys_file."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.auth.tokens import ec_key, pem, rsa_key
from zpush.auth.jwk import from_pem
from zpush.auth.keys import MAX_KEYS, load_key_file, load_keys
from zpush.errors import ConfigError

TEXT = b"a key of thirty-two bytes, or more"
BYTES = bytes(range(200, 240))


def written(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "keys"
    path.touch(mode=0o600)
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("padding", [b"", b"=", b"=="])
def test_text_and_base64url_in_the_files_order(tmp_path: Path, padding: bytes) -> None:
    encoded = base64.urlsafe_b64encode(BYTES).rstrip(b"=") + padding
    path = written(tmp_path, b"# newest first\n\nbase64url:%b\r\n  %b  \n" % (encoded, TEXT))
    assert load_keys(path) == (BYTES, TEXT)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "empty"),
        (b"# only a comment\n", "no key"),
        (TEXT + b"\nshort-key\n", ":2: the key is 9 bytes long"),
        (b"base64url:" + base64.urlsafe_b64encode(b"x" * 31), ":1: the key is 31 bytes long"),
        (b"base64url:!!!!" + b"A" * 60, ":1: .*not base64url"),
        (b"base64url:" + b"A" * 61, ":1: .*not base64url"),
        (b"\n".join([TEXT] * (MAX_KEYS + 1)), "at most"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        load_keys(written(tmp_path, content))
    assert "short-key" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load_keys(str(tmp_path / "nowhere"))


def test_public_keys_beside_secrets(tmp_path: Path) -> None:
    file = load_key_file(written(tmp_path, TEXT + b"\n# IdP\n" + pem(rsa_key()) + b"\n" + pem(ec_key()) + TEXT[::-1]))
    assert file.secrets == (TEXT, TEXT[::-1])
    assert [(key.text, key.place.rpartition(":")[2]) for key in file.public_keys] == [
        (pem(rsa_key()), "3"),
        (pem(ec_key()), "13"),
    ]
    assert [from_pem(key).algorithm for key in file.public_keys] == ["RS256", "ES256"]


@pytest.mark.parametrize(
    "content",
    [
        b"-----BEGIN PRIVATE KEY-----\n" + b"A" * 64 + b"\n-----END PRIVATE KEY-----",
        b"-----BEGIN CERTIFICATE-----\n" + b"A" * 64 + b"\n-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\n" + b"A" * 64,
    ],
)
def test_other_pem_blocks_are_refused(tmp_path: Path, content: bytes) -> None:
    """Nor are their lines taken for secrets, which base64 of that length could be."""
    with pytest.raises(ConfigError, match=":2: not a public key") as caught:
        load_key_file(written(tmp_path, b"#\n" + content))
    assert "AAAA" not in str(caught.value)


def test_where_only_secrets_sign(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=":2: a public key"):
        load_keys(written(tmp_path, TEXT + b"\n" + pem(ec_key())))


def test_only_secrets_must_be_closed_to_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path, b"# public\n" + pem(ec_key()))
    Path(path).chmod(0o644)
    load_key_file(path)
    assert not caplog.records
    Path(path).write_bytes(pem(ec_key()) + TEXT)
    load_key_file(path)
    assert "chmod 600" in caplog.text
