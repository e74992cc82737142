"""Every setting of zpush.

Rules. A section is a frozen dataclass; a field is one setting, declared once with its default, unit,
bounds and text (see declare.py). Names end in their unit: `_s` seconds, `_bytes` bytes. What several
settings together must fulfil stands in checks.py. Settings never change: a reload loads new ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from zpush.config.declare import (
    Setting,
    address,
    choice,
    duration,
    flag,
    integer,
    many,
    passed_on,
    ratio,
    settings_of,
    size,
    text,
    url,
)
from zpush.config.kinds import Choice, Network, PassedOn, Text

EMBEDDED = "embedded"
REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
REGISTRY_SCHEMES = (*REDIS_SCHEMES, "redis+cluster", "rediss+cluster")
QUEUE_SCHEMES = (*REDIS_SCHEMES, "kafka")
PATH = Text("a path, or empty")
NAMED_PATH = Text("a path", ".+")
NAME = Text('letters, digits, ".", "_" and "-", at most 64', r"[A-Za-z0-9._-]{1,64}")
HOST = Text("a host name or IP address, without a port", r"[A-Za-z0-9.:_-]{1,253}")
HOST_OR_EMPTY = Text(f"{HOST.allowed}, or empty", f"({HOST.pattern})?")
ORIGIN = Text(
    'an origin such as "https://app.example.com", "https://*.example.com" or "*"',
    r"\*|[A-Za-z][A-Za-z0-9+.-]*://(\*\.)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?",
)
SECRET = Text("16 to 256 printable ASCII characters without spaces", r"[!-~]{16,256}")
API_KEY = Text(
    f"{SECRET.allowed}, which push:, read: or operate: may precede",
    rf"(push:|read:|operate:|(?!push:|read:|operate:)){SECRET.pattern}",
)
SECRET_OR_EMPTY = Text(f"{SECRET.allowed}, or empty", f"({SECRET.pattern})?")
AUTH_MODE = Text(
    '"dev", "jwt", "cookie", "hook", "python:package.module:function", or empty',
    r"|dev|jwt|cookie|hook|python:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*",
)
JWKS_URL = Text(
    "an https URL, or http on loopback, without a password; or empty",
    r"|https://[^/?#@\s]+([/?]\S*)?|http://(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?([/?]\S*)?",
)
HOOK_URL = Text("an http or https URL without a password, or empty", r"|https?://[^/?#@\s]+([/?]\S*)?")
HEADER = Text("the name of a header field", r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
COOKIE = Text("a cookie name (RFC 6265), or empty", r"[!#$%&'*+.^_`|~0-9A-Za-z-]{0,64}")
GROUP = Text('letters, digits, ".", "_" and "-", at most 150; <prefix> and <region>', r"[A-Za-z0-9._<>-]{1,150}")
LIBRDKAFKA = PassedOn(
    "a string, number or flag that librdkafka takes",
    names=r"[a-z0-9._-]{1,100}",
    secrets=r"(password|passphrase|secret|\.pem|ssl_key|oauthbearer\.config)(?!.*_file$)",
)


@dataclass(frozen=True, slots=True)
class Server:
    """Clients: where they connect, and the processes that serve them."""

    bind: str = address("127.0.0.1:8080", "Where clients connect. Port 0: any free one.")
    workers: int = integer(0, 0, 128, "Worker processes. 0: one per core that this process may use.")
    data_dir: str = text(
        "./zpush-data",
        "Directory of this run: the embedded server's data, the control socket, generated secrets.",
        NAMED_PATH,
    )
    control_socket: str = text(
        "<data_dir>/control.sock",
        "Unix socket through which `zpush status` and `zpush reload` find the master.",
        NAMED_PATH,
    )
    backlog: int = integer(
        8192,
        1,
        65535,
        "Connections that may wait to be accepted, per worker (the kernel caps it at net.core.somaxconn).",
    )
    drain_window_s: float = duration(
        "5m", "0s", "1h", "TERM asks clients to go at random moments within this window, then closes the rest."
    )


@dataclass(frozen=True, slots=True)
class Connections:
    """Lifetimes, keepalive, limits and buffers of client connections. Deadlines have a resolution of one second."""

    max: int = integer(100_000, 1, 4_000_000, "Connections per worker; one more is refused with 503.")
    max_age_s: float = duration(
        "30m", "1s", "7d", "A connection older than this is asked to reconnect, so that load spreads over the fleet."
    )
    max_age_jitter_s: float = duration(
        "3m", "0s", "1d", "Up to this much, at random, is taken off max_age, so that a herd does not come back as one."
    )
    go_away_grace_s: float = duration("4s", "0s", "10m", "Time between the go-away message and the server's own close.")
    keepalive_s: float = duration(
        "25s", "1s", "1h", "After this much silence a ping is sent. Keep it below the load balancer's idle timeout."
    )
    pong_timeout_s: float = duration("25s", "1s", "1h", "A connection that does not answer a ping within this is dead.")
    handshake_timeout_s: float = duration("10s", "1s", "5m", "Time for a complete request head, from accept on.")
    head_bytes: int = size("8KiB", "1KiB", "1MiB", "Request head of a client; a larger one is refused with 431.")
    head_fields: int = integer(64, 8, 1000, "Header fields of a request head; more are refused with 431.")
    origins: tuple[str, ...] = many(
        [],
        ORIGIN,
        'Origins whose pages may connect; "*": any. Empty: pages of the same host, whatever its port. '
        "A request without Origin, so not from a browser, is let through: authentication decides.",
    )
    trusted_proxies: tuple[str, ...] = many(
        [],
        Network(),
        "Networks of the load balancers and proxies in front. Only what comes from them is asked for its client's own "
        "address: X-Forwarded-For, Forwarded, and the PROXY protocol if it is on.",
    )
    proxy_protocol: bool = flag(
        False, "Connections from trusted_proxies must begin with a PROXY header, version 1 or 2; others must not."
    )
    per_address: int = integer(
        0,
        0,
        1_000_000,
        "Connections that one client address (IPv6: one /64) may have at once, per worker, those in their handshake "
        "included; one more is answered 429. 0: no limit.",
    )
    handshakes_per_address: int = integer(
        0,
        0,
        1_000_000,
        "Connections that one client address may begin at once, and per address_window in the long run; per worker. "
        "0: no limit.",
    )
    address_window_s: float = duration(
        "10s", "1s", "1h", "The time in which an address is given handshakes_per_address anew, one after the other."
    )
    inbound: str = choice(
        "ignore",
        ["ignore", "echo"],
        "Messages from clients, other than control messages: read and counted, or sent back as they were.",
    )
    inbound_message_bytes: int = size(
        "64KiB", "125B", "64MiB", "A longer message from a client ends its connection with 1009."
    )
    inbound_fragments: int = integer(
        100_000, 1, 10_000_000, "A message from a client in more frames than this ends its connection with 1009."
    )
    inbound_messages: int = integer(
        0,
        0,
        65535,
        "Messages and pings that a client may send at once; they come back over inbound_window. Past it, 4008. "
        "0: no limit.",
    )
    inbound_window_s: float = duration("10s", "1s", "1h", "The time in which inbound_messages come back, evenly.")
    outbound_messages: int = integer(
        0,
        0,
        65535,
        "Pushes that one client is sent at once, those to all included; they come back over outbound_window. "
        "Past it they end as rate_limited. 0: no limit. Zuul Push: 3.",
    )
    outbound_window_s: float = duration("2s", "1s", "1h", "The time in which outbound_messages come back, evenly.")
    unsent_bytes: int = size(
        "256KiB", "1KiB", "1GiB", "High-water mark of one connection's unsent bytes; past it slow_consumer decides."
    )
    unsent_age_s: float = duration(
        "30s",
        "1s",
        "1h",
        "A connection with a byte unsent for this long, and at most twice as long, is a slow consumer.",
    )
    unsent_budget_bytes: int = size(
        "256MiB", "64KiB", "64GiB", "Unsent and partial bytes of all connections of a worker together."
    )
    notsent_lowat_bytes: int = size(
        "16KiB",
        "1KiB",
        "1GiB",
        "TCP_NOTSENT_LOWAT: what the kernel takes beyond its window. Without it, it takes megabytes for a client "
        "that never reads, and all of that counts as delivered.",
    )
    slow_consumer: str = choice(
        "close", ["close", "drop"], "Past the mark: close the connection with 4004, or drop the newest message."
    )


@dataclass(frozen=True, slots=True)
class Api:
    """Senders and operators: the HTTP API, and the demo page in embedded mode."""

    bind: str = address("127.0.0.1:8081", "Where senders and operators connect. Every worker serves it.")
    keys: tuple[str, ...] = many(
        [],
        API_KEY,
        "Keys, one of which a sender presents as `Authorization: Bearer`. Required where bind is not loopback. "
        "`push:KEY`, `read:KEY` and `operate:KEY` limit a key to sending, looking, or looking and disconnecting. "
        "No two entries share a key.",
        secret=True,
    )
    keys_file: str = text("", "File with one key a line, instead of keys.", PATH)
    push_bytes: int = size("64KiB", "1B", "8MiB", "Payload of one push; a larger one is answered 413.")
    batch_lines: int = integer(10_000, 1, 1_000_000, "Lines of one NDJSON request; more are answered 413.")


@dataclass(frozen=True, slots=True)
class Peers:
    """Internal delivery between workers, on this box and between boxes."""

    bind: str = text("127.0.0.1", "Where peers connect.", HOST)
    port: int = integer(8100, 0, 65535, "First port: worker n listens on port + n. 0: any free one.")
    advertise: str = text(
        "",
        "Host under which other boxes reach this one. Empty: bind.",
        HOST_OR_EMPTY,
    )
    region: str = text("local", "Messages are delivered to workers of the processor's own region only.", NAME)
    secret: str = text(
        "",
        "Shared by all boxes; peers prove to each other that they know it. Generated in embedded mode.",
        SECRET_OR_EMPTY,
        secret=True,
    )
    secret_file: str = text("", "File that holds the secret, instead of secret.", PATH)


@dataclass(frozen=True, slots=True)
class Auth:
    """Who a client is."""

    mode: str = text(
        "",
        "dev: `?client=ID`, on loopback only. jwt: a signed token. cookie: a value signed with HMAC. hook: an HTTP "
        "call. python: a function of yours. Empty: dev if embedded, else it must be chosen.",
        AUTH_MODE,
    )
    keys_file: str = text(
        "",
        "Keys that sign and verify tokens or cookies, one a line: the first signs, all verify. jwt: also public keys "
        "in PEM, which only verify.",
        PATH,
    )
    algorithms: tuple[str, ...] = many(
        [],
        Choice(("HS256", "RS256", "ES256")),
        "Algorithms a token may be signed with. Empty: those that the keys are for. A key is only used with its own.",
        most=3,
    )
    jwks_file: str = text("", "jwt: file with public keys as a JSON Web Key Set.", PATH)
    jwks_url: str = text(
        "", "jwt: where such a set is fetched, at the start and then every jwks_refresh. Last good keys stay.", JWKS_URL
    )
    jwks_refresh_s: float = duration("10m", "10s", "1d", "Time between two fetches, give or take a tenth.")
    token_cache: int = integer(
        100_000, 0, 10_000_000, "Verified tokens, or a hook's answers, that a worker remembers by their digest."
    )
    audience: str = text("", "Required `aud` claim. Empty: not checked.")
    issuer: str = text("", "Required `iss` claim. Empty: not checked.")
    leeway_s: float = duration("30s", "0s", "10m", "Clock difference forgiven in `exp`, `nbf` and `iat`.")
    cookie: str = text(
        "zpush",
        "Cookie in which a token may come. Empty: none.",
        COOKIE,
    )
    query_token: bool = flag(False, "Accept `?token=`. Query strings end in access logs: prefer the other ways.")
    delayed: bool = flag(False, 'Let a client open without a token and send `{"auth":"<jwt>"}` as its first message.')
    delayed_timeout_s: float = duration("8s", "1s", "5m", "Time for that first message, then 4001.")
    hook_url: str = text("", "hook: the service that is asked for each handshake.", HOOK_URL)
    hook_headers: tuple[str, ...] = many(
        ["cookie", "user-agent"], HEADER, "Header fields of the handshake that the hook is told.", most=32
    )
    hook_timeout_s: float = duration("3s", "100ms", "30s", "Time for the answer of a hook, or of a function of yours.")
    hook_concurrency: int = integer(
        100, 1, 10_000, "Calls under way per worker; one more is not made, and treated as if the hook were down."
    )
    hook_cache_s: float = duration(
        "10s", "0s", "1h", "A good answer holds for this long. 0s: the hook is always asked."
    )
    hook_down: str = choice(
        "refuse",
        ["refuse", "allow_cached"],
        "While the hook is down: 503 with Retry-After, or who it was by the last good answer, up to hook_stale.",
    )
    hook_stale_s: float = duration("1h", "1s", "7d", "allow_cached: how old that last good answer may be.")


@dataclass(frozen=True, slots=True)
class Registry:
    """Who is connected where."""

    url: str = url(
        REGISTRY_SCHEMES,
        "The Redis or Valkey that holds the leases: one server, `redis+sentinel://host,host/service` or "
        "`redis+cluster://host,host`. embedded: a private one, run by the master.",
    )
    password: str = text(
        "", "The server's, where it does not stand in the URL. The user, if it is not `default`, does.", secret=True
    )
    password_file: str = text("", "File that holds it, instead of password.", PATH)
    sentinel_password: str = text(
        "", "The Sentinels' own. Their user stands in the URL: `?sentinel_username=`.", secret=True
    )
    sentinel_password_file: str = text("", "File that holds it, instead of sentinel_password.", PATH)
    read_from: str = choice(
        "primary",
        ["primary", "replica"],
        "replica: look-ups go to replicas, and to the primary where a replica knows no live lease.",
    )
    prefix: str = text("zpush", "Every key starts with it.", NAME)
    lease_ttl_s: float = duration("20m", "2s", "1d", "A client's lease; renewed at half of it.")
    node_ttl_s: float = duration(
        "10s", "1s", "5m", "A crashed worker's clients are offline after this; renewed at a fifth."
    )
    repair_rate: int = integer(
        2000, 1, 1_000_000, "Leases a worker writes again per second after the registry lost them."
    )
    user_devices: int = integer(
        1000, 1, 100_000, "Clients of one user that a push to the user reaches: those seen last. More may be connected."
    )


@dataclass(frozen=True, slots=True)
class Kafka:
    """Where `queue.url` is `kafka://…`: topics, consumer groups, and librdkafka's own settings."""

    group: str = text(
        "<prefix>.<region>",
        "Consumer groups start with it. Regions that share a Kafka cluster need one each: <region> is peers.region.",
        GROUP,
    )
    protocol: str = choice(
        "classic",
        ["classic", "consumer"],
        "How processors share the partitions. consumer: KIP-848, with Kafka 4.0 or newer.",
    )
    mirrored: bool = flag(
        False, "Processors also read what MirrorMaker 2 copied from other clusters: topics `<cluster>.<prefix>.high`."
    )
    replication: int = integer(
        0, 0, 100, "Copies of each partition that `zpush topics create` asks for. 0: as many as the brokers' default."
    )
    retention_s: float = duration(
        "1d", "1m", "90d", "What waits longer than this is deleted by Kafka, whether it was read or not."
    )
    dead_retention_s: float = duration("7d", "1m", "365d", "The same for dead letters.")
    receipt_retention_s: float = duration("1d", "1m", "365d", "The same for receipts, where queue.receipts is on.")
    presence_retention_s: float = duration(
        "1d", "1m", "365d", "The same for presence events, where queue.presence is on."
    )
    client: Mapping[str, str] = passed_on(
        LIBRDKAFKA,
        "Any setting of librdkafka by its own name: `security.protocol`, `sasl.username`, `ssl.ca.location`. With "
        "`_file` at its end it names a file that holds the value: `sasl.password_file`. "
        "In the environment, `__` stands for each dot: `ZPUSH_QUEUE__KAFKA__SASL__PASSWORD`.",
    )


