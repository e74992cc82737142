"""What several settings together must fulfil.

Rules. Each check is one function that raises ConfigError with one line: the place of the value that is
at fault, and what would mend it. Safe by default: what others can reach needs a secret or a real mode.
"""

from __future__ import annotations

import os
from typing import NoReturn
from urllib.parse import urlsplit

from zpush.config.secrets import same_key
from zpush.config.settings import EMBEDDED, Settings
from zpush.config.units import is_loopback, is_unspecified, split_address
from zpush.errors import ConfigError

TOKEN_MODES = ("jwt", "cookie", "hook")
MODES = '"jwt", "cookie", "hook", "python:module:function" or "dev"'
MAX_PROCESSES = 255  # the scoreboard's rows, less the retired one
MAX_SOCKET_PATH_BYTES = 107  # sockaddr_un.sun_path, less its terminating zero


def check(settings: Settings) -> None:
    for each in (_auth, _api, _peers, _proxies, _lifetimes, _buffers, _stores, _queue, _processes, _paths):
        each(settings)


def _fail(settings: Settings, key: str, text: str) -> NoReturn:
    place = f"{settings.origin(key)}: " if key in settings.origins else ""  # a default stands nowhere
    raise ConfigError(f"{place}{key} {text}")


def _auth(settings: Settings) -> None:
    mode = settings.auth.mode
    if not mode:
        _fail(settings, "auth.mode", f"must be chosen where registry and queue are not embedded: {MODES}")
    host, _ = split_address(settings.server.bind)
    if mode == "dev" and not is_loopback(host):
        _fail(
            settings,
            "server.bind",
            f'is "{settings.server.bind}": with auth.mode "dev" only a loopback address is allowed',
        )
    auth = settings.auth
    if mode == "jwt" and not (auth.keys_file or auth.jwks_file or auth.jwks_url):
        _fail(settings, "auth.mode", 'is "jwt": auth.keys_file must be set, or auth.jwks_file, or auth.jwks_url')
    if mode == "cookie" and not (auth.keys_file and auth.cookie):
        _fail(settings, "auth.mode", 'is "cookie": auth.keys_file and auth.cookie must be set')
    if mode == "hook" and not auth.hook_url:
        _fail(settings, "auth.mode", 'is "hook": auth.hook_url must be set')
    if auth.delayed and mode not in TOKEN_MODES:
        _fail(settings, "auth.delayed", f'is true: auth.mode "{mode}" takes no tokens by message')


def _api(settings: Settings) -> None:
    host, _ = split_address(settings.api.bind)
    if settings.api.keys and settings.api.keys_file:
        _fail(settings, "api.keys_file", "and api.keys are both set; allowed is one of them")
    if (twice := same_key(enumerate(settings.api.keys, 1))) is not None:
        _fail(settings, "api.keys", f"holds one key in entries {twice[0]} and {twice[1]}; allowed is one entry a key")
    if not is_loopback(host) and not settings.api.keys and not settings.api.keys_file:
        _fail(
            settings,
            "api.bind",
            f'is "{settings.api.bind}", which others can reach: api.keys or api.keys_file must be set',
        )

    host, _ = split_address(settings.processor.metrics_bind or "localhost:0")
    if not is_loopback(host) and not settings.api.keys and not settings.api.keys_file:
        _fail(
            settings,
            "processor.metrics_bind",
            f'is "{settings.processor.metrics_bind}", which others can reach: api.keys or api.keys_file must be set',
        )


def _peers(settings: Settings) -> None:
    peers = settings.peers
    if peers.secret and peers.secret_file:
        _fail(settings, "peers.secret_file", "and peers.secret are both set; allowed is one of them")
    if not peers.secret and not peers.secret_file:
        if not is_loopback(peers.bind):
            _fail(
                settings,
                "peers.bind",
                f'is "{peers.bind}", which others can reach: peers.secret or peers.secret_file must be set',
            )
        if settings.registry.url != EMBEDDED:
            _fail(settings, "peers.secret", "or peers.secret_file must be set where the registry is not embedded")
    if is_unspecified(peers.bind) and not peers.advertise:
        _fail(settings, "peers.bind", f'is "{peers.bind}": peers.advertise must say how other boxes reach this one')
    if peers.port and peers.port + settings.worker_count - 1 > 65535:
        _fail(settings, "peers.port", f"is {peers.port}: with {settings.worker_count} workers it would pass 65535")


