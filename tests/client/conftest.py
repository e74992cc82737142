"""Real servers, as the tests of the whole road have them."""

from tests.road.conftest import api, name, serve, server, shared_server

__all__ = ["api", "name", "serve", "server", "shared_server"]
