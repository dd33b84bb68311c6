# A Rack application for the tests: run by puma.
LARGE = 'x' * (512 * 1024)
PAGES = {
  '/form' => [201, 'taken'],
  '/index.html' => [200, "hello\n"],
  '/large.bin' => [200, LARGE],
  '/moved' => [301, ''],
  '/empty' => [204, nil],
  '/broken' => [500, 'broken'],
}.freeze

run lambda { |environment|
  path = environment['PATH_INFO']
  environment['rack.input'].read if path == '/form'
  if path == '/chunked'
    [200, {}, Enumerator.new { |body| 5.times { body << "HTTP/1.1 500 Not a response\r\n\r\n" } }]
  else
    code, body = PAGES.fetch(path, [404, 'gone'])
    headers = body ? { 'Content-Length' => body.bytesize.to_s } : {}
    headers['Location'] = '/index.html' if code == 301
    [code, headers, body && environment['REQUEST_METHOD'] != 'HEAD' ? [body] : []]
  end
}
