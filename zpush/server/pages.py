"""The demo page: files of zpush/web, read once, served from memory in embedded mode.

Rules. Only what lies in that folder when the worker starts can be asked for: a path is a key of a
dictionary, never a path of the file system. Nothing is cached by browsers, so that a page and its script
are of one version; no other site may frame it (a button that pushes is worth clickjacking).
"""

from __future__ import annotations

from pathlib import Path

from zpush.server.http_message import HttpRequest, HttpResponse, Route

FOLDER = Path(__file__).resolve().parent.parent / "web"
_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".png": b"image/png",
    ".ico": b"image/x-icon",
    ".json": b"application/json",
    ".ts": b"text/plain; charset=utf-8",
}
_HEADERS = (
    b"Cache-Control: no-cache\r\n"
    b"X-Content-Type-Options: nosniff\r\n"
    b"X-Frame-Options: DENY\r\n"
    b"Referrer-Policy: no-referrer\r\n"
)


def load_pages(folder: Path = FOLDER) -> dict[str, Route]:
    """Path → route, for every file of a known type; index.html is `/` as well."""
    routes = {}
    for file in sorted(folder.rglob("*")):
        content_type = _TYPES.get(file.suffix)
        if content_type is None or not file.is_file():
            continue
        route = routes[f"/{file.relative_to(folder).as_posix()}"] = _page(file.read_bytes(), content_type)
        if file == folder / "index.html":
            routes["/"] = route
    return routes


def _page(content: bytes, content_type: bytes) -> Route:
    response = HttpResponse(200, content, content_type, _HEADERS)

    def answer(request: HttpRequest) -> HttpResponse:
        return response

    return Route(answer)
