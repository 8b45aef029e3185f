# A claimed request continues after its client has disconnected, and its response is kept.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Socket ();
use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Http2;
use IdempotencyTest::Leave qw(leave_locations);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Requests qw(@who await_outcome);

my $nginx = IdempotencyTest::Nginx->new(workers => 1, log_format => '$request_uri $status [$idempotency_status]');
my $h2 = $nginx->directory . '/h2.sock';
$nginx->set(server => leave_locations() . <<"END")->start;
        listen unix:$h2 http2;
        idempotency main;
        location /mirrored/unread/ { mirror /mirror; idempotency_fingerprint \$request_uri body=off; proxy_pass http://app; }
        location /mirrored/ { mirror /mirror; location /mirrored/small/ { mirror /mirror; idempotency_max_body 1k; proxy_pass http://app; } proxy_pass http://app; }
        location = /mirror { internal; proxy_pass http://app/mirror?gate=mirror-\$http_idempotency_key; }
        location /s/ { ssi on; ssi_types *; idempotency_max_body 20; proxy_buffering off; proxy_pass http://app; }
        location /i/ { proxy_pass http://app; }
        location /inside/ {
            error_page 418 = \@app;
            idempotency main;
            try_files /nothing \@app;
        }
        location /intercepted/ { proxy_intercept_errors on; error_page 404 = \@app; proxy_pass http://app; }
        location /unread/ {
            idempotency_fingerprint \$request_uri body=off;
            proxy_intercept_errors on;
            error_page 404 = \@app;
            proxy_pass http://app;
            location /unread/unbuffered/ { proxy_request_buffering off; proxy_pass http://app; }
        }
        location \@app { proxy_pass http://app; }
END

# The response to a retry when the first request is no longer in progress.
sub retry { return await_outcome($nginx, @_) }

my %leave = (
    'HTTP/1.1' => sub {
        my ($path, $key) = @_;
        my $client = $nginx->send_request(path => $path, key => $key, @who);
        return sub { $client->close };
    },
    'HTTP/1.1, its connection reset' => sub {
        my ($path, $key) = @_;
        my $client = $nginx->send_request(path => $path, key => $key, @who);
        return sub { setsockopt $client->{socket}, Socket::SOL_SOCKET(), Socket::SO_LINGER(), pack 'll', 1, 0; $client->close };
    },
    'HTTP/2, its stream reset' => sub {
        my ($path, $key) = @_;
        my $client = IdempotencyTest::Http2->connect($h2);
        my $stream = $client->send($path, 'x-api-key' => 'alice', 'idempotency-key' => $key);
        return sub { $client->reset($stream); return $client };
    },
    'HTTP/2, its connection closed' => sub {
        my ($path, $key) = @_;
        my $client = IdempotencyTest::Http2->connect($h2);
        $client->send($path, 'x-api-key' => 'alice', 'idempotency-key' => $key);
        return sub { $client->close };
    },
);

my $n = 0;

for my $protocol (sort keys %leave) {
    for my $where ('', 'unbuffered/', 'inside/') {
        for my $size (100, 200_000) {
            my $path = "/${where}leave" . ++$n;
            my $query = "kind=binary&size=$size&pieces=20&framing=chunked";
            my $what = "$protocol, " . ($where || 'buffered/') . ", $size bytes";
            my $leave = $leave{$protocol}->("$path?$query&gate=$n&pause=0.01", $n);
            app()->await_arrival($path);
            my $kept_open = $leave->();
            # nginx sees that the client has disconnected before the response begins
            ok await(sub { $nginx->request(path => '/plain/seen', method => 'GET')->status == 201 }), "nginx still runs ($what)";
            app()->open_gate($n);
            app()->await_answer($path);

            my $retry = retry("$path?$query&gate=$n&pause=0.01", $n);
            ok $retry->is_replay, "a retry after its client has left is a replay ($what)" or diag $retry->head;
            is length $retry->body, $size, "and complete ($what)";
            is app()->count($path), 1, "and the application executed the request once ($what)";
        }
    }
}

# The mirror subrequest ends after the client has disconnected, during a response that is held or passed through.
my $mirrored = 0;

for my $protocol (sort keys %leave) {
    for my $where ('', 'small/', 'unread/') {
        my $path = "/mirrored/${where}leave" . ++$n;
        my $uri = "$path?kind=binary&size=200000&framing=chunked&pieces=2&middle=$n";
        my $what = "$protocol, " . ($where eq 'small/' ? 'passed through' : $where ? 'held, body=off' : 'held');
        my $leave = $leave{$protocol}->($uri, $n);
        app()->await_arrival($path);
        app()->await_arrival('/mirror', ++$mirrored);
        $nginx->request(path => '/plain/seen', method => 'GET');
        my $kept_open = $leave->();
        $nginx->request(path => '/plain/seen', method => 'GET');
        app()->open_gate("mirror-$n");
        app()->await_answer('/mirror', $mirrored);
        $nginx->request(path => '/plain/seen', method => 'GET');
        app()->open_gate($n);
        ok $nginx->await_access_log(qr{^\Q$uri\E 201 \[NEW\]}), "an exchange continues after its mirror subrequest has ended ($what)";

        my $retry = retry($uri, $n);
        $where eq 'small/' ? is_problem $retry, 409, 'response_not_kept', "its retry gets response_not_kept ($what)"
            : ok $retry->is_replay && length $retry->body == 200_000, "its retry is replayed ($what)" || diag $retry->head;
        is app()->count($path), 1, "and the application executed the request once ($what)";
    }
}

# An include of a response that is passed through is running when the client disconnects.
for my $protocol (sort keys %leave) {
    my ($path, $included) = ('/s/' . ++$n, "/i/$n");
    my $uri = "$path?text=<!--%23include%20virtual=\"$included?gate=i$n\"%20-->" . '.' x 47 . "&pieces=2&middle=$n";
    my $leave = $leave{$protocol}->($uri, $n);
    app()->await_arrival($included);
    my $kept_open = $leave->();
    $nginx->request(path => '/plain/seen', method => 'GET');
    app()->open_gate("i$n");
    app()->await_answer($included);
    $nginx->request(path => '/plain/seen', method => 'GET');
    app()->open_gate($n);
    ok $nginx->await_access_log(qr{^\Q$path\E\?\S* 201 \[NEW\]}), "an exchange whose response is not kept ends after the includes of its response ($protocol)";
    is_problem retry($uri, $n), 409, 'response_not_kept', "its retry gets response_not_kept ($protocol)";
    is app()->count($path), 1, "and the application executed the request once ($protocol)";
}

# An error page is requested after the client has disconnected.
for my $protocol (sort keys %leave) {
    my $path = '/intercepted/' . ++$n;
    my $leave = $leave{$protocol}->("$path?status=404,201&gate=$n", $n);
    app()->await_arrival($path);
    my $kept_open = $leave->();
    ok await(sub { $nginx->request(path => '/plain/seen', method => 'GET')->status == 201 }), "nginx still runs ($protocol, error page)";
    app()->open_gate($n);
    app()->await_answer($path, 2);

    my $retry = retry("$path?status=404,201&gate=$n", $n);
    ok $retry->is_replay && $retry->status == 201, "what an error page came to is replayed ($protocol)" or diag $retry->head;
    is app()->count($path), 2, "and nothing was executed again ($protocol)";
}

# The same, if nginx has read the body after the key was claimed.
for my $where ('', 'unbuffered/') {
    my $path = "/unread/$where" . ++$n;
    my $uri = "$path?status=404,201&gate=$n";
    my $client = IdempotencyTest::Http2->connect($h2);
    my $stream = $client->begin($uri, 'x-api-key' => 'alice', 'idempotency-key' => $n);
    $client->send_data($stream, 'the ');
    $client->await_read;
    $client->send_data($stream, 'body', 1);
    app()->await_arrival($path);
    $client->await_read;
    $client->reset($stream);
    $client->await_read;
    app()->open_gate($n);
    app()->await_answer($path, 2);

    my $retry = await_outcome($nginx, $uri, $n, @who, body => 'the body');
    ok $retry->is_replay && $retry->status == 201, "what an error page came to is replayed (body=off, $where)" or diag $retry->head;
    is app()->count($path), 2, "and nothing was executed again (body=off, $where)";
}

# During the delivery of a response that is too large to be kept.
for my $where ('small', 'small-unbuffered') {
    my $path = "/$where/passing";
    my $query = 'kind=binary&size=2000000&pieces=40&pause=0.02&framing=chunked';
    my $client = $nginx->send_request(path => "$path?$query", key => $where, @who);
    await(sub { $client->is_silent_for(0) ? 0 : $client->read_some });
    $client->close;
    my $retry = retry("$path?$query", $where);
    is_problem $retry, 409, 'response_not_kept', "a large response whose client disconnects is recorded as not kept ($where)";
    is app()->count($path), 1, "and the application executed the request once ($where)";
}

# Before the request is complete nothing is claimed with body=on (t/uploads.t). With body=off there is a claim, but an incomplete body is not a
# request: the connection to the application is closed, and the key is free.
{
    my $client = $nginx->connect->send_raw(join('', map { "$_\r\n" } 'POST /streaming/half HTTP/1.1', 'Host: localhost', 'X-API-Key: alice',
        'Idempotency-Key: half', 'Content-Length: 10', '') . 'half ', 'POST');
    app()->await_arrival('/streaming/half');
    $client->close;
    ok $nginx->await_access_log(qr{^/streaming/half }), 'a client that disconnects during a streamed body ends its exchange';
    is_first retry('/streaming/half', 'half', body => 'half whole'), 201, 1, 'and its retry runs: the application had no complete request before';
}

# Retriable and broken responses after the client has disconnected.
{
    my $client = $nginx->send_request(path => '/busy?status=503,201&gate=busy', key => 'busy', @who);
    app()->await_arrival('/busy');
    $client->close;
    app()->open_gate('busy');
    app()->await_answer('/busy');
    is_first retry('/busy?status=503,201&gate=busy', 'busy'), 201, 2, 'a retriable response whose client has disconnected frees the key';
}

for my $abort (qw(before mid)) {
    my $path = "/abort-$abort";
    my $client = $nginx->send_request(path => "$path?abort=$abort&gate=$abort&size=1000", key => "abort-$abort", @who);
    app()->await_arrival($path);
    $client->close;
    app()->open_gate($abort);
    app()->await_answer($path);
    is_problem retry("$path?abort=$abort&gate=$abort&size=1000", "abort-$abort"), 409, 'outcome_unknown',
        "an exchange that breaks ($abort) when its client has left has an unknown outcome";
}

# A connection of HTTP/2 with several streams: one stream is reset before the connection is closed.
{
    my $client = IdempotencyTest::Http2->connect($h2);
    my @streams = map { $client->send("/stream$_?gate=streams", 'x-api-key' => 'alice', 'idempotency-key' => "stream$_") } 1 .. 5;
    app()->await_arrival("/stream$_") for 1 .. 5;
    $client->reset($streams[0]);
    $client->close;
    app()->open_gate('streams');
    app()->await_answer("/stream$_") for 1 .. 5;
    ok retry("/stream$_?gate=streams", "stream$_")->is_replay, "the response of stream $_ is kept though its connection is closed" for 1 .. 5;
    is app()->count("/stream$_"), 1, "and ran once ($_)" for 1 .. 5;
}

# HTTP/2 from end to end, by curl.
{
    my $out = $nginx->directory . '/h2';
    for my $retry (0, 1) {
        is system('curl', '-sS', '--http2-prior-knowledge', '--unix-socket', $h2, '-X', 'POST', '-H', 'X-API-Key: alice', '-H', 'Idempotency-Key: h2',
            '-D', "$out-head$retry", '-o', "$out-body$retry", 'http://localhost/h2?kind=binary&size=300000&header=X-A:1&header=X-A:2'), 0,
            'a request of HTTP/2 is answered';
    }
    my @heads = map { join "\n", grep { !/^(?:date|idempotent-replayed):/i } split /\r\n/, slurp("$out-head$_") } 0, 1;
    like $heads[0], qr{^HTTP/2 201}, 'the response comes over HTTP/2';
    is $heads[1], $heads[0], 'the head of its replay is the same';
    like slurp("$out-head1"), qr/^idempotent-replayed: true/mi, 'and the replay is marked';
    ok slurp("$out-body0") eq slurp("$out-body1"), 'its body is the same';
    is -s "$out-body1", 300_000, 'the body is complete';
}

$nginx->stop;
done_testing;
