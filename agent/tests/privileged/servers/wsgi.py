"""A WSGI application for the tests: run by gunicorn."""

LARGE = b"x" * (512 * 1024)


def chunks():
    """A body without a length, with what must not be taken for a response."""
    for _ in range(5):
        yield b"HTTP/1.1 500 Not a response\r\n\r\n"


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/form":
        while environ["wsgi.input"].read(1 << 16):
            pass
        start_response("201 Created", [("Content-Length", "5")])
        return [b"taken"]
    if path == "/chunked":
        start_response("200 OK", [])
        return chunks()
    if path == "/empty":
        start_response("204 No Content", [])
        return []
    status, body = {
        "/index.html": ("200 OK", b"hello\n"),
        "/large.bin": ("200 OK", LARGE),
        "/moved": ("301 Moved Permanently", b""),
        "/broken": ("500 Internal Server Error", b"broken"),
    }.get(path, ("404 Not Found", b"gone"))
    headers = [("Content-Length", str(len(body)))]
    if path == "/moved":
        headers.append(("Location", "/index.html"))
    start_response(status, headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
