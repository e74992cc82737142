"""Secrets that live in files.

Rules. A secret's bytes are returned, never logged and never part of an exception. A file that others
can read is used, with a warning that says how to mend it. A generated secret appears whole or not at all.

An API key may be for one purpose only, named in front of it: `push:KEY` sends, `read:KEY` looks, `operate:KEY` looks
and disconnects. KEY alone is presented, so KEY alone has to be long, and it stands in one entry only: else nobody
could say what it is for.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterable
from urllib.parse import quote

from zpush.config.settings import API_KEY, Queue, Registry, Settings
from zpush.errors import ConfigError

MAX_SECRET_FILE_BYTES = 1 << 20
MIN_SECRET_BYTES = 16
GENERATED_BYTES = 32
_PURPOSES = {"push": frozenset({"push"}), "read": frozenset({"read"}), "operate": frozenset({"read", "operate"})}
_ALL_PURPOSES = frozenset({"push", "read", "operate"})
_USER = re.compile("([^/?#@]*)@")

_logger = logging.getLogger("zpush.config")


def read_secret_file(path: str, is_public: Callable[[bytes], bool] | None = None) -> bytes:
    """The file's content without line ends at its end. Raises ConfigError where it is missing, empty or too large.

    is_public: whether this content is no secret after all (public keys), so that others may read it.
    """
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_SECRET_FILE_BYTES + 1).rstrip(b"\r\n")
    except OSError as e:
        raise ConfigError(f"{path}: cannot read the secret: {e.strerror}") from None
    if not data:
        raise ConfigError(f"{path}: is empty; a secret must stand in it")
    if len(data) > MAX_SECRET_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_SECRET_FILE_BYTES} bytes; that is no secret")
    is_open = stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO)
    if is_open and not (is_public and is_public(data)):
        _logger.warning("%s holds a secret and is open to other users; run: chmod 600 %s", path, path)
    return data


def api_keys(settings: Settings) -> tuple[str, ...]:
    """The keys of which a sender must present one, as they are written; () where none is asked for (loopback only)."""
    path = settings.api.keys_file
    if not path:
        return settings.api.keys
    lines = {
        number: line.strip()
        for number, line in enumerate(read_secret_file(path).decode("ascii", "replace").splitlines(), 1)
        if line.strip()
    }
    for number, line in lines.items():
        try:
            API_KEY.parse(line)
        except ValueError:
            raise ConfigError(f"{path}:{number}: is no key; allowed is {API_KEY.allowed}") from None
    if (twice := same_key(lines.items())) is not None:
        raise ConfigError(f"{path}:{twice[1]}: the key of line {twice[0]} again; allowed is one entry a key")
    if not lines:
        raise ConfigError(f"{path}: holds no key; allowed is one a line")
    return tuple(lines.values())


def scoped(entry: str) -> tuple[str, frozenset[str]]:
    """An API key, and what it may do."""
    purpose, colon, key = entry.partition(":")
    if colon and purpose in _PURPOSES:
        return key, _PURPOSES[purpose]
    return entry, _ALL_PURPOSES


def same_key(entries: Iterable[tuple[int, str]]) -> tuple[int, int] | None:
    """The numbers of the first two entries that hold one API key; None where all differ."""
    seen: dict[str, int] = {}
    for number, entry in entries:
        first = seen.setdefault(scoped(entry)[0], number)
        if first != number:
            return first, number
    return None


def peers_secret(settings: Settings) -> bytes:
    """The secret shared by all workers and processors; in embedded mode generated once, into the data directory."""
    if settings.peers.secret:
        return settings.peers.secret.encode()
    path = settings.peers.secret_file or os.path.join(settings.server.data_dir, "peers.secret")
    if not settings.peers.secret_file:
        _generate(path)
    secret = read_secret_file(path)
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigError(f"{path}: the secret must be at least {MIN_SECRET_BYTES} bytes long")
    return secret


def registry_url(settings: Settings) -> str:
    """With the password in its place, wherever that was given."""
    section = settings.registry
    return _with_passwords(settings.registry_url(), _password(section), _sentinel_password(section))


def queue_url(settings: Settings) -> str:
    """The same for the queue."""
    section = settings.queue
    return _with_passwords(settings.queue_url(), _password(section), _sentinel_password(section))


def _password(section: Registry | Queue) -> str:
    return _secret_text(section.password, section.password_file)


def _sentinel_password(section: Registry | Queue) -> str:
    return _secret_text(section.sentinel_password, section.sentinel_password_file)


def _secret_text(value: str, path: str) -> str:
    """The value, or what stands in the file."""
    if not path:
        return value
    try:
        return read_secret_file(path).decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not valid UTF-8; a password must stand in it") from None


def _with_passwords(url: str, password: str, sentinel_password: str) -> str:
    if password:
        scheme, _, rest = url.partition("://")
        user = _USER.match(rest)
        name, rest = (user[1], rest[user.end() :]) if user else ("", rest)
        url = f"{scheme}://{name}:{quote(password, safe='')}@{rest}"
    if sentinel_password:
        url += f"{'&' if '?' in url else '?'}sentinel_password={quote(sentinel_password, safe='')}"
    return url


def _generate(path: str) -> None:
    """Writes a new secret unless there is one; of two processes at once, the first wins."""
    if os.path.exists(path):
        return
    try:
        with tempfile.NamedTemporaryFile(dir=os.path.dirname(path) or ".", prefix=".secret-") as file:  # mode 600
            file.write(secrets.token_hex(GENERATED_BYTES).encode() + b"\n")
            file.flush()
            os.link(file.name, path)
    except FileExistsError:
        return
    except OSError as e:
        raise ConfigError(f"{path}: cannot write the generated secret: {e.strerror}") from None
