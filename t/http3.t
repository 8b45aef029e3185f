# HTTP/3: requests and retries, and clients that disconnect in every way of QUIC. On Debian 12 with an nginx of
# its own, which is newer and has sanitizers (tools/nginx-h3).

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

# before any module that needs to know which nginx is tested
use IdempotencyTest::Http3;

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Leave qw(leave_locations);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Requests qw(@who await_outcome);

my $nginx = IdempotencyTest::Nginx->new(workers => 1, memory => '64m', http => 'idempotency_max_unsent 4m;', log_format => '$server_protocol $request_uri $status [$idempotency_status]');
my $listener = IdempotencyTest::Http3->listener($nginx);
my $locations = <<'END';
        idempotency main;
        # this is the idle timeout of QUIC too
        keepalive_timeout 5s;
        location /inside/ {
            error_page 418 = @app;
            try_files /nothing @app;
        }
        location @app { proxy_pass http://app; }
        location /once-more/ { proxy_intercept_errors on; error_page 404 = @app; proxy_pass http://app; }
        location /error/ { proxy_intercept_errors on; error_page 404 /page; proxy_pass http://app; }
        location = /page { internal; return 404 "a page\n"; }
END
$nginx->set(server => $listener . leave_locations() . $locations)->start;

# nginx remembers a connection that was closed for three times as long as it would wait for an acknowledgement
# (RFC 9000, 10.2). On a busy machine these are many seconds, in which a worker does not end.
my $draining = 300;

sub client { return IdempotencyTest::Http3->connect($nginx, @_) }

# The response to a retry over HTTP/1.1 when the first request is no longer in progress.
sub retry { return await_outcome($nginx, @_) }

# The request has ended, and its exchange with it.
sub await_end { my ($path) = @_; return $nginx->await_access_log(qr{^HTTP/3\.0 \Q$path\E\?}) }

# nginx has handled all that was sent before.
sub nginx_goes_on {
    my ($what) = @_;
    return ok $nginx->request(path => '/plain/seen', method => 'GET')->status == 201, "nginx still runs ($what)";
}

# Requests and retries.
{
    my $client = client();
    my %request = (path => '/main?kind=binary&size=300000&header=X-A:1&header=X-A:2', key => 'main', body => 'some body', @who);
    my $first = $client->request(%request);
    is_first $first, 201, 1, 'a request over HTTP/3 gets a response';
    is length $first->body, 300_000, 'the response is complete';
    is_replay_of $client->request(%request), $first, 'its retry on the same connection is a replay';
    is_replay_of client()->request(%request), $first, 'a retry on another connection is a replay too';
    my $http1 = $nginx->request(%request);
    ok $http1->is_replay && $http1->body eq $first->body, 'so is a retry over HTTP/1.1';
    is_problem client()->request(%request, body => 'another body'), 422, 'idempotency_key_reused', 'another body is refused';
    is app()->count('/main'), 1, 'and the application executed the request once';

    my $begun = $nginx->request(path => '/to-http3', key => 'to-http3', @who);
    # on a busy machine the first connection has been idle for too long by now
    $client = client();
    my $replay = $client->request(path => '/to-http3', key => 'to-http3', @who);
    ok $replay->is_replay && $replay->body eq $begun->body, 'a retry over HTTP/3 gets the response of a request over HTTP/1.1';

    my $stream = $client->send(path => '/conflict?gate=conflict', key => 'conflict', @who);
    app()->await_arrival('/conflict');
    is_problem $client->request(path => '/conflict?gate=conflict', key => 'conflict', @who), 409, 'request_in_progress',
        'a duplicate on the same connection is told that the first one runs';
    app()->open_gate('conflict');
    is_first $client->response($stream), 201, 1, 'the held request gets its response';
    like $nginx->await_access_log(qr{/main.*REPLAYED}), qr{^HTTP/3\.0 }, 'it was HTTP/3';
}

my %leave = (
    'STOP_SENDING' => 'stop',
    'RESET_STREAM' => 'reset',
    'both' => 'stop_and_reset',
    'CONNECTION_CLOSE' => 'close',
    'STOP_SENDING and CONNECTION_CLOSE' => 'stop_and_close',
    'silence' => 'vanish',
);

my $n = 0;

# Before the response.
for my $way (sort keys %leave) {
    my $leave = $leave{$way};

    for my $where ('', 'unbuffered/', 'inside/', 'once-more/', 'error/') {
        next if $way eq 'silence' && $where !~ m{^(?:unbuffered/)?$};

        my $size = $n % 2 ? 100 : 200_000;
        my $path = "/${where}leave" . ++$n;
        my $status = $where eq 'once-more/' ? '404,201' : $where eq 'error/' ? '404' : '201';
        my $uri = "$path?kind=binary&size=$size&pieces=20&framing=chunked&gate=$n&status=$status";
        my $what = "$way, " . ($where || 'buffered/') . ", $size bytes";
        my $client = client();
        my $stream = $client->send(path => $uri, key => $n, @who);
        app()->await_arrival($path);
        $client->$leave($stream);

        # nginx closes a connection after two seconds
        select undef, undef, undef, 2.5 if $way eq 'silence';

        nginx_goes_on($what);
        app()->open_gate($n);
        my $acted = $where eq 'once-more/' ? 2 : 1;

        my $retry = retry($uri, $n);
        # a location that responds with `return` responds to the retry itself
        ok $where eq 'error/' ? $retry->status == 404 : $retry->is_replay, "a retry after its client has left is a replay ($what)"
            or diag $retry->head;
        is length $retry->body, $where eq 'error/' ? length "a page\n" : $size, "and complete ($what)";
        is app()->count($path), $acted, "and the application executed the request once ($what)";
    }
}

# During the response, while it is held, and while it is passed through because it is too large to be kept. In this
# case the client has read a part and reads no more.
for my $way (grep { $_ ne 'silence' } sort keys %leave) {
    my $leave = $leave{$way};

    for my $where ('', 'unbuffered/', 'small/', 'small-unbuffered/') {
        my $is_small = $where =~ /small/;
        my $path = "/${where}middle" . ++$n;
        my $size = $is_small ? 2_000_000 : 500_000;
        my $uri = "$path?kind=binary&size=$size&pieces=50&framing=chunked&middle=$n";
        my $what = "$way, $where";
        my $client = client(window => 3000);
        my $stream = $client->send(path => $uri, key => $n, @who);
        app()->await_arrival($path);
        $client->await_bytes($stream) if $is_small;
        nginx_goes_on($what);
        $client->$leave($stream);
        nginx_goes_on($what);
        app()->open_gate($n);
        # what will not be kept is not read on
        $is_small ? await_end($path) : app()->await_answer($path);

        my $retry = retry($uri, $n);
        if ($is_small) {
            is_problem $retry, 409, 'response_not_kept', "a large response whose client disconnects is recorded as not kept ($what)";
        }
        else {
            ok $retry->is_replay && length $retry->body == $size, "a client that disconnects while its response comes in is replayed ($what)"
                or diag $retry->head;
        }
        is app()->count($path), 1, "and the application executed the request once ($what)";
    }
}

# The client stops reading a large response, and then disconnects: the exchange with the application ends.
for my $where ('small/', 'small-unbuffered/') {
    my $path = "/${where}stalled";
    my $client = client(window => 3000);
    my $stream = $client->send(path => "$path?kind=binary&size=8000000&framing=chunked&pieces=100", key => "stalled-$where", @who);
    $client->await_bytes($stream);
    select undef, undef, undef, 0.5;
    $client->close;
    ok await_end($path), "the exchange with the application ends ($where)";
    is_problem retry("$path?kind=binary&size=8000000&framing=chunked&pieces=100", "stalled-$where"), 409, 'response_not_kept',
        "which is not kept ($where)";
}

# Replays that are not read need no more than `idempotency_max_unsent`: the next ones are refused, or end the first ones.
{
    my %request = (path => '/unread?kind=binary&size=500000', key => 'unread', @who);
    my @bob = (path => '/unread?kind=binary&size=500000', key => 'unread', headers => ['X-API-Key: bob']);
    is length $nginx->request(@$_)->body, 500_000, 'a first response' for [%request], [@bob];
    my @clients = map { client(window => 3000) } 1 .. 2;
    my @streams = map { my $client = $_; map { $client->send(%request) } 1 .. 8 } @clients;
    nginx_goes_on('responses that are not read');
    ok await(sub { client()->request(@bob)->is_replay }), 'another client gets its replay';
    ok $nginx->await_error_log(qr/a response of \d+ bytes ends/), 'for which one of these streams has ended';
    ok await(sub { client()->request(%request)->is_replay }), 'the same client too, when its streams have made no progress for a second';
}

# Many streams of one connection: some are reset, some are stopped, then the connection is closed.
{
    my $client = client();
    my @streams = map { $client->send(path => "/stream$_?gate=streams", key => "stream$_", @who) } 1 .. 8;
    app()->await_arrival("/stream$_") for 1 .. 8;
    $client->reset($streams[0]);
    $client->stop($streams[1]);
    $client->stop_and_reset($streams[2]);
    $client->close;
    nginx_goes_on('streams');
    # at the end of the first request nginx handles the closed connection again, while the other requests run
    app()->open_gate('streams');
    app()->await_answer("/stream$_") for 1 .. 8;
    ok retry("/stream$_?gate=streams", "stream$_")->is_replay, "the response of stream $_ is kept though its connection is closed" for 1 .. 8;
    is app()->count("/stream$_"), 1, "and ran once ($_)" for 1 .. 8;
}

# One after the other, so that nginx handles the closed connection several times.
{
    my $client = client();
    $client->send(path => "/turn$_?gate=turn$_", key => "turn$_", @who) for 1 .. 4;
    app()->await_arrival("/turn$_") for 1 .. 4;
    $client->close;

    for (1 .. 4) {
        app()->open_gate("turn$_");
        ok retry("/turn$_?gate=turn$_", "turn$_")->is_replay, "the request of each stream ends independently ($_)";
    }

    is app()->count("/turn$_"), 1, "and ran once ($_)" for 1 .. 4;
}

# An exchange that is not covered ends as without the module.
{
    my $client = client();
    $client->send(path => '/plain/gone?gate=plain', key => 'plain', @who);
    app()->await_arrival('/plain/gone');
    $client->close;
    ok $nginx->await_access_log(qr{/plain/gone\S* \d+ \[-\]}), 'a request that is not covered ends with its connection';
    app()->open_gate('plain');
}

# A client that disconnects during its upload: the application never had the complete request.
for my $way ('reset', 'close') {
    my $client = client();
    my $stream = $client->send(path => "/upload-$way", key => "upload-$way", body => 'half of ', rest => 1,
        headers => ['X-API-Key: alice', 'Content-Length: 20']);
    nginx_goes_on("upload, $way");
    $client->$way($stream);
    ok $nginx->await_access_log(qr{/upload-$way }), "a client that disconnects during its upload ends its request ($way)";
    is_first retry("/upload-$way", "upload-$way", body => 'all'), 201, 1, "and its key is free ($way)";

    $client = client();
    $stream = $client->send(path => "/streaming/$way", key => "streaming-$way", body => 'half of ', rest => 1,
        headers => ['X-API-Key: alice', 'Content-Length: 20']);
    app()->await_arrival("/streaming/$way");
    $client->$way($stream);
    ok $nginx->await_access_log(qr{/streaming/$way }), "so does a client whose upload is streamed ($way)";
    my $retry = retry("/streaming/$way", "streaming-$way", body => 'all');
    is_first $retry, 201, 1, "and its key is free ($way)";
}

# Retriable and broken responses after the client has disconnected.
{
    my $client = client();
    $client->send(path => '/busy?status=503,201&gate=busy', key => 'busy', @who);
    app()->await_arrival('/busy');
    $client->close;
    app()->open_gate('busy');
    app()->await_answer('/busy');
    is_first retry('/busy?status=503,201&gate=busy', 'busy'), 201, 2, 'a retriable response whose client has disconnected frees the key';
}

for my $abort (qw(before mid)) {
    my $path = "/abort-$abort";
    my $client = client();
    $client->send(path => "$path?abort=$abort&gate=$abort&size=1000", key => "abort-$abort", @who);
    app()->await_arrival($path);
    $client->close;
    app()->open_gate($abort);
    app()->await_answer($path);
    is_problem retry("$path?abort=$abort&gate=$abort&size=1000", "abort-$abort"), 409, 'outcome_unknown',
        "an exchange that breaks ($abort) when its client has left has an unknown outcome";
}

# A worker that gets QUIT finishes such an exchange first.
{
    my @clients = map { client() } 1 .. 2;
    $clients[$_ - 1]->send(path => "/quit$_?gate=quit", key => "quit$_", @who) for 1 .. 2;
    app()->await_arrival("/quit$_") for 1 .. 2;
    $clients[0]->close;
    my @old = $nginx->workers;
    $nginx->reload(requests_run => 1);
    $clients[1]->close;
    app()->open_gate('quit');
    ok retry("/quit$_?gate=quit", "quit$_")->is_replay, "an exchange continues over a reload after its client has disconnected ($_)" for 1 .. 2;
    is app()->count("/quit$_"), 1, "and ran once ($_)" for 1 .. 2;
    # a new worker may get a datagram, and the old worker then waits for the timeout
    ok await(sub { !grep { kill 0 => $_ } @old }, $draining), 'the old worker ends';
}

$nginx->stop(seconds => $draining);

# Unless worker_shutdown_timeout ends the worker.
{
    $nginx->set(main => 'worker_shutdown_timeout 1s;')->start;
    my @clients = map { client() } 1 .. 2;
    $clients[$_ - 1]->send(path => "/shutdown$_?gate=shutdown", key => "shutdown$_", @who) for 1 .. 2;
    app()->await_arrival("/shutdown$_") for 1 .. 2;
    $clients[0]->close;
    nginx_goes_on('shutdown');
    $nginx->stop(seconds => $draining);
    app()->open_gate('shutdown');
}

done_testing;
