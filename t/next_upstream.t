# nginx's own retry never brings a covered request to a second server once the first may have acted on it.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::App;
use IdempotencyTest::Assertions;
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(dead_port);
use IdempotencyTest::Requests qw(@who);

my $app = IdempotencyTest::App->new(gateways => 1);
my $space = $app->space;
my $closed = "127.0.0.1:" . dead_port();
my @protocols = qw(proxy fastcgi grpc scgi uwsgi);

# Both servers are one application, which counts what comes to either.
my %socket = (proxy => '127.0.0.1:' . $app->port, map { $_ => $app->gateway($_) } grep { $_ ne 'proxy' } @protocols);
my @upstreams = map { (
    "upstream two_$_ { server $socket{$_} max_fails=0; server $socket{$_} max_fails=0; }",
    # the first in turn is the one that refuses, or the second: both come up
    "upstream half_$_ { server $closed max_fails=0; server $socket{$_} max_fails=0; }",
) } @protocols;

sub pass_to {
    my ($protocol, $upstream) = @_;
    my $scheme = {proxy => 'http://', grpc => 'grpc://'}->{$protocol} // '';
    my $errors = $protocol =~ /proxy|grpc/ ? 'error timeout invalid_header http_500 http_502 http_503 http_504 http_403 http_404 http_429 non_idempotent'
        : 'error timeout invalid_header http_500 http_503 http_403 http_404 http_429 non_idempotent';
    my $how = "${protocol}_pass $scheme${upstream}_$protocol; ${protocol}_read_timeout 300ms; ${protocol}_next_upstream $errors; ${protocol}_next_upstream_tries 4;";
    return "$how grpc_set_header App-Space $space;" if $protocol eq 'grpc';
    return $how if $protocol eq 'proxy';
    return join ' ', $how, map { "${protocol}_param $_;" } 'REQUEST_METHOD $request_method', 'REQUEST_URI $request_uri',
        'CONTENT_LENGTH $content_length', "HTTP_APP_SPACE $space";
}

my $methods = 'idempotency_methods POST PUT PATCH DELETE ORDER GET';
my $nginx = IdempotencyTest::Nginx->new(application => $app, workers => 1);
$nginx->set(http => join("\n", @upstreams), server => join "\n        ", 'idempotency main;', "$methods;",
    (map { my $p = $_; map { "location /$_-$p/ { " . pass_to($p, $_) . ' }' } qw(two half) } @protocols),
    'location /streaming/ { idempotency_fingerprint $request_uri body=off; proxy_request_buffering off; ' . pass_to('proxy', 'two') . '}',
    'location /unbuffered/ { proxy_buffering off; ' . pass_to('proxy', 'two') . '}',
)->start;

my $n = 0;

my %failure = (
    closed => ['abort=before,no', 502],
    reset => ['abort=reset,no', 502],
    nonsense => ['abort=garbage,no', 502],
    late => ['gate=never', 504],
    (map { ("status $_" => ["status=$_,201", $_]) } 500, 503, 403, 404, 429),
);

for my $protocol (@protocols) {
    for my $name (sort keys %failure) {
        my ($query, $status) = @{$failure{$name}};

        for my $method ($protocol eq 'proxy' ? qw(POST PUT PATCH DELETE ORDER GET) : qw(POST PUT)) {
            next if $name eq 'late' && $method ne 'PUT';
            my $path = "/two-$protocol/f" . ++$n;
            my $answer = $nginx->request(method => $method, path => "$path?$query", key => $path, body => 'body', @who);
            my $what = "$name, $method, $protocol";
            is $answer->status, $status, "the first server's failure is the answer ($what)" or diag $answer->head;
            is $app->count($path), 1, "no other has got the request ($what)";
        }
    }

    # a server that refuses the connection has not acted: the next one does, whichever is first
    for my $method (qw(POST PUT)) {
        for my $turn (1 .. 4) {
            my $path = "/half-$protocol/f" . ++$n;
            my $answer = $nginx->request(method => $method, path => $path, key => $path, body => 'body', @who);
            ok $answer->body =~ /#1 $method/ && !$answer->is_replay, "a refused connection goes to the next server ($protocol, $method, $turn)" or diag $answer->head;
            is $app->count($path), 1, "which acts once ($protocol, $method, $turn)";
            my $retry = $nginx->request(method => $method, path => $path, key => $path, body => 'body', @who);
            is_replay_of $retry, $answer, "and is the one that is kept ($protocol, $method, $turn)";
        }
    }
}

for my $where (qw(streaming unbuffered)) {
    for my $name (qw(closed reset nonsense)) {
        my ($query, $status) = @{$failure{$name}};
        my $path = "/$where/f" . ++$n;
        is $nginx->request(method => 'PUT', path => "$path?$query", key => $path, body => 'body', @who)->status, $status, "$name ($where)";
        is $app->count($path), 1, "no other has got the request ($name, $where)";
    }
}

# What is not covered is tried again as nginx does, also in a location that has just been used by covered requests.
for my $protocol (@protocols) {
    for my $name (grep { $_ ne 'late' } sort keys %failure) {
        my ($query) = @{$failure{$name}};
        for my $method (qw(POST PUT GET)) {
            my $path = "/two-$protocol/u" . ++$n;
            my $answer = $nginx->request(method => $method, path => "$path?$query", body => 'body', @who);
            is $answer->body =~ /#(\d)/ && $1, 2, "without a key the next server gets it ($name, $method, $protocol)";
            is $app->count($path), 2, "so two have acted ($name, $method, $protocol)";
        }
    }
}

$nginx->stop;
done_testing;