@dataclass(frozen=True, slots=True)
class Queue:
    """What is to be said."""

    url: str = url(
        QUEUE_SCHEMES,
        "Kafka, by one or more of its brokers (`kafka://a:9092,b:9092`), or Redis Streams on this server. "
        "embedded: Streams on the private one. Need not be the registry's.",
    )
    password: str = text("", "Of the server with Streams, as registry.password is of the registry's.", secret=True)
    password_file: str = text("", "File that holds it, instead of password.", PATH)
    sentinel_password: str = text("", "The Sentinels' own.", secret=True)
    sentinel_password_file: str = text("", "File that holds it, instead of sentinel_password.", PATH)
    prefix: str = text("zpush", "Topics are `<prefix>.high` and so on, streams `<prefix>.high.0` and so on.", NAME)
    partitions: int = integer(
        8,
        1,
        1024,
        "Partitions or streams per priority, each read by one processor at a time. "
        "Drain the queue before you change it.",
    )
    max_messages: int = integer(
        1_000_000,
        1,
        1_000_000_000,
        "Messages per priority that may wait in Streams; one more is refused with 503. Kafka's bound is its retention.",
    )
    receipts: bool = flag(
        False,
        "Processors write what became of each message to `<prefix>.receipts`, where its sender can read it, "
        "and `zpush trace` does. Kafka: `zpush topics create` makes the topic.",
    )
    max_receipts: int = integer(
        100_000, 1000, 1_000_000_000, "Receipts that Streams keep, about: the newest. Kafka's bound is their retention."
    )
    presence: bool = flag(
        False,
        "Workers and processors write who came and who went to `<prefix>.presence`. "
        "Kafka: `zpush topics create` makes the topic.",
    )
    max_presence: int = integer(
        500_000,
        1000,
        1_000_000_000,
        "Presence events that Streams keep, about: the newest. Kafka's bound is their retention.",
    )
    kafka: Kafka = Kafka()


