"""An ASGI application for the tests: run by uvicorn."""

LARGE = b"x" * (512 * 1024)


async def application(scope, receive, send):
    assert scope["type"] == "http"
    path = scope["path"]
    while path == "/form" and (await receive()).get("more_body"):
        pass
    status, body = {
        "/form": (201, b"taken"),
        "/index.html": (200, b"hello\n"),
        "/large.bin": (200, LARGE),
        "/chunked": (200, None),
        "/moved": (301, b""),
        "/empty": (204, b""),
        "/broken": (500, b"broken"),
    }.get(path, (404, b"gone"))
    headers = [] if body is None or status == 204 else [(b"content-length", str(len(body)).encode())]
    if status == 301:
        headers.append((b"location", b"/index.html"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if body is None:
        for _ in range(5):
            await send({"type": "http.response.body", "body": b"HTTP/1.1 500 No\r\n\r\n", "more_body": True})
        body = b""
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
