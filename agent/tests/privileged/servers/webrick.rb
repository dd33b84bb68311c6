# An application for the tests, with WEBrick: ruby webrick.rb PORT LOG
require 'webrick'

LARGE = 'x' * (512 * 1024)
PAGES = {
  '/form' => [201, 'taken'],
  '/index.html' => [200, "hello\n"],
  '/large.bin' => [200, LARGE],
  '/moved' => [301, ''],
  '/empty' => [204, nil],
  '/broken' => [500, 'broken'],
}.freeze

log = File.open(ARGV[1], 'a')
log.sync = true
server = WEBrick::HTTPServer.new(BindAddress: '127.0.0.1', Port: ARGV[0].to_i, AccessLog: [[log, '%s %m %U']],
                                 RequestTimeout: 60)
server.mount_proc('/') do |request, response|
  request.body
  if request.path == '/chunked'
    response.chunked = true
    response.body = proc { |out| 5.times { out.write("HTTP/1.1 500 Not a response\r\n\r\n") } }
  else
    response.status, body = PAGES.fetch(request.path, [404, 'gone'])
    response.body = body if body
    response['Location'] = '/index.html' if response.status == 301
  end
end
trap('TERM') { server.shutdown }
server.start
