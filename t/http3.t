# HTTP/3: the main job, and clients that leave in every way of QUIC. The nginx is a newer one than Debian 12 has, under
# sanitizers (tools/nginx-h3).

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

# before anything that asks which nginx it is
use IdempotencyTest::Http3;

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Leave qw(leave_locations);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Requests qw(@who await_outcome);

my $nginx = IdempotencyTest::Nginx->new(workers => 1, log_format => '$server_protocol $request_uri $status [$idempotency_status]');
my $listener = IdempotencyTest::Http3->listener($nginx);
my $locations = <<'END';
        idempotency main;
        # QUIC's idle timeout too
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
# (RFC 9000, 10.2), which on a busy machine grows to many seconds: for so long a worker does not end.
my $draining = 300;

sub client { return IdempotencyTest::Http3->connect($nginx, @_) }

# What a retry over HTTP/1.1 gets once the first request is no longer at work.
sub retry { return await_outcome($nginx, @_) }

# nginx has seen what was sent to it before.
sub nginx_goes_on {
    my ($what) = @_;
    return ok $nginx->request(path => '/plain/seen', method => 'GET')->status == 201, "nginx goes on ($what)";
}

# The main job.
{
    my $client = client();
    my %request = (path => '/main?kind=binary&size=300000&header=X-A:1&header=X-A:2', key => 'main', body => 'some body', @who);
    my $first = $client->request(%request);
    is_first $first, 201, 1, 'a request of HTTP/3 is answered';
    is length $first->body, 300_000, 'in full';
    is_replay_of $client->request(%request), $first, 'its retry on the same connection is a replay';
    is_replay_of client()->request(%request), $first, 'as on another one';
    my $http1 = $nginx->request(%request);
    ok $http1->is_replay && $http1->body eq $first->body, 'and over HTTP/1.1';
    is_problem client()->request(%request, body => 'another body'), 422, 'idempotency_key_reused', 'another body is refused';
    is app()->count('/main'), 1, 'and the application acted once';

    my $begun = $nginx->request(path => '/to-http3', key => 'to-http3', @who);
    # on a busy machine the first connection has been idle for too long by now
    $client = client();
    my $replay = $client->request(path => '/to-http3', key => 'to-http3', @who);
    ok $replay->is_replay && $replay->body eq $begun->body, 'HTTP/3 gets the answer that HTTP/1.1 began';

    my $stream = $client->send(path => '/conflict?gate=conflict', key => 'conflict', @who);
    app()->await_arrival('/conflict');
    is_problem $client->request(path => '/conflict?gate=conflict', key => 'conflict', @who), 409, 'request_in_progress',
        'a duplicate on the same connection is told that the first one runs';
    app()->open_gate('conflict');
    is_first $client->response($stream), 201, 1, 'which is answered then';
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

# Before the answer.
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

        # nginx gives a connection up after two seconds
        select undef, undef, undef, 2.5 if $way eq 'silence';

        nginx_goes_on($what);
        app()->open_gate($n);
        my $acted = $where eq 'once-more/' ? 2 : 1;

        my $retry = retry($uri, $n);
        ok $retry->is_replay, "a retry after its client has left is a replay ($what)" or diag $retry->head;
        is length $retry->body, $where eq 'error/' ? length "a page\n" : $size, "and whole ($what)";
        is app()->count($path), $acted, "and the application acted once ($what)";
    }
}

# The middle of the answer, while it is held back, and while it goes on because it is too large to be kept; there the
# client has taken some of it and takes no more.
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
        app()->await_answer($path);

        my $retry = retry($uri, $n);
        if ($is_small) {
            is_problem $retry, 409, 'response_not_kept', "a client that leaves within a large answer leaves it `not kept` ($what)";
        }
        else {
            ok $retry->is_replay && length $retry->body == $size, "a client that leaves while its answer comes in is replayed ($what)"
                or diag $retry->head;
        }
        is app()->count($path), 1, "and the application acted once ($what)";
    }
}

# Stalled within a large answer, and then gone: the application is not held up.
for my $where ('small/', 'small-unbuffered/') {
    my $path = "/${where}stalled";
    my $client = client(window => 3000);
    my $stream = $client->send(path => "$path?kind=binary&size=8000000&framing=chunked&pieces=100", key => "stalled-$where", @who);
    $client->await_bytes($stream);
    select undef, undef, undef, 0.5;
    $client->close;
    ok app()->await_answer($path), "the application gets rid of all of its answer ($where)";
    is_problem retry("$path?kind=binary&size=8000000&framing=chunked&pieces=100", "stalled-$where"), 409, 'response_not_kept',
        "which is not kept ($where)";
}

