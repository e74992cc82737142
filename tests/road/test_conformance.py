"""A third party's conformance suite, Autobahn's, against `/ws`: some 300 cases, messages of up to 16 MiB.

Its program, wstest, needs Python 2.7. `make conformance` installs it and runs this; without it the test is skipped.
Its cases 12 and 13 are about compression, which zpush does not offer.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.road.server import Serve
from tests.support import ROOT, run

WSTEST = ROOT / "build/conformance/bin/wstest"
SETTINGS = (
    "server.workers=1",
    "connections.inbound=echo",
    "connections.inbound_message_bytes=16MiB",
    "connections.unsent_bytes=32MiB",  # what comes back waits until it is read
)
CASES_AT_LEAST = 300


@pytest.mark.slow
async def test_a_third_partys_conformance_suite_has_no_complaint(serve: Serve, tmp_path: Path) -> None:
    if not WSTEST.exists():
        pytest.skip("the conformance suite is not installed (make conformance)")  # few machines have a Python 2.7
    server = serve(*SETTINGS)
    spec = {
        "servers": [{"agent": "zpush", "url": f"ws://{server.clients}/ws?client=c", "options": {"version": 18}}],
        "options": {"failByDrop": False},
        "outdir": str(tmp_path),
        "cases": ["*"],
        "exclude-cases": ["12.*", "13.*"],
        "exclude-agent-cases": {},
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    done = await asyncio.to_thread(
        run, WSTEST, "-m", "fuzzingclient", "-s", tmp_path / "spec.json", timeout_s=900.0, env={}
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "index.json").read_text())["zpush"]
    assert len(results) >= CASES_AT_LEAST
    complaints = {
        case: told
        for case, told in results.items()
        if not {told["behavior"], told["behaviorClose"]} <= {"OK", "INFORMATIONAL"}
    }
    assert not complaints, f"the reports of single cases are in {tmp_path}"
