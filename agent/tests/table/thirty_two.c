/* A server of 32 bits, in a world of 64: the connection is its input and output. No library: there may be none of 32 bits. */
static int call(int number, int first, const void *second, int third) {
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(first), "c"(second), "d"(third) : "memory");
    return result;
}

enum { EXIT = 1, READ = 3, WRITE = 4, CLOSE = 6, PAUSE = 29, WRITEV = 146 };

struct iovec { const void *base; int length; };

void _start(void) {
    static char head[4096];
    int length;
    while ((length = call(READ, 0, head, sizeof head)) > 0) {
        struct iovec parts[] = {{"HTTP/1.1 2", 10}, {"00 OK\r\nContent-Length: 2\r\n\r\nok", 30}};
        if (call(WRITEV, 1, parts, 2) < 0) {
            break;
        }
    }
    /* Lives on, so that it is found by its pid. */
    call(CLOSE, 0, 0, 0);
    call(CLOSE, 1, 0, 0);
    call(PAUSE, 0, 0, 0);
    call(EXIT, 0, 0, 0);
}