# Many streams of one connection: some reset, some stopped, then all gone.
{
    my $client = client();
    my @streams = map { $client->send(path => "/stream$_?gate=streams", key => "stream$_", @who) } 1 .. 8;
    app()->await_arrival("/stream$_") for 1 .. 8;
    $client->reset($streams[0]);
    $client->stop($streams[1]);
    $client->stop_and_reset($streams[2]);
    $client->close;
    nginx_goes_on('streams');
    # the first that ends brings nginx back to the closing of the connection, with the others still at work
    app()->open_gate('streams');
    app()->await_answer("/stream$_") for 1 .. 8;
    ok retry("/stream$_?gate=streams", "stream$_")->is_replay, "stream $_ of a connection that is gone is kept" for 1 .. 8;
    is app()->count("/stream$_"), 1, "and ran once ($_)" for 1 .. 8;
}

# One after the other, so that the connection's end comes by again and again.
{
    my $client = client();
    $client->send(path => "/turn$_?gate=turn$_", key => "turn$_", @who) for 1 .. 4;
    app()->await_arrival("/turn$_") for 1 .. 4;
    $client->close;

    for (1 .. 4) {
        app()->open_gate("turn$_");
        ok retry("/turn$_?gate=turn$_", "turn$_")->is_replay, "each of its streams ends in its own time ($_)";
    }

    is app()->count("/turn$_"), 1, "and ran once ($_)" for 1 .. 4;
}

# What is not covered ends as ever.
{
    my $client = client();
    $client->send(path => '/plain/gone?gate=plain', key => 'plain', @who);
    app()->await_arrival('/plain/gone');
    $client->close;
    ok $nginx->await_access_log(qr{/plain/gone\S* \d+ \[-\]}), 'a request that is not covered ends with its connection';
    app()->open_gate('plain');
}

# A client that leaves while it uploads: the application never had the whole request.
for my $way ('reset', 'close') {
    my $client = client();
    my $stream = $client->send(path => "/upload-$way", key => "upload-$way", body => 'half of ', rest => 1,
        headers => ['X-API-Key: alice', 'Content-Length: 20']);
    nginx_goes_on("upload, $way");
    $client->$way($stream);
    ok $nginx->await_access_log(qr{/upload-$way }), "a client that leaves within its upload ends its request ($way)";
    is_first retry("/upload-$way", "upload-$way", body => 'all'), 201, 1, "and its key is free ($way)";

    $client = client();
    $stream = $client->send(path => "/streaming/$way", key => "streaming-$way", body => 'half of ', rest => 1,
        headers => ['X-API-Key: alice', 'Content-Length: 20']);
    app()->await_arrival("/streaming/$way");
    $client->$way($stream);
    ok $nginx->await_access_log(qr{/streaming/$way }), "so does one whose upload is streamed ($way)";
    my $retry = retry("/streaming/$way", "streaming-$way", body => 'all');
    is_first $retry, 201, 1, "and its key is free ($way)";
}

# Retriable and broken answers while nobody listens.
{
    my $client = client();
    $client->send(path => '/busy?status=503,201&gate=busy', key => 'busy', @who);
    app()->await_arrival('/busy');
    $client->close;
    app()->open_gate('busy');
    app()->await_answer('/busy');
    is_first retry('/busy?status=503,201&gate=busy', 'busy'), 201, 2, 'a retriable answer to a client that has left frees the key';
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

# A worker that is told to quit ends such an exchange first.
{
    my @clients = map { client() } 1 .. 2;
    $clients[$_ - 1]->send(path => "/quit$_?gate=quit", key => "quit$_", @who) for 1 .. 2;
    app()->await_arrival("/quit$_") for 1 .. 2;
    $clients[0]->close;
    my @old = $nginx->workers;
    $nginx->reload(requests_run => 1);
    $clients[1]->close;
    app()->open_gate('quit');
    ok retry("/quit$_?gate=quit", "quit$_")->is_replay, "an exchange whose client has left outlives a reload ($_)" for 1 .. 2;
    is app()->count("/quit$_"), 1, "and ran once ($_)" for 1 .. 2;
    # a datagram may come to a new worker, and the old one then waits for its time to end
    ok await(sub { !grep { kill 0 => $_ } @old }, $draining), 'the old worker ends';
}

$nginx->stop(seconds => $draining);

# Unless it has to end: worker_shutdown_timeout.
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
