# Clients that ask for responses and do not read them: together these responses hold no more memory than `idempotency_max_unsent`
# (docs/guarantees.md), and no client can take this memory from another one.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::StreamClient;

use constant {LIMIT => 8 << 20, SIZE => 1_000_000, MANY => 40};

my $is_sanitized = ($ENV{IDEMPOTENCY_MODULE} // '') =~ /asan/;
my $nginx = IdempotencyTest::Nginx->new(workers => 1, memory => '128m', http => 'idempotency_max_unsent 8m;');
my $h2 = $nginx->directory . '/h2.sock';
$nginx->set(server => "listen unix:$h2 http2; idempotency main; location / { proxy_pass http://app; }")->start;
my ($worker) = $nginx->workers;

# The worker's own memory in bytes, without the shared zone.
sub memory { return 1024 * (slurp("/proc/$worker/status") =~ /^RssAnon:\s+(\d+) kB/m)[0] }

sub request {
    my ($who, $key, %options) = @_;
    return path => "/$key?kind=binary&size=" . SIZE, key => $key, body => $options{body} // '', headers => ["X-API-Key: $who"];
}

sub is_within_bound {
    my ($before, $name) = @_;
    my $growth = memory() - $before;
    note "$name: $growth bytes more";
    # what ends may keep its memory for a while; buffers of nginx
    cmp_ok $growth, '<', 2 * LIMIT + MANY * 64 * 1024, "$name: the memory is bounded" if !$is_sanitized;
}

# Other clients do not notice.
sub is_replayed_to {
    my ($who, $name) = @_;
    my $response = $nginx->request(request($who, "of-$who"));
    ok $response->is_replay && length $response->body == SIZE, $name or diag $response->head;
}

is length $nginx->request(request($_, "of-$_"))->body, SIZE, "the first response of $_" for qw(alice bob);

# which allocates what nginx needs once
is_replayed_to($_, "a replay to $_") for qw(alice bob);
my $before = memory();

# A refused request does not need the record that was found.
{
    my $client = IdempotencyTest::StreamClient->connect_http2($h2, window => 0);
    # one after the other: records that arrive from Redis at the same time are limited too
    my @refused = grep { $client->await_bytes($client->send(request('alice', 'of-alice', body => 'another'))) == 422 } 1 .. MANY;
    is scalar @refused, MANY, 'another body is refused';
    cmp_ok memory() - $before, '<', MANY * SIZE / 4, 'and holds no response in memory' if !$is_sanitized;
}

# HTTP/2 streams of one connection whose window is almost 0.
{
    my $client = IdempotencyTest::StreamClient->connect_http2($h2, window => 1000);
    my @streams = map { $client->send(request('alice', 'of-alice')) } 1 .. MANY;
    my %status;
    $status{$client->await_bytes($_)}++ for @streams;
    note join ', ', map { "$status{$_} of $_" } sort keys %status;
    is_deeply [grep { $_ != 503 } sort keys %status], [201], 'streams get a replay, or 503 because there is no memory for it';
    cmp_ok $status{201}, '>=', int(LIMIT / (SIZE + 1000)), 'as many get a replay as there is memory for';
    is_within_bound($before, 'HTTP/2 streams that are not read');
    is_replayed_to('bob', 'another client gets its replay');
    ok $nginx->await_error_log(qr/a response of \d+ bytes ends/), 'for which one of the streams has ended';
    ok await(sub { $nginx->request(request('alice', 'of-alice'))->is_replay }), 'so does the same client, when its streams have made no progress for a second';
}

# Connections that are not read: the frames are on their way, so nginx can't end a stream before they are sent.
{
    my @clients = map { IdempotencyTest::StreamClient->connect_http2($h2, window => 2**31 - 1) } 1 .. 2;
    for my $n (1 .. MANY / 2) {
        $_->send(request('alice', 'of-alice')) for @clients;
    }
    # nginx has handled what was sent before
    is_replayed_to('bob', 'a client beside HTTP/2 connections that are not read gets its replay');
    is_within_bound($before, 'HTTP/2 connections that are not read');
}

# HTTP/1.1.
{
    my @clients = map { $nginx->send_request(request('alice', 'of-alice')) } 1 .. MANY;
    $_->await_bytes for @clients;
    is_within_bound($before, 'HTTP/1.1 clients that do not read');
    is_replayed_to('bob', 'a client beside them gets its replay');
    $_->close for @clients;
}

# First responses are never refused; a retry of one that has ended gets a replay.
{
    my @clients;

    # one after the other: a response that is not recorded yet needs memory too
    for my $n (1 .. MANY) {
        push @clients, $nginx->send_request(request('alice', "first-$n"));
        $clients[-1]->await_bytes;
    }

    is scalar(grep { app()->count("/first-$_") == 1 } 1 .. MANY), MANY, 'each first request runs';
    is_within_bound($before, 'first responses that are not read');
    is_replayed_to('bob', 'a client beside them gets its replay');
    $_->close for @clients;
    my $retry = await(sub { my $retry = $nginx->request(request('alice', 'first-1')); $retry->is_replay && $retry });
    is length $retry->body, SIZE, 'a retry gets the whole response';
    is app()->count('/first-1'), 1, 'and does not run';
}

# A request that ends waits for a subrequest of `mirror`, and does not see that. The next request of its connection does not end instead.
# And one client that comes with many scopes does not end the response of another one that reads it.
{
    my $small = IdempotencyTest::Nginx->new(workers => 1, memory => '64m', http => 'idempotency_max_unsent 4m; map $host $nothing { default ""; }');
    my $socket = $small->directory . '/h2.sock';
    $small->set(server => <<"END")->start;
        listen unix:$socket http2;
        idempotency main;
        location / { proxy_pass http://app; }
        location /mirrored { mirror /mirror; proxy_pass http://app; }
        location = /mirror { internal; proxy_pass http://app/mirror?gate=mirror\$nothing; }
END
    my $attack = sub { return path => '/small?kind=binary&size=400000', key => "scope-$_[0]", body => '', headers => ['Authorization: Bearer mallory', "X-API-Key: $_[0]"] };
    $small->request($attack->($_)) for 1 .. 24;
    my $client = IdempotencyTest::StreamClient->connect_http2($socket, window => 0);
    my $ask = sub { $client->await_bytes($_) for map { $client->send($attack->($_)) } @_ };

    my $mirrored = $small->send_request(path => '/mirrored?kind=binary&size=1040000', key => 'mirrored', body => '', headers => ['X-API-Key: alice']);
    is length $mirrored->response->body, 1040000, 'a client reads a response whose mirror is slow';
    $ask->(1 .. 9);
    ok $small->await_error_log(qr/a response of 1040000 bytes ends/), 'it ends, for others';
    app()->open_gate('mirror');
    $mirrored->send(path => '/next', key => 'next', body => '', headers => ['X-API-Key: alice']);
    is $mirrored->response->status, 201, 'and the next request of the connection gets its response';

    my $reader = $small->send_request(path => '/read?kind=binary&size=1040000', key => 'read', body => '', headers => ['X-API-Key: bob']);
    $reader->await_bytes;
    # nothing else is read
    sleep 2;
    $reader->read_some for 1 .. 6;
    select undef, undef, undef, 0.2;
    $ask->(10 .. 12);
    is length $reader->response->body, 1040000, 'a client that reads gets its response, although no other scope holds as much';
}

$nginx->stop;
done_testing;
