"""A registry's or queue's URL that leads nowhere, to the wrong kind of server, or in with the wrong password."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.road.api import Api
from tests.road.server import Serve
from tests.store.topologies import Topology
from tests.support import run_zpush

SECRET = "s3cret-s3cret"
OURS = ("auth.mode=dev", "peers.secret=0123456789abcdef")


@pytest.mark.parametrize(
    ("kind", "url", "says"),
    [
        ("", "redis://:{secret}@127.0.0.1:1", "127.0.0.1:1"),
        ("", "redis+sentinel://:{secret}@127.0.0.1:1/main?sentinel_password={secret}", "no Sentinel answers"),
        ("", "redis+cluster://:{secret}@127.0.0.1:1,127.0.0.1:2", "127.0.0.1:"),
        ("cluster", "redis://{address}", "its URL begins with redis+cluster://"),
        ("valkey", "redis+cluster://{address}", "its URL begins with redis://"),
        ("valkey", "redis+sentinel://{address}/main", "its URL begins with redis://"),
        ("valkey", "redis://push:{secret}@{address}", "WRONGPASS"),
        ("cluster", "redis+cluster://push:{secret}@{address}", "WRONGPASS"),
    ],
)  # fmt: skip
async def test_it_serves_and_says_why_it_is_not_ready(
    serve: Serve, topologies: Callable[[str], Topology], kind: str, url: str, says: str
) -> None:
    address = topologies(kind).primary_of().address if kind else ""
    server = serve(f"registry.url={url.format(secret=SECRET, address=address)}", *OURS, "processor.instances=0")
    async with Api(server.api) as api:
        answer = await api.http.get("/readyz")
    assert answer.status_code == 503
    reason = str(answer.json()["reason"])
    assert reason.startswith("registry: ") and says in reason and (address or "127.0.0.1:") in reason
    assert server.logged("not connected") or server.logged("no cluster")
    assert address in server.log.read_text()
    assert SECRET not in server.log.read_text() + server.output.read_text() + reason


@pytest.mark.parametrize(
    "setting",
    [
        f"registry.url=redis+cluster://push:{SECRET}@h/1",
        f"registry.url=redis+sentinel://push:{SECRET}@h",
        f"registry.url=redis://push:{SECRET}@h?databse=1",
        f"registry.url=redis://push:{SECRET}/@h",
        f"registry.url=rediss://push:{SECRET}@h?ssl_ca_certs=/nowhere",
        f"queue.url=redis+cluster://push:{SECRET}@h",
        f"queue.url=redis+sentinel://push:{SECRET}@h",
        "registry.password_file=/nowhere",
    ],
)
def test_a_url_that_cannot_be_right_ends_the_start(setting: str, tmp_path: str) -> None:
    sets = ["server.bind=127.0.0.1:0", "api.bind=127.0.0.1:0", "peers.port=0", f"server.data_dir={tmp_path}/d"]
    if "password_file" in setting:
        sets.append("registry.url=redis://h")
    options = [part for each in (*sets, *OURS, setting) for part in ("--set", each)]
    done = run_zpush("serve", *options)
    assert done.returncode == 2
    assert SECRET not in done.stdout + done.stderr
    assert "URL" in done.stderr or "url" in done.stderr or "cannot read the secret" in done.stderr
