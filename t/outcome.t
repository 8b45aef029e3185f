# $idempotency_outcome in the access log: how each claim was settled.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Client qw(finish);
use IdempotencyTest::Environment qw(app redis store_mode);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Relay;
use IdempotencyTest::Requests qw(@who ask begin);

my $is_redis = store_mode() eq 'redis';
my $relay = $is_redis ? IdempotencyTest::Relay->new(to => redis()->socket) : undef;

my $nginx = IdempotencyTest::Nginx->start(
    workers => 1,
    $is_redis ? (redis => $relay->url, store => 'timeout 700ms; connect_timeout 300ms;') : (),
    log_format => '$request_uri $status [$idempotency_status] [$idempotency_outcome]',
    http => 'idempotency_store tiny { memory 256k; } upstream nobody { server 127.0.0.1:1; }',
    server => <<'END');
        idempotency main;
        location / { idempotency_max_body 1000; proxy_pass http://app; }
        location /header/ { idempotency_max_body 1000; add_header X-Outcome "[$idempotency_outcome]" always; proxy_pass http://app; }
        location /sent/ { proxy_set_header X-Sent "$idempotency_status $idempotency_outcome $idempotency_store_time"; proxy_pass http://app; }
        location /unbuffered/ { idempotency_max_body 1000; proxy_buffering off; proxy_pass http://app; }
        location /free/ { idempotency_unknown release; proxy_pass http://app; }
        location /stored/ { idempotency_unknown store; proxy_pass http://app; }
        location /tiny/ { idempotency tiny; proxy_pass http://app; }
        location /nobody/ { proxy_pass http://nobody; }
        location /upload/ {
            idempotency_fingerprint x body=off;
            client_max_body_size 10;
            proxy_request_buffering off;
            proxy_pass http://app;
        }
        location /page/ { error_page 502 503 = /apology; proxy_pass http://app; }
        location = /apology { return 200 sorry; }
        location /named/ { error_page 502 503 = @named; proxy_pass http://app; }
        location @named { return 200 sorry; }
        location /off/ { idempotency off; proxy_pass http://app; }
        location /bypass/ { idempotency_bypass 1; proxy_pass http://app; }
END

my $n = 0;

# What is logged for a request: status of the response, $idempotency_status and $idempotency_outcome.
sub logs {
    my ($path, $expected, $name, %request) = @_;
    my ($unique) = $path =~ s/%/++$n/er;
    ask($nginx, $unique, "key-$n", %request);
    is_logged($unique, $expected, $name);
}

sub is_logged {
    my ($path, $expected, $name) = @_;
    my $line = $nginx->await_access_log(qr/^\Q$path\E /) // '';
    my $logged = $line =~ s/^\S+ //r;
    ref $expected ? like $logged, $expected, $name : is $logged, $expected, $name;
}

my $stream = 'header=Content-Type:text/event-stream&framing=chunked';

logs '/%', '201 [NEW] [kept]', 'a response that is kept';
logs '/%?framing=chunked', '201 [NEW] [kept]', 'a chunked one';
logs '/%?kind=none&status=204', '204 [NEW] [kept]', 'one without a body';
logs '/%?size=2000', '201 [NEW] [not_kept_size]', 'one whose length is above idempotency_max_body';
logs '/%?size=2000&framing=chunked', '201 [NEW] [not_kept_size]', 'one that turns out to be too large';
logs "/unbuffered/%?size=2000&framing=$_", '201 [NEW] [not_kept_size]', "one that is not buffered, with framing $_" for qw(length chunked close);
logs '/tiny/%?size=500000', '201 [NEW] [not_kept_store]', 'one for which the store has no memory';
logs "/%?$stream", '201 [NEW] [kept]', 'a stream that is kept';
logs "/%?$stream&size=2000", '201 [NEW] [not_kept_size]', 'a stream that is too large';
logs "/%?$stream&pieces=2&abort=mid", $is_redis ? qr/^201 \[NEW\] \[(?:not_kept_stream|untold)\]$/ : '201 [NEW] [not_kept_stream]', 'a stream that breaks off';
logs '/%?header=X-Accel-Idempotency:no-store', '201 [NEW] [not_kept_word]', 'no-store';
logs "/%?header=X-Accel-Idempotency:no-store&framing=$_", '201 [NEW] [not_kept_word]', "no-store, with framing $_" for qw(chunked close);
logs '/%?header=X-Accel-Idempotency:release', '201 [NEW] [released]', 'release';
logs '/%?header=X-Accel-Idempotency:release&framing=chunked', '201 [NEW] [released]', 'release, chunked';
logs '/%?header=X-Accel-Idempotency:release&size=2000&framing=chunked', '201 [NEW] [released]', 'release, too large';
logs '/%?status=503', '503 [NEW] [released]', 'a retriable status';
logs '/page/%?status=503', '503 [NEW] [released]', 'a retriable status that nginx does not intercept';
logs '/nobody/%', '502 [NEW] [released]', 'an application that is not reached';
logs "/%?abort=$_", '502 [UNKNOWN] [unknown]', "an exchange that breaks: abort=$_" for qw(before reset garbage mid);
logs '/%?abort=chunk&framing=chunked', '502 [UNKNOWN] [unknown]', 'a chunked body that breaks';
logs '/page/%?abort=reset', '200 [UNKNOWN] [unknown]', 'an exchange that breaks, with an error_page that leads to a URI';
logs '/named/%?abort=reset', '200 [UNKNOWN] [unknown]', 'and to a named location';
logs '/free/%?abort=reset', '502 [UNKNOWN] [released]', 'idempotency_unknown release';
logs '/stored/%?abort=reset', '502 [UNKNOWN] [kept]', 'idempotency_unknown store';
logs '/stored/%?abort=mid', '502 [UNKNOWN] [unknown]', 'a response of which a part is there is not stored';
logs '/%', '201 [NEW] [kept]', 'HTTP/1.0', version => 'HTTP/1.0';
logs '/upload/%', '413 [-] [released]', 'a body that nginx refuses', chunks => ['x' x 100];
logs '/sent/%', '201 [NEW] [kept]', 'a variable that was evaluated before the outcome was known';
logs '/sent/%?abort=reset', '502 [UNKNOWN] [unknown]', 'and a broken exchange';
logs '/off/%', '201 [-] [-]', 'a location that is not covered';
logs '/bypass/%', '201 [BYPASS] [-]', 'a bypass';
logs '/%', '201 [-] [-]', 'another method', method => 'GET';
logs '/%', '400 [INVALID] [-]', 'an invalid key', headers => [@{$who[1]}, 'Idempotency-Key: second'];

ask($nginx, '/replay', 'replay') for 1 .. 2;
ask($nginx, '/other', 'replay');
my @lines = map { s/^\S+ //r } await(sub { my @l = grep { m{^/(?:replay|other) } } $nginx->access_log; @l == 3 and \@l })->@*;
is_deeply \@lines, ['201 [NEW] [kept]', '201 [REPLAYED] [-]', '422 [REUSED] [-]'], 'a replay and a reused key have no claim';

subtest 'In a response header' => sub {
    my $running = begin($nginx, '/header/a', 'header');
    is ask($nginx, '/header/a?gate=header', 'header')->header('X-Outcome'), '[]', 'empty for a duplicate';
    app()->open_gate('header');
    is $running->response->header('X-Outcome'), '[kept]', 'the outcome of a response that was held';
    like ask($nginx, '/header/b?size=2000', 'passed')->header('X-Outcome'), $is_redis ? qr/^\[(?:untold|not_kept_size)\]$/ : qr/^\[not_kept_size\]$/,
        'where the header is sent first, the outcome may not be recorded yet';
};

subtest 'A client that disconnects' => sub {
    my $running = begin($nginx, '/gone', 'gone');
    $running->close;
    app()->open_gate('gone');
    is_logged '/gone?gate=gone', '201 [NEW] [kept]', 'before the response: it is kept';

    my $client = $nginx->connect->send_raw(join("\r\n", 'POST /upload/gone?part=3&gate=upload HTTP/1.1', 'Host: localhost', @{$who[1]},
        'Idempotency-Key: upload', 'Content-Length: 9', '', 'abc'), 'POST');
    app()->await_arrival('/upload/gone');
    $client->close;
    my $line = $nginx->await_access_log(qr{^/upload/gone}) // '';
    like $line, $is_redis ? qr/ \[NEW\] \[(?:released|untold)\]$/ : qr/ \[NEW\] \[released\]$/, 'before its request is complete: it is released';
};

if ($is_redis) {
    subtest 'A store that is unavailable at the end' => sub {
        my @path = ('/held', '/passed');
        my %query = ('/held' => '', '/passed' => '&size=2000&framing=chunked');
        my @running = map { my $path = $_; $nginx->send_request(path => "$path?gate=down$query{$path}", key => "down$path", @who) } @path;
        app()->await_arrival($_) for @path;
        $relay->do('hold');
        app()->open_gate('down');
        is $_->status, 201, 'the response is delivered' for finish(@running);
        is_logged "$_?gate=down$query{$_}", '201 [STORE_ERROR] [untold]', "the outcome is not recorded: $_" for @path;
        $relay->do('pass');
        ok await(sub { ask($nginx, '/held?gate=down', 'down/held')->is_replay }), 'later it is';
    };
}

$nginx->stop(seconds => 20);
done_testing;
