# An application for the tests, with Perl's HTTP::Daemon, a connection at a time: perl daemon.pl PORT LOG
use strict;
use warnings;
use HTTP::Daemon;
use HTTP::Response;
use IO::Handle;

my ($port, $path) = @ARGV;
$SIG{PIPE} = 'IGNORE';
my %pages = (
    '/form' => [201, 'taken'],
    '/index.html' => [200, "hello\n"],
    '/large.bin' => [200, 'x' x (512 * 1024)],
    '/moved' => [301, ''],
    '/empty' => [204, ''],
    '/broken' => [500, 'broken'],
);
open(my $log, '>>', $path) or die "no log: $!";
$log->autoflush(1);
my $daemon = HTTP::Daemon->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 128) or die "no socket: $!";
while (my $client = $daemon->accept) {
    if (my $request = $client->get_request) {
        my $path = $request->uri->path;
        my ($code, $body) = @{ $pages{$path} // [404, 'gone'] };
        my $response = HTTP::Response->new($code);
        $response->header('Location' => '/index.html') if $code == 301;
        if ($path eq '/chunked') {
            my $left = 5;
            $response->code($code = 200);
            $response->content(sub { $left-- > 0 ? "HTTP/1.1 500 Not a response\r\n\r\n" : undef });
        } elsif ($code != 204) {
            $response->content($body);
        }
        $response->header('Connection' => 'close');
        $client->force_last_request;
        $client->send_response($response);
        print $log "$code ", $request->method, " $path\n";
    }
    $client->close;
}
