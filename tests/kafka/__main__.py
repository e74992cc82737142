"""`python -m tests.kafka [--port N]`: a broker to try things out, until Ctrl-C, TERM or the end of who started it.

Nothing is kept: its data is in a directory under /tmp, which goes with it.
"""

from __future__ import annotations

import argparse
import ctypes
import signal
import sys
from types import FrameType

from tests.kafka.broker import Broker
from tests.kafka.jars import missing
from tests.support import PR_SET_PDEATHSIG

TOLD = """\
Kafka answers at {bootstrap} (pid {pid}, data in {directory}, deleted at the end). Next:
  zpush topics create --set queue.url={url}
  zpush serve --set queue.url={url}
Ctrl-C stops it."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kafka", description=__doc__)
    parser.add_argument("--port", type=int, default=0, metavar="N", help="on 127.0.0.1; 0, the default: any free one")
    options = parser.parse_args()
    if why := missing():
        print(why, file=sys.stderr)
        return 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):  # a shell starts background jobs with INT ignored
        signal.signal(number, _leave)
    broker = Broker(port=options.port)
    try:
        return _run(broker)
    except RuntimeError as e:
        print(e, file=sys.stderr)
        return 1
    finally:
        broker.terminate()
        broker.stop()


def _run(broker: Broker) -> int:
    broker.start()
    print(
        TOLD.format(bootstrap=broker.bootstrap, url=broker.url, pid=broker.pid, directory=broker.directory), flush=True
    )
    code = broker.wait()
    print(f"Kafka has ended (exit code {code}):\n{broker.log[-4000:]}", file=sys.stderr)
    return 1


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
