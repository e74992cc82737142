"""Real servers, as the tests of the whole road have them."""

from tests.road.conftest import api, serve, server, shared_server

__all__ = ["api", "serve", "server", "shared_server"]
