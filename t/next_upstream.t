# proxy_next_upstream never sends a covered request to a second server if the first may have executed it.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Socket::UNIX;
use Test::More;
use IdempotencyTest::App;
use IdempotencyTest::Assertions;
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(dead_port temporary_directory);
use IdempotencyTest::Requests qw(@who);

my $app = IdempotencyTest::App->new(gateways => 1);
my $space = $app->space;
my $closed = "127.0.0.1:" . dead_port();
my @protocols = qw(proxy fastcgi grpc scgi uwsgi);

# Both servers are the same application, which counts the requests of both.
my %socket = (proxy => '127.0.0.1:' . $app->port, map { $_ => $app->gateway($_) } grep { $_ ne 'proxy' } @protocols);
my @upstreams = map { (
    # keepalive_requests 1: since nginx 1.29.7 idle connections are kept by default, and nginx itself, also without the module, does not
    # send a gRPC request over one of them to the next server rightly (STREAM_CLOSED)
    "upstream two_$_ { server $socket{$_} max_fails=0; server $socket{$_} max_fails=0; keepalive_requests 1; }",
    # the server that refuses is the first or the second in turn: the test has both cases
    "upstream half_$_ { server $closed max_fails=0; server $socket{$_} max_fails=0; }",
) } @protocols;

sub pass_to {
    my ($protocol, $upstream) = @_;
    my $scheme = {proxy => 'http://', grpc => 'grpc://'}->{$protocol} // '';
    my $errors = $protocol =~ /proxy|grpc/ ? 'error timeout invalid_header http_500 http_502 http_503 http_504 http_403 http_404 http_429 non_idempotent'
        : 'error timeout invalid_header http_500 http_503 http_403 http_404 http_429 non_idempotent';
    my $how = "${protocol}_pass $scheme${upstream}_$protocol; ${protocol}_next_upstream $errors; ${protocol}_next_upstream_tries 4;";
    return "$how grpc_set_header App-Space $space;" if $protocol eq 'grpc';
    return $how if $protocol eq 'proxy';
    return join ' ', $how, map { "${protocol}_param $_;" } 'REQUEST_METHOD $request_method', 'REQUEST_URI $request_uri',
        'CONTENT_LENGTH $content_length', "HTTP_APP_SPACE $space";
}

my $methods = 'idempotency_methods POST PUT PATCH DELETE ORDER GET';
my $sockets = temporary_directory();
my $refusing = "$sockets/socket";
IO::Socket::UNIX->new(Local => $refusing, Listen => 1)->close;
# lua and echo are left out where this nginx does not have them
my @modules = IdempotencyTest::Nginx->available_modules(qw(ndk_http_module ngx_http_lua_module ngx_http_echo_module));
my $has_modules = @modules == 3;
my $nginx = IdempotencyTest::Nginx->new(application => $app, workers => 1, modules => \@modules);
$nginx->set(http => join("\n", @upstreams), server => join "\n        ", 'idempotency main;', "$methods;",
    (map { my $p = $_; map { "location /$_-$p/ { " . pass_to($p, $_) . ' }' } qw(two half) } @protocols),
    # a location of its own, because on a busy machine other responses may take as long
    (map { "location /late-$_/ { ${_}_read_timeout 300ms; " . pass_to($_, 'two') . ' }' } @protocols),
    'location /streaming/ { idempotency_fingerprint $request_uri body=off; proxy_request_buffering off; ' . pass_to('proxy', 'two') . '}',
    'location @app { ' . pass_to('proxy', 'two') . '}',
    'location @puts { limit_except PUT { deny all; } ' . pass_to('proxy', 'two') . '}',
    $has_modules ? (
        'location /echo/ { echo_exec @app; }',
        'location /lua/ { content_by_lua_block { ngx.exec("@app") } }',
        'location /only-put/ { echo_exec @puts; }',
        'location /capture/ { content_by_lua_block { local r = ngx.location.capture("/two-proxy" .. ngx.var.request_uri, {method = ngx.HTTP_PUT}) ngx.status = r.status ngx.print(r.body) } }',
    ) : (),
    "location /socket/ { error_page 502 = \@app; proxy_pass http://unix:$refusing; }",
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
            my $path = ($name eq 'late' ? '/late' : '/two') . "-$protocol/f" . ++$n;
            my $answer = $nginx->request(method => $method, path => "$path?$query", key => $path, body => 'body', @who);
            my $what = "$name, $method, $protocol";
            is $answer->status, $status, "the first server's failure is the response ($what)" or diag $answer->head;
            is $app->count($path), 1, "no other server got the request ($what)";
        }
    }

    # a server that refuses the connection has not executed the request: the next server does, in any order
    for my $method (qw(POST PUT)) {
        for my $turn (1 .. 4) {
            my $path = "/half-$protocol/f" . ++$n;
            my $answer = $nginx->request(method => $method, path => $path, key => $path, body => 'body', @who);
            ok $answer->body =~ /#1 $method/ && !$answer->is_replay, "a refused connection goes to the next server ($protocol, $method, $turn)" or diag $answer->head;
            is $app->count($path), 1, "the next server executes the request once ($protocol, $method, $turn)";
            my $retry = $nginx->request(method => $method, path => $path, key => $path, body => 'body', @who);
            is_replay_of $retry, $answer, "and its response is kept ($protocol, $method, $turn)";
        }
    }
}

for my $where (qw(streaming unbuffered)) {
    for my $name (qw(closed reset nonsense)) {
        my ($query, $status) = @{$failure{$name}};
        my $path = "/$where/f" . ++$n;
        is $nginx->request(method => 'PUT', path => "$path?$query", key => $path, body => 'body', @who)->status, $status, "$name ($where)";
        is $app->count($path), 1, "no other server got the request ($name, $where)";
    }
}

# Content handlers that lead to another one, and subrequests
for my $where ('socket', $has_modules ? qw(echo lua capture only-put) : ()) {
    for my $name (qw(closed reset nonsense), 'status 500') {
        for my $method (qw(PUT DELETE)) {
            next if $where eq 'only-put' && $method ne 'PUT';
            my ($query, $status) = @{$failure{$name}};
            my $path = "/$where/f" . ++$n;
            my $counted = $where eq 'capture' ? "/two-proxy$path" : $path;
            is $nginx->request(method => $method, path => "$path?$query", key => $path, body => 'body', @who)->status, $status,
                "the first server's failure is the response ($where, $name, $method)";
            is $app->count($counted), 1, "no other server got the request ($where, $name, $method)";
        }
    }
}

# Requests that are not covered are tried again as without the module, also in a location with covered requests.
for my $protocol (@protocols) {
    for my $name (grep { $_ ne 'late' } sort keys %failure) {
        my ($query) = @{$failure{$name}};
        for my $method (qw(POST PUT GET)) {
            my $path = "/two-$protocol/u" . ++$n;
            my $answer = $nginx->request(method => $method, path => "$path?$query", body => 'body', @who);
            is $answer->body =~ /#(\d)/ && $1, 2, "without a key the next server gets it ($name, $method, $protocol)";
            is $app->count($path), 2, "two servers have executed the request ($name, $method, $protocol)";
        }
    }
}

$nginx->stop;
done_testing;