@dataclass(frozen=True, slots=True)
class Processor:
    """From the queue to the workers."""

    instances: int = integer(1, 0, 100, "Message processors run by `serve`. 0: only those of `zpush process`.")
    priorities: tuple[str, ...] = many(
        ["high", "normal", "low"],
        Choice(("high", "normal", "low")),
        "Priorities that this processor reads.",
        least=1,
        most=3,
    )
    batch: int = integer(500, 1, 10_000, "Messages taken at once.")
    low_floor: float = ratio(
        0.1, 0.0, 0.5, "Share of work kept for the lowest priority, however much of the others waits."
    )
    retry_s: float = duration(
        "15s",
        "0s",
        "5m",
        "A message whose owner cannot be reached is tried for this long. For the registry it waits to its own end.",
    )
    metrics_bind: str = address(
        "",
        "Where `zpush process` answers `/metrics`, `/healthz` and `/readyz`, as `serve` does at api.bind. "
        "Empty: nowhere.",
    )
    control_socket: str = text(
        "",
        "Unix socket through which `zpush status --process` and `zpush reload --process` find `zpush process`, "
        "such as `<data_dir>/process.sock`. Each one on a box needs its own. Empty: none.",
        PATH,
    )
    max_age_s: float = duration(
        "1h", "1s", "7d", "A message without TTL that waited longer is expired, so that an outage ends without a flood."
    )


