# `wait_replicas`: a claim and a result count when replicas have them; with too few replicas no new request runs, and no key stays claimed.

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
use IdempotencyTest::RedisCluster;
use IdempotencyTest::RedisSentinel;
use IdempotencyTest::Requests qw(@who ask begin);

plan skip_all => 'is about the Redis store' if store_mode() ne 'redis';

sub start_nginx {
    my ($redis, $wait, %options) = @_;
    return IdempotencyTest::Nginx->start(
        stores => 'idempotency_store main { redis ' . (ref $redis ? 'redis://' . $redis->address : $redis) . "; timeout 20s; wait_replicas $wait; }",
        server => <<'END', %options);
        add_header X-Id $idempotency_key_id always;
        add_header X-Status $idempotency_status always;
        idempotency main;
        location / { proxy_pass http://app; }
        location /pass/ { idempotency_store_error pass; proxy_pass http://app; }
END
}

sub name_of { return 'idempotency:' . $_[0]->header('X-Id') }

# The state of a key's record, '' without a record.
sub state_at {
    my ($redis, $name) = @_;
    return $redis->command('GETRANGE', $name, 7, 7);
}

my $master = IdempotencyTest::Redis->new;
my $replica = IdempotencyTest::Redis->new(replica_of => $master);
$master->await_replicas(1);

subtest 'Replicas in sync' => sub {
    my $nginx = start_nginx($master, '1 20s');
    my $first = ask($nginx, '/follows', 'follows');

    is_first $first, 201, 1, 'a request runs';
    is state_at($replica, name_of($first)), 'K', 'and its response is on the replica when the client gets it';
    is_replay_of ask($nginx, '/follows', 'follows'), $first, 'a retry is replayed';

    my $running = begin($nginx, '/claimed', 'claimed');
    my ($claim) = grep { state_at($replica, $_) eq 'R' } @{$replica->command('KEYS', '*')};
    ok defined $claim, 'a claim is on the replica when the application gets the request';
    app()->open_gate('claimed');
    is_first $running->response, 201, 1, 'the request gets its response';

    my $large = ask($nginx, '/large?size=300000', 'large');
    is state_at($replica, name_of($large)), 'K', 'a large response is on the replica, too';
    is_replay_of ask($nginx, '/large?size=300000', 'large'), $large, 'and its retry gets a replay';

    my @answers = finish(map { $nginx->send_request(path => "/many/$_", key => "many-$_", @who) } 1 .. 200);
    is scalar(grep { $_->status == 201 && state_at($replica, name_of($_)) eq 'K' } @answers), 200, 'many responses at once are on the replica';

    my $busy = ask($nginx, '/busy?status=503,201', 'busy');
    is $busy->status, 503, 'a response that is not kept frees its key';
    is_first ask($nginx, '/busy?status=503,201', 'busy'), 201, 2, 'a retry runs again';
    $nginx->stop;
};

# A replica that is connected, and does not reply.
subtest 'Too few replicas' => sub {
    my $nginx = start_nginx($master, '1 100ms', workers => 1);
    my $kept = ask($nginx, '/few/kept', 'few-kept');
    my $running = $nginx->send_request(path => '/few/running?gate=few', key => 'few-running', @who);
    app()->await_arrival('/few/running');

    $replica->stall;
    my $refused = ask($nginx, '/few/new', 'few-new');
    is_problem $refused, 503, 'store_unavailable', 'a new request is refused';
    is app()->count('/few/new'), 0, 'and does not run';
    ok $nginx->await_error_log(qr/\[error\].* replied to WAIT with NOREPLICAS/), 'the error log says why';
    ok await(sub { state_at($master, name_of($refused)) eq '' }), 'its key is free again';
    is ask($nginx, '/pass/few', 'few-pass')->status, 201, 'with idempotency_store_error pass it runs';
    is_replay_of ask($nginx, '/few/kept', 'few-kept'), $kept, 'kept responses are replayed';

    app()->open_gate('few');
    my $answer = $running->response;
    is_first $answer, 201, 1, 'a running request gets its response';
    is $answer->header('X-Status'), 'STORE_ERROR', 'the response does not count as kept';

    $replica->resume;
    my $retry;
    await(sub { $retry = ask($nginx, '/few/new', 'few-new'); $retry->status != 503 });
    is_first $retry, 201, 1, 'then the refused request runs';
    is_replay_of ask($nginx, '/few/running?gate=few', 'few-running'), $answer, 'and the response is replayed';
    $nginx->stop;
};

subtest 'More replicas than there are' => sub {
    my $nginx = start_nginx($master, '2 10ms', workers => 1);
    my @answers = finish(map { $nginx->send_request(path => "/two/$_", key => "two-$_", @who) } 1 .. 50);

    is scalar(grep { $_->status == 503 && $_->code eq 'store_unavailable' } @answers), 50, 'all requests are refused';
    is scalar(grep { app()->count("/two/$_") } 1 .. 50), 0, 'no request runs';
    ok await(sub { !grep { state_at($master, name_of($_)) ne '' } @answers }), 'no key stays claimed';
    $nginx->stop;
};

# The connection ends while a claim waits for the replicas: the next connection releases the claim.
subtest 'A connection that ends' => sub {
    my $nginx = start_nginx($master, '1 20s', workers => 1);
    is ask($nginx, '/ends/first', 'ends-first')->status, 201, 'a request runs';

    $replica->stall;
    my $waits = $nginx->send_request(path => '/ends/second', key => 'ends-second', @who);
    my $claim;
    ok await(sub { ($claim) = grep { state_at($master, $_) eq 'R' } @{$master->command('KEYS', '*')}; $claim }), 'a claim waits';
    $master->command('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    is_problem $waits->response, 503, 'store_unavailable', 'its request is refused';
    ok await(sub { state_at($master, $claim) eq '' }), 'and the key is free';
    is app()->count('/ends/second'), 0, 'it did not run';

    $replica->resume;
    is_first ask($nginx, '/ends/second', 'ends-second'), 201, 1, 'then it runs';
    $nginx->stop;
};

# A confirmed result is not lost if the master is killed when the client gets its response.
subtest 'A failover' => sub {
    my $watched = IdempotencyTest::RedisSentinel->new;
    my $nginx = start_nginx($watched->urls . '; topology sentinel shop', '2 20s', workers => 1);
    my @keys = map { "failover-$_" } 1 .. 100;
    my @answers = finish(map { $nginx->send_request(path => "/$_", key => $_, @who) } @keys);
    my $old = $watched->master;

    $old->kill;
    is scalar(grep { $_->status == 201 && $_->header('X-Status') eq 'NEW' } @answers), @keys, 'requests run, and their responses are kept';
    $watched->await_new_master($old);
    # there is only one replica left
    await(sub { ask($nginx, "/$keys[0]", $keys[0])->status == 201 });

    my @retries = finish(map { $nginx->send_request(path => "/$_", key => $_, @who) } @keys);
    is scalar(grep { $retries[$_]->is_replay && $retries[$_]->lasting eq $answers[$_]->lasting } 0 .. $#keys), @keys, 'each is replayed by the new master';
    is scalar(grep { app()->count("/$_") == 1 } @keys), @keys, 'each request has run once';
    $nginx->stop(allowed => qr/\[crit\].*connect\(\)/);
};

subtest 'A cluster' => sub {
    my $cluster = IdempotencyTest::RedisCluster->new;
    my $nginx = start_nginx($cluster->urls(1) . '; topology cluster', '1 20s');
    my @answers = finish(map { $nginx->send_request(path => "/cluster/$_", key => "cluster-$_", @who) } 1 .. 60);
    my @masters = $cluster->masters;
    my @replicas = grep { my $node = $_; !grep { $_ == $node } @masters } $cluster->nodes;
    my %kept = map { $_ => 1 } map { @{$_->command('KEYS', '*')} } @replicas;

    is scalar(grep { $_->status == 201 && $kept{name_of($_)} } @answers), 60, 'each delivered response is on a replica of its node';
    $nginx->stop;
};

done_testing;