def _proxies(settings: Settings) -> None:
    if settings.connections.proxy_protocol and not settings.connections.trusted_proxies:
        _fail(
            settings,
            "connections.proxy_protocol",
            "is true: connections.trusted_proxies must name the proxies whose PROXY headers are believed",
        )


def _lifetimes(settings: Settings) -> None:
    connections, registry = settings.connections, settings.registry
    if connections.max_age_jitter_s >= connections.max_age_s:
        key = "max_age_jitter" if "connections.max_age_jitter" in settings.origins else "max_age"
        _fail(settings, f"connections.{key}", "is out of bounds: max_age_jitter must be less than max_age")
    if registry.lease_ttl_s < registry.node_ttl_s:
        _fail(settings, "registry.lease_ttl", "is out of bounds: it must not be less than node_ttl")


def _buffers(settings: Settings) -> None:
    connections = settings.connections
    if connections.unsent_bytes > connections.unsent_budget_bytes:
        _fail(settings, "connections.unsent_bytes", "is out of bounds: it must not be more than unsent_budget_bytes")


def _stores(settings: Settings) -> None:
    for name, section in (("registry", settings.registry), ("queue", settings.queue)):
        own = _given(settings, f"{name}.password", section.password, section.password_file)
        sentinels = _given(
            settings, f"{name}.sentinel_password", section.sentinel_password, section.sentinel_password_file
        )
        if own and (section.url == EMBEDDED or section.url.startswith("kafka://")):
            _fail(settings, own, f"is set, but {name}.url names no Redis or Valkey of yours")
        if own and urlsplit(section.url).password:
            _fail(settings, own, f"is set, and {name}.url holds a password; allowed is one of them")
        if sentinels and "+sentinel://" not in section.url:
            _fail(settings, sentinels, f"is set, but {name}.url names no Sentinels (redis+sentinel://…)")
    if settings.registry.read_from == "replica" and "+" not in settings.registry.url.partition("://")[0]:
        _fail(
            settings,
            "registry.read_from",
            'is "replica": registry.url must say where replicas are found (redis+sentinel:// or redis+cluster://)',
        )


def _given(settings: Settings, key: str, value: str, path: str) -> str:
    """The key of the one that is set: the value's, or its file's; "" where neither is."""
    if value and path:
        _fail(settings, f"{key}_file", f"and {key} are both set; allowed is one of them")
    return key if value else f"{key}_file" if path else ""


def _queue(settings: Settings) -> None:
    if settings.queue.max_messages < settings.queue.partitions:
        _fail(settings, "queue.max_messages", "is out of bounds: it must not be less than partitions")
    if settings.on_kafka and settings.queue.kafka.retention_s < settings.processor.max_age_s:
        _fail(
            settings,
            "queue.kafka.retention",
            "is out of bounds: it must not be less than processor.max_age, or Kafka deletes what should be delivered",
        )


def _processes(settings: Settings) -> None:
    if settings.worker_count + settings.processor.instances > MAX_PROCESSES:
        _fail(
            settings,
            "server.workers" if settings.server.workers else "processor.instances",
            f"is out of bounds: workers and processors together may be {MAX_PROCESSES}",
        )


def _paths(settings: Settings) -> None:
    sockets = [("server.control_socket", os.path.abspath(settings.server.control_socket))]
    if settings.processor.control_socket:
        sockets.append(("processor.control_socket", os.path.abspath(settings.processor.control_socket)))
    if settings.embedded:
        sockets.append(("server.data_dir", settings.embedded_socket))
    for key, path in sockets:
        if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
            _fail(
                settings, key, f'leads to the Unix socket "{path}"; its path may be {MAX_SOCKET_PATH_BYTES} bytes long'
            )
