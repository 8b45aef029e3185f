# What is kept of a response: responses of every kind, and their replays byte for byte.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::App;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await dead_port);
use Time::HiRes qw(time);

my $dead = dead_port();
my $nginx = IdempotencyTest::Nginx->start(
    log_format => '[$idempotency_status] [$idempotency_key_id] [$idempotency_store_time] [$idempotency_age]',
    server => <<"END");
        idempotency main;
        location / { proxy_pass http://app; }
        location /plain/ { idempotency off; proxy_pass http://app/; }
        location /unbuffered/ { proxy_buffering off; proxy_pass http://app; }
        location /hide/ { idempotency_hide_header X-Secret set-cookie; proxy_pass http://app; }
        location /renamed/ { idempotency_replayed_header X-From-Store; proxy_pass http://app; }
        location /unmarked/ { idempotency_replayed_header off; proxy_pass http://app; }
        location /brief/ { idempotency_ttl 1s; proxy_pass http://app; }
        location /small/ { idempotency_max_body 1k; proxy_pass http://app; }
        location /small-unbuffered/ { idempotency_max_body 1k; proxy_buffering off; proxy_pass http://app; }
        location /retriable/ { idempotency_retriable 404 5xx; proxy_pass http://app; }
        location /none/ { idempotency_retriable none; proxy_pass http://app; }
        location /ranges/ { proxy_force_ranges on; proxy_pass http://app; }
        location /gzip/ { gzip on; gzip_types *; gzip_min_length 1; gzip_http_version 1.0; proxy_pass http://app; }
        location /dead/ { proxy_pass http://127.0.0.1:\$http_x_port; }
        location /hold/ { idempotency_unknown hold 1s; proxy_pass http://app; }
END

my $keys = 0;

sub ask {
    my ($path, %request) = @_;
    $request{key} //= 'key-' . ++$keys;
    $request{headers} = ['X-API-Key: alice', @{$request{headers} || []}];
    return $nginx->request(path => $path, %request);
}

# A request and its retry.
sub pair {
    my ($path, %request) = @_;
    my $key = 'key-' . ++$keys;
    my ($first, $retry) = ask($path, key => $key, %request);
    # a response that is passed through may be complete before its outcome is recorded in the store
    await(sub { $retry = ask($path, key => $key, %request); $retry->code ne 'request_in_progress' });
    return $first, $retry;
}

sub count { return app()->count($_[0]) }

# Responses of every kind, with and without buffering.

my @kinds = (
    ['with a length', '', 201],
    ['in chunks', 'framing=chunked', 201],
    ['in chunks, each on its own', 'framing=chunked&pieces=5&pause=0.02', 201],
    ['that ends with its connection', 'framing=close', 201],
    ['without a body', 'size=0', 201],
    ['204', 'status=204&kind=none', 204],
    ['304', 'status=304&kind=none', 304],
    ['of every byte', 'kind=binary', 201],
    ['of 300 kB with a length', 'kind=binary&size=300000', 201],
    ['of 300 kB in chunks', 'kind=binary&size=300000&framing=chunked&pieces=40', 201],
    ['of 300 kB that ends with its connection', 'kind=binary&size=300000&framing=close', 201],
    ['of exactly 1 MB, the limit', 'kind=binary&size=1048576', 201],
    ['200', 'status=200', 200],
    ['301 with a location', 'status=301&header=Location:http://elsewhere.example/', 301],
    ['with a location of its own path', 'status=201&header=Location:/orders/1', 201],
    ['404', 'status=404', 404],
    ['409', 'status=409', 409],
    ['500', 'status=500', 500],
    ['502', 'status=502', 502],
    ['of a status that nobody knows', 'status=299', 299],
    ['with a reason of its own', 'status=201&reason=Made%20It', 201],
    ['with an empty field', 'header=X-Empty:', 201],
    ['with a long field', 'header=X-Long:' . 'v' x 3000, 201],
    ['with a content type of its own', 'header=Content-Type:application/json%3B%20charset=utf-8', 201],
    ['with validators', 'status=200&header=ETag:"abc"&header=Last-Modified:Tue,%2015%20Nov%201994%2012:45:26%20GMT', 200],
    ['with fields for caches', 'header=Cache-Control:no-store&header=Expires:0&header=Vary:Accept&header=Age:7&header=Pragma:no-cache', 201],
    ['with fields that nginx knows', 'header=Content-Language:de&header=WWW-Authenticate:Basic&header=Accept-Ranges:none'
        . '&header=Content-Disposition:inline&header=Allow:GET&header=Retry-After:3&header=Link:%3C/a%3E&header=Link:%3C/b%3E', 201],
    ['that is encoded', 'header=Content-Encoding:br', 201],
    ['with fields in order and again', join('&', map { "header=$_" } qw(X-B:1 Set-Cookie:a=1 X-A:2 X-B:3 Set-Cookie:b=2 x-a:4)), 201],
);

for my $way ('', 'unbuffered/') {
    for my $kind (@kinds) {
        my ($name, $query, $status) = @$kind;
        my $how = $way ? ', unbuffered' : '';
        my $path = "/${way}kind" . ++$keys;
        my ($first, $retry) = pair("$path?$query");

        is $first->status, $status, "a response $name$how is delivered";
        is_replay_of $retry, $first, "a response $name$how is replayed byte for byte";
        is count($path), 1, "the application executed the request once for a response $name$how";
    }
}

# Compared with the response without the module.

for my $query ('header=X-B:1&header=X-A:2&header=X-B:3&header=Set-Cookie:a&header=Set-Cookie:b&header=ETag:"e"', 'framing=chunked', 'framing=close', 'status=204&kind=none') {
    my ($first, $retry) = pair("/compared?$query");
    my $plain = ask("/plain/compared?$query");
    my @heads = map { my $fields = $_->lasting; $fields =~ s/\n\n.*//s; $fields } $plain, $first, $retry;

    is $heads[1], $heads[0], "the first response has the head that it has without the module ($query)";
    is $heads[2], $heads[0], "the replay has the head that the response has without the module ($query)";
}

{
    my ($first, $retry) = pair('/hop?header=Keep-Alive:timeout=99&header=Proxy-Connection:close&header=Upgrade:h2c&header=TE:x&header=X-Kept:1');
    is $first->header('X-Kept'), 1, 'a response with hop-by-hop fields is delivered';
    is $retry->header('X-Kept'), 1, 'it is replayed';
    ok !(grep { /timeout=99/ } $retry->headers('Keep-Alive')), 'Keep-Alive is not kept';
    is scalar(grep { defined $retry->header($_) } qw(Proxy-Connection Upgrade TE)), 0, 'other hop-by-hop fields are not kept';
}

{
    my ($first, $retry) = pair('/date');
    is scalar($retry->headers('Date')), 1, 'a replay has one Date';
    is scalar($retry->headers('Server')), 1, 'a replay has one Server';
    is $retry->header('Server'), $first->header('Server'), 'the Server is that of nginx';
}

# Fields that are configured not to be kept.

{
    my ($first, $retry) = pair('/hide/a?header=X-Secret:s&header=X-Open:o&header=Set-Cookie:c=1&header=Set-Cookie:c=2&header=x-secret:t');
    is join(',', $first->headers('X-Secret'), $first->headers('Set-Cookie')), 's,t,c=1,c=2', 'a hidden header is delivered once';
    is join(',', $retry->headers('X-Secret'), $retry->headers('Set-Cookie')), '', 'a hidden header is not kept';
    is $retry->header('X-Open'), 'o', 'the other headers are kept';
}

{
    my ($first, $retry) = pair('/renamed/a');
    is $first->header('X-From-Store'), undef, 'the first response has no mark';
    is $retry->header('X-From-Store'), 'true', 'the mark of a replay has the name that it was given';
    is $retry->header('Idempotent-Replayed'), undef, 'and no other field has it';

    ($first, $retry) = pair('/unmarked/a');
    is $retry->body, $first->body, 'a replay without a mark is a replay';
    is $retry->header('Idempotent-Replayed'), undef, 'a replay has no mark where it is off';
}

# How long a response is kept.

{
    my $start = time;
    my $key = 'brief';
    my $first = ask('/brief/a', key => $key);
    is_replay_of ask('/brief/a', key => $key), $first, 'before it expires a result is replayed';

    my $next;
    await(sub { $next = ask('/brief/a', key => $key); !$next->is_replay });
    is_first $next, 201, 2, 'after it has expired a result is forgotten and the request runs';
    cmp_ok time() - $start, '>=', 0.9, 'a result is kept until it expires';
    is_replay_of ask('/brief/a', key => $key), $next, 'and the response of this execution is kept';
}

# How large a kept response may be.

for my $way ('small', 'small-unbuffered') {
    my ($first, $retry) = pair("/$way/fits?size=1024");
    is_replay_of $retry, $first, "a response as large as the limit is kept ($way)";

    for my $framing (qw(length chunked close)) {
        for my $size (1025, 200_000) {
            my $path = "/$way/$framing$size";
            ($first, $retry) = pair("$path?kind=binary&size=$size&framing=$framing&pieces=3");
            is length $first->body, $size, "a response over the limit is delivered completely ($way, $framing, $size)";
            is_problem $retry, 409, 'response_not_kept', "its retry gets response_not_kept ($way, $framing, $size)";
            is $retry->header('Retry-After'), undef, "without Retry-After ($way, $framing, $size)";
            is count($path), 1, "the application executed the request once ($way, $framing, $size)";
        }
    }
}
ok $nginx->await_access_log(qr/^\[NOT_KEPT\]/), '$idempotency_status of such a retry is NOT_KEPT';

{
    my ($first, $retry) = pair('/over?kind=binary&size=1048577');
    is length $first->body, 1048577, 'a response over 1 MB is delivered completely';
    is_problem $retry, 409, 'response_not_kept', 'and not kept unless the limit is higher';
}

# Responses that mean that the request was not executed.

for my $status (401, 403, 408, 425, 429, 503) {
    my ($first, $retry) = pair("/retriable-$status?status=$status,201");
    is_first $first, $status, 1, "$status is delivered";
    is_first $retry, 201, 2, "$status is not kept: a retry runs";
}

for my $status (404, 500, 503, 599) {
    my ($first, $retry) = pair("/retriable/$status?status=$status,201");
    is_first $retry, 201, 2, "$status is not kept where it is named retriable";
}

{
    my ($first, $retry) = pair('/retriable/429?status=429,201');
    is_replay_of $retry, $first, 'a list of retriable codes replaces the default';

    ($first, $retry) = pair('/none/503?status=503,201');
    is_replay_of $retry, $first, 'with `none` every response is kept';
}

# The variables in the access log.

ok $nginx->await_access_log(qr/^\[NEW\] \[[0-9a-f]{64}\] \[\d+\.\d{6}\] \[-?\]$/), 'the access log can have the variables of a first request';
ok $nginx->await_access_log(qr/^\[REPLAYED\] \[[0-9a-f]{64}\] \[\d+\.\d{6}\] \[\d+\]$/), 'and those of a replay';

# Ranges, and what nginx does downstream.

{
    my ($first, $retry) = map { ask('/ranges/a?status=200&size=100', key => 'ranges', headers => $_) } ['Range: bytes=0-3'], [];
    is $retry->status, 200, 'the replay of a kept response is not partial because of a Range';
    is length $retry->body, 100, 'and it is not cut';
}

{
    my ($first, $retry, $plain) = map { ask('/gzip/a?status=200&size=5000', key => 'gzip', headers => $_) }
        ['Accept-Encoding: gzip'], ['Accept-Encoding: gzip'], [];
    is $first->header('Content-Encoding'), 'gzip', 'a response is compressed';
    is $retry->header('Content-Encoding'), 'gzip', 'a replay is compressed again';
    is $plain->header('Content-Encoding'), undef, 'and is not compressed for a client that does not accept it';
    is length $plain->body, 5000, 'this replay is complete';
}

# Connections.

{
    my $client = $nginx->connect;
    my @answers = map { $client->send(path => '/alive', key => 'alive', headers => ['X-API-Key: alice'])->response } 1 .. 4;
    is_first $answers[0], 201, 1, 'the first request of a connection runs';
    is_replay_of $answers[$_], $answers[0], "request $_ after it on the connection is a replay" for 1 .. 3;
}

{
    my $client = $nginx->connect;
    my $request = join '', map { "$_\r\n" } 'POST /piped?framing=chunked HTTP/1.1', 'Host: localhost', 'X-API-Key: alice', 'Idempotency-Key: piped',
        'Content-Length: 4', '';
    $client->send_raw("${request}body" x 5, ('POST') x 5);
    my @answers = map { $client->response } 1 .. 5;
    is_first $answers[0], 201, 1, 'the first of five pipelined requests runs';
    is scalar(grep { $_->is_replay && $_->body eq $answers[0]->body } @answers), 4, 'and the other four get replays of its response';
}

{
    my ($first, $retry) = pair('/old?framing=chunked', version => 'HTTP/1.0');
    is $first->status, 201, 'a client with HTTP/1.0 gets a response';
    is_replay_of $retry, $first, 'and its replay';
}

# Broken exchanges.

{
    my ($first, $retry) = (ask('/dead/a', key => 'dead', headers => ["X-Port: $dead"]),
        ask('/dead/a', key => 'dead', headers => ['X-Port: ' . app()->port]));
    is $first->status, 502, 'an application that cannot be reached gives a 502';
    is_first $retry, 201, 1, 'and its key is free: a retry runs';
}

for my $abort (qw(before mid)) {
    my ($first, $retry) = pair("/abort-$abort?abort=$abort&size=1000");
    is $first->status, 502, "a response that breaks off ($abort) gives a 502";
    unlike $first->body, qr/^#1/, "nothing of it is delivered ($abort)";
    is_problem $retry, 409, 'outcome_unknown', "its retry gets outcome_unknown ($abort)";
    is $retry->header('Retry-After'), undef, "without Retry-After ($abort)";
    is count("/abort-$abort"), 1, "and does not run ($abort)";
}
ok $nginx->await_access_log(qr/^\[UNKNOWN\]/), '$idempotency_status of such a retry is UNKNOWN';

{
    my $key = 'hold';
    my $path = '/hold/a?abort=before,no';
    is ask($path, key => $key)->status, 502, 'a missing response gives a 502';
    my $next = ask($path, key => $key);
    is_problem $next, 409, 'outcome_unknown', 'with `hold TIME` its retry gets outcome_unknown';
    is $next->header('Retry-After'), 1, 'with the time left as Retry-After';
    await(sub { $next = ask($path, key => $key); $next->status != 409 });
    is_first $next, 201, 2, 'after the hold the key is free again';
}

$nginx->stop;
done_testing;
