"""The registry that the settings name."""

from __future__ import annotations

from zpush.config.secrets import registry_url
from zpush.config.settings import Settings
from zpush.registry.redis import RedisRegistry
from zpush.store import Store


def open_registry(settings: Settings, name: str) -> RedisRegistry:
    """Not started yet. name: what the server shows of its connections. ConfigError where the URL is wrong."""
    store = Store(registry_url(settings), name=name, read_replicas=settings.registry.read_from == "replica")
    return RedisRegistry(store, settings.registry)
