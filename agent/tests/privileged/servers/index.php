<?php
// Pages for the tests, behind PHP's own server: php -S ADDRESS -t PAGES
$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
$pages = [
    '/form' => [201, 'taken'],
    '/index.html' => [200, "hello\n"],
    '/large.bin' => [200, str_repeat('x', 512 * 1024)],
    '/moved' => [301, ''],
    '/empty' => [204, ''],
    '/broken' => [500, 'broken'],
];
if ($path === '/chunked') {
    for ($i = 0; $i < 5; $i++) {
        echo "HTTP/1.1 500 Not a response\r\n\r\n";
        flush();
    }
    return;
}
[$code, $body] = $pages[$path] ?? [404, 'gone'];
http_response_code($code);
if ($code === 301) {
    header('Location: /index.html');
}
if ($code !== 204) {
    header('Content-Length: ' . strlen($body));
}
echo $_SERVER['REQUEST_METHOD'] === 'HEAD' ? '' : $body;
