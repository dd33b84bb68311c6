"""An application for the tests, with Tornado: tornado_app.py PORT LOG"""

import asyncio
import sys

import tornado.web

LARGE = b"x" * (512 * 1024)
PAGES = {
    "/form": (201, b"taken"),
    "/index.html": (200, b"hello\n"),
    "/large.bin": (200, LARGE),
    "/moved": (301, b""),
    "/empty": (204, b""),
    "/broken": (500, b"broken"),
}


class Page(tornado.web.RequestHandler):
    async def get(self):
        if self.request.path == "/chunked":
            for _ in range(5):
                self.write(b"HTTP/1.1 500 Not a response\r\n\r\n")
                await self.flush()
            return
        status, body = PAGES.get(self.request.path, (404, b"gone"))
        self.set_status(status)
        if status == 301:
            self.set_header("Location", "/index.html")
        if status != 204:
            self.write(body)

    head = post = get


async def main():
    log = open(sys.argv[2], "a", buffering=1)

    def record(handler):
        print(handler.get_status(), handler.request.method, handler.request.path, file=log)

    tornado.web.Application([("/.*", Page)], log_function=record).listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()


asyncio.run(main())
