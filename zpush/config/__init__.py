"""Settings: declared once, loaded from four sources, checked before anything starts.

settings.py   every setting (start here)
declare.py    how one is declared       kinds.py, units.py   what values look like
loading.py    file, environment, --set  checks.py            what settings together must fulfil
secrets.py    secrets in files          render.py            `zpush config show|default|docs`
"""

from zpush.config.loading import load, locate
from zpush.config.secrets import api_keys, peers_secret, read_secret_file, scoped
from zpush.config.settings import Settings

__all__ = ["Settings", "api_keys", "load", "locate", "peers_secret", "read_secret_file", "scoped"]
