"""`zpush serve` with a master that takes a process for hung after 3 s instead of 10."""

from __future__ import annotations

import argparse
import sys

from zpush import log
from zpush.cli.common import add_config_options, load_settings
from zpush.master.backoff import Timings
from zpush.master.master import Master


def main() -> int:
    parser = argparse.ArgumentParser()
    add_config_options(parser)
    settings = load_settings(parser.parse_args())
    log.set_process("master")
    log.setup(settings.log.level, settings.log.format, settings.log.file)
    return Master(settings, timings=Timings(check_s=0.1, hung_s=3.0)).run()


if __name__ == "__main__":
    sys.exit(main())
