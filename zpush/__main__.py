"""`python -m zpush` is `zpush`."""

import sys

from zpush.cli.main import main

sys.exit(main())
