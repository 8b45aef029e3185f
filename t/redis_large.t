# Large values in Redis: how many of them are read at a time, and that small requests do not wait for them.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Client qw(finish);
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Redis;
use IdempotencyTest::Relay;
use IdempotencyTest::Requests qw(@who ask);

plan skip_all => 'is about the Redis store' if store_mode() ne 'redis';

my $megabyte = 1024 * 1024;
my $redis = IdempotencyTest::Redis->new;
my $server = 'idempotency main; idempotency_max_body 2m; location / { proxy_pass http://app; }';
my $nginx = IdempotencyTest::Nginx->start(workers => 1, server => $server,
    stores => 'idempotency_store main { redis redis://' . $redis->address . '; timeout 20s; }');
my @path = map { "/large/$_?kind=binary&size=" . ($megabyte - $_) } 1 .. 40;
my @first = finish(map { $nginx->send_request(path => $path[$_], key => "large-$_", @who) } 0 .. $#path);
is scalar(grep { $_->status == 201 && !$_->is_replay } @first), scalar @path, 'large responses are delivered and kept';

# The number of bytes that Redis still has to write to each client.
sub output_buffers { return map { /^id=.* omem=(\d+)/ ? $1 : () } split /\n/, $redis->command('CLIENT', 'LIST') }

subtest 'How much Redis buffers for a worker that does not read' => sub {
    my $relay = IdempotencyTest::Relay->new(to => $redis->socket);
    my $behind = IdempotencyTest::Nginx->start(workers => 1, server => $server,
        stores => 'idempotency_store main { redis ' . $relay->url . '; timeout 20s; }');
    is ask($behind, '/behind', 'behind')->status, 201, 'a request runs';

    # no more is read of this connection after the first large reply; the other replies only say that all values are large
    $relay->do('stop-behind', unpack 'H*', 'IDM');
    my @running = map { $behind->send_request(path => $path[$_], key => "large-$_", @who) } 0 .. $#path;
    $relay->do('muted');
    my ($held, $before) = (0, -1);
    ok await(sub {
        ($before, ($held)) = ($held, sort { $b <=> $a } output_buffers());
        return $held > 3 * $megabyte && $held == $before;
    }), 'Redis has replies to write';
    cmp_ok $held, '<=', 4 * ($megabyte + 64 * 1024), 'but not more than four';
    note "$held bytes";

    $relay->do('pass');
    my @answers = map { $_->response } @running;
    is scalar(grep { $answers[$_]->is_replay && $answers[$_]->lasting eq $first[$_]->lasting } 0 .. $#path), scalar @path,
        'all are replayed to the byte';
    $behind->stop;
};

subtest 'A separate connection for large values' => sub {
    my @clients = split /\n/, $redis->command('CLIENT', 'LIST');
    is scalar(grep { !/cmd=client/ } @clients), 2, 'one worker has two connections: for what is small, and for what is large';

    # Redis has much to write to one connection, the other is idle
    my ($worker) = $nginx->workers;
    my @small = map { ask($nginx, "/small/$_", "small-$_") } 1 .. 5;
    is scalar(grep { $_->status == 201 } @small), 5, 'small requests run';
    is scalar(grep { !/cmd=client/ } split /\n/, $redis->command('CLIENT', 'LIST')), 2, 'on the only connection';
};

$nginx->stop;
done_testing;
