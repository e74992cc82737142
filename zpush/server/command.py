"""How this zpush is called from the directory it was started in: what the start and the demo page say."""

from __future__ import annotations

import os
import shutil
import sys


def command() -> str:
    if shutil.which("zpush"):
        return "zpush"
    beside = os.path.join(os.path.dirname(sys.executable), "zpush")
    return os.path.relpath(beside) if os.path.exists(beside) else f"{sys.executable} -m zpush"
