// An application for the tests, with Node.js's own server: node app.js PORT LOG
'use strict';
const fs = require('fs');
const http = require('http');

const [port, log] = process.argv.slice(2);
const large = 'x'.repeat(512 * 1024);
const pages = {
  '/form': [201, 'taken'],
  '/index.html': [200, 'hello\n'],
  '/large.bin': [200, large],
  '/moved': [301, ''],
  '/empty': [204, ''],
  '/broken': [500, 'broken'],
};

const server = http.createServer((request, response) => {
  response.on('finish', () => fs.appendFileSync(log, `${response.statusCode} ${request.method} ${request.url}\n`));
  request.on('end', () => {
    if (request.url === '/chunked') {
      response.writeHead(200);
      for (let i = 0; i < 5; i += 1) response.write('HTTP/1.1 500 Not a response\r\n\r\n');
      response.end();
      return;
    }
    const [code, body] = pages[request.url] ?? [404, 'gone'];
    const headers = code === 204 ? {} : { 'Content-Length': Buffer.byteLength(body) };
    if (code === 301) headers.Location = '/index.html';
    response.writeHead(code, headers);
    response.end(request.method === 'HEAD' ? undefined : body);
  });
  request.resume();
});
server.listen(Number(port), '127.0.0.1');
