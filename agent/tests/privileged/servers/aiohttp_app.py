"""An application for the tests, with aiohttp: aiohttp_app.py PORT LOG"""

import logging
import sys

from aiohttp import web

LARGE = b"x" * (512 * 1024)
PAGES = {
    "/form": (201, b"taken"),
    "/index.html": (200, b"hello\n"),
    "/large.bin": (200, LARGE),
    "/moved": (301, b""),
    "/empty": (204, b""),
    "/broken": (500, b"broken"),
}


async def answer(request):
    await request.read()
    if request.path == "/chunked":
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(5):
            await response.write(b"HTTP/1.1 500 Not a response\r\n\r\n")
        return response
    status, body = PAGES.get(request.path, (404, b"gone"))
    headers = {"Location": "/index.html"} if status == 301 else {}
    return web.Response(status=status, body=body if status != 204 else None, headers=headers)


logging.getLogger("aiohttp.access").addHandler(logging.FileHandler(sys.argv[2]))
logging.getLogger("aiohttp.access").setLevel(logging.INFO)
application = web.Application(client_max_size=1 << 30)
application.router.add_route("*", "/{path:.*}", answer)
web.run_app(application, host="127.0.0.1", port=int(sys.argv[1]), access_log_format="%s %r", print=None)