@dataclass(frozen=True, slots=True)
class Log:
    """One line per event of a process's life, none per message or connection at the default level."""

    level: str = choice("info", ["debug", "info", "warning", "error"], "The least level that is written.")
    format: str = choice(
        "auto", ["auto", "json", "text"], "One JSON object a line, or text. auto: text on a terminal, else JSON."
    )
    file: str = text("", "File to append to; opened anew on HUP. Empty: standard error.", PATH)


@dataclass(frozen=True)
class Settings:
    """All sections; made by loading.load."""

    server: Server = Server()
    connections: Connections = Connections()
    api: Api = Api()
    peers: Peers = Peers()
    auth: Auth = Auth()
    registry: Registry = Registry()
    queue: Queue = Queue()
    processor: Processor = Processor()
    log: Log = Log()
    origins: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False, compare=False)

    def origin(self, key: str) -> str:
        """Where the value of a key such as "connections.max_age" came from."""
        return self.origins.get(key, "default")

    @property
    def embedded(self) -> bool:
        """Whether the master runs a private Valkey."""
        return EMBEDDED in (self.registry.url, self.queue.url)

    @property
    def on_kafka(self) -> bool:
        """Whether the queue is Kafka, so has topics that must be there."""
        return self.queue.url.startswith("kafka://")

    @property
    def for_development(self) -> bool:
        """Whether this is somebody trying zpush out: nothing of their own yet, on loopback only."""
        return self.embedded and self.auth.mode == "dev"

    @property
    def worker_count(self) -> int:
        return self.server.workers or len(os.sched_getaffinity(0))

    @property
    def embedded_socket(self) -> str:
        """Absolute path of the private Valkey's Unix socket."""
        return os.path.join(os.path.abspath(self.server.data_dir), "valkey.sock")

    def registry_url(self) -> str:
        return self._real_url(self.registry.url)

    def queue_url(self) -> str:
        return self._real_url(self.queue.url)

    def _real_url(self, value: str) -> str:
        return f"unix://{self.embedded_socket}" if value == EMBEDDED else value


def _sections(of: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and defaults, a section before those within it."""
    for each in fields(of):
        if is_dataclass(each.default):
            name = f"{prefix}{each.name}"
            yield name, each.default
            yield from _sections(each.default, f"{name}.")


SECTIONS: Mapping[str, Any] = dict(_sections(Settings))
SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {setting.key: setting for name, cls in SECTIONS.items() for setting in settings_of(name, cls)}
)


def section_of(settings: Settings, name: str) -> Any:
    """The section of that name, such as "queue.kafka"."""
    return attrgetter(name)(settings)


def with_values(settings: Settings, values: Mapping[str, Mapping[str, Any]], origins: Mapping[str, str]) -> Settings:
    """These settings with other values: by section, then by attribute."""
    changed: dict[str, dict[str, Any]] = {"": {}, **{name: dict(values.get(name, {})) for name in SECTIONS}}
    for name in reversed(list(SECTIONS)):  # those within a section before it
        parent, _, attribute = name.rpartition(".")
        changed[parent][attribute] = replace(section_of(settings, name), **changed[name])
    return Settings(**changed[""], origins=MappingProxyType(dict(origins)))
