# The metrics that change with time: gauges of all workers, health, causes of errors, Redis nodes, a forecast.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app redis store_mode);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Redis;
use IdempotencyTest::Requests qw(@who ask begin);

my $is_redis = store_mode() eq 'redis';
my $prefixes = 0;

sub start_nginx {
    my (%options) = @_;
    my $redis = delete $options{redis} // ($is_redis ? redis() : undef);
    my $more = delete $options{more} // '';
    my $prefix = "metrics:$$:" . ++$prefixes . ':';
    my $url = delete $options{url} // ($is_redis ? 'unix:' . $redis->socket : '');
    my $store = $is_redis ? "redis $url; prefix $prefix; timeout 500ms; connect_timeout 200ms;" : 'memory 1m;';
    return IdempotencyTest::Nginx->start(
        stores => "idempotency_store main { $store $more }",
        server => 'idempotency main; location / { proxy_pass http://app; } location /wait { idempotency_conflict wait 20s; proxy_pass http://app; }
            location = /json { idempotency_status json; }',
        prefix => $prefix, %options);
}

sub figures { my ($nginx) = @_; return $nginx->request(method => 'GET', path => '/json')->json->{stores}{main} }

# Waits until the figures of the store fulfil a condition; true, or these figures for the log.
sub ok_when {
    my ($nginx, $name, $condition) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $figures;
    ok await(sub { $figures = figures($nginx); local $_ = $figures; $condition->() }), $name or diag explain $figures;
}

subtest 'Gauges of all workers' => sub {
    my $nginx = start_nginx();
    my ($first, $second) = $nginx->workers;
    my @running = map { my ($worker, $key) = @$_; $nginx->over($worker, sub { begin($nginx, "/$key", $key) }) } [$first, 'a'], [$first, 'b'], [$second, 'c'];

    ok_when $nginx, 'claims of both workers are counted', sub { $_->{claims_running} == 3 && $_->{oldest_claim_seconds} > 0 };
    is figures($nginx)->{health}{workers}, 2, 'there are two workers';
    my $duplicate = $nginx->send_request(path => '/wait/d?gate=d', key => 'd', @who);
    app()->await_arrival('/wait/d');
    my $retry = $nginx->send_request(path => '/wait/d?gate=d', key => 'd', @who);
    ok_when $nginx, 'and a duplicate that waits', sub { $_->{waiting_requests} == 1 && $_->{claims_running} == 4 };

    kill KILL => $first;
    await(sub { my @workers = $nginx->workers; @workers == 2 && !grep { $_ == $first } @workers });
    ok_when $nginx, 'a worker that was killed takes its gauges with it', sub { $_->{claims_running} <= 2 && $_->{health}{workers} == 2 };
    app()->open_gate($_) for qw(a b c d);
    ok_when $nginx, 'at the end there is nothing', sub { $_->{claims_running} == 0 && $_->{waiting_requests} == 0 && $_->{oldest_claim_seconds} == 0 };
    $nginx->stop(allowed => qr/exited on signal 9/);
};

subtest 'A reload' => sub {
    my $nginx = start_nginx(workers => 1);
    my $running = begin($nginx, '/reload', 'reload');
    ok_when $nginx, 'a request runs', sub { $_->{claims_running} == 1 };
    my ($old) = $nginx->workers;
    kill HUP => $nginx->pid;
    ok await(sub { my @workers = $nginx->workers; @workers == 2 }), 'a reload starts a new worker';
    ok_when $nginx, 'an old worker counts while it runs', sub { $_->{claims_running} == 1 && $_->{health}{workers} == 2 };
    app()->open_gate('reload');
    is_first $running->response, 201, 1, 'until its request has ended';
    ok_when $nginx, 'and not later', sub { $_->{claims_running} == 0 && $_->{health}{workers} == 1 };
    $nginx->stop;
};

subtest 'A memory store that fills up' => sub {
    plan skip_all => 'is about the memory store' if $is_redis;
    my $nginx = start_nginx(workers => 1);
    my $n = 0;
    is figures($nginx)->{memory_full_seconds}, undef, 'it does not grow';
    ok_when $nginx, 'it grows', sub { ask($nginx, '/grow/' . ++$n . '?size=2000', "grow-$n"); defined $_->{memory_full_seconds} };
    await(sub { ask($nginx, '/fill/' . ++$n . '?size=20000', "fill-$n")->status == 503 });

    my $figures = figures($nginx);
    ok !$figures->{health}{ok}, 'a full store is not healthy';
    is $figures->{healthy}, 0, 'in the gauge too';
    is $figures->{health}{cause}, 'full', 'and says why';
    is $figures->{last_error}{cause}, 'full', 'as the last error does';
    is $figures->{store_up}, 1, 'it is connected all the same';
    is scalar(grep { $_->{event} eq 'refused' && $_->{cause} eq 'full' } @{$figures->{events}}), 1, 'the first refusal is an event';
    cmp_ok $figures->{store_errors}{full}, '>', 0, 'and an error';
    $nginx->stop;
};

subtest 'Redis nodes' => sub {
    plan skip_all => 'is about the Redis store' if !$is_redis;
    my $redis = IdempotencyTest::Redis->new(configuration => "maxmemory 100mb\nmaxmemory-policy allkeys-lru\n");
    my $nginx = start_nginx(redis => $redis, url => 'redis://127.0.0.1:' . $redis->port);
    ask($nginx, '/node', 'node');
    ok_when $nginx, 'the node says what it is', sub { @{$_->{nodes}} == 1 && $_->{nodes}[0]{info} };
    my ($node) = @{figures($nginx)->{nodes}};
    is $node->{node}, '127.0.0.1:' . $redis->port, 'its name';
    is $node->{info}{version}, $redis->info('valkey_version') || $redis->info('redis_version'), 'its version';
    is $node->{info}{role}, 'master', 'its role';
    is "$node->{info}{maxmemory_policy} $node->{info}{evicts}", 'allkeys-lru 1', 'that it evicts';
    is $node->{info}{maxmemory_bytes}, 100 * 1024 * 1024, 'its limit';
    is $node->{info}{replicas}, 0, 'its replicas';
    ok_when $nginx, 'connections of both workers', sub { $_->{nodes}[0]{connections} == 2 };
    cmp_ok $node->{commands}, '>=', 2, 'commands';

    my $replica = IdempotencyTest::Redis->new(replica_of => $redis);
    $redis->await_replicas(1) if $redis->can('await_replicas');
    ok await(sub { figures($nginx)->{nodes}[0]{info}{replicas} }, 40), 'a replica is noticed';

    $redis->kill;
    ok_when $nginx, 'a node that is down', sub { !$_->{nodes}[0]{up} && $_->{nodes}[0]{connections} == 0 && $_->{store_up} == 0 && !$_->{health}{ok} };
    cmp_ok figures($nginx)->{nodes}[0]{reconnects}, '>=', 2, 'connections were lost';
    $redis->start;
    ok_when $nginx, 'and up again, without a request', sub { $_->{nodes}[0]{up} && $_->{nodes}[0]{connections} == 2 && $_->{health}{ok} };
    $nginx->stop(allowed => qr/\[crit\].*connect\(\)/);
};

# What Redis does to each call, and the cause that the metrics have.
subtest 'Errors by cause' => sub {
    plan skip_all => 'is about the Redis store' if !$is_redis;
    my $redis = IdempotencyTest::Redis->new;
    my $nginx = start_nginx(redis => $redis, workers => 1);
    is ask($nginx, '/before', 'before')->status, 201, 'the store works';
    my %fault = (
        oom => [sub { $redis->command(qw(CONFIG SET maxmemory 1)) }, sub { $redis->command(qw(CONFIG SET maxmemory 0)) }],
        replicas => [sub { $redis->command(qw(CONFIG SET min-replicas-to-write 1)) }, sub { $redis->command(qw(CONFIG SET min-replicas-to-write 0)) }],
        noperm => [sub { $redis->command(qw(ACL SETUSER default -@all +acl)) }, sub { $redis->command(qw(ACL SETUSER default +@all)) }],
        readonly => [sub { $redis->command('REPLICAOF', '127.0.0.1', IdempotencyTest::Process::dead_port()) }, sub { $redis->command(qw(REPLICAOF NO ONE)) }],
        timeout => [sub { $redis->stall }, sub { $redis->resume }],
        connection => [sub { $redis->kill }, sub { $redis->start }],
    );

    for my $cause (sort keys %fault) {
        my ($begin, $end) = @{$fault{$cause}};
        my $n = 0;
        $begin->();
        is_problem ask($nginx, "/$cause", "$cause-refused"), 503, 'store_unavailable', "$cause: a request is refused";
        my $figures = figures($nginx);
        cmp_ok $figures->{store_errors}{$cause}, '>=', 1, 'it is counted';
        is "$figures->{healthy} $figures->{health}{cause} $figures->{last_error}{cause}", "0 $cause $cause", 'the store is not healthy';
        cmp_ok $figures->{health}{last_refused}, '>=', $figures->{health}{last_granted}, 'the last call was refused';
        $end->();
        ok await(sub { ask($nginx, "/$cause", "$cause-" . ++$n)->status == 201 }), 'the store works again';
        # an error that came over a working connection counts for ten seconds, one of the connection does not
        ok await(sub { figures($nginx)->{healthy} }, 30), 'and is healthy again' if $cause eq 'connection' || $cause eq 'oom';
    }

    $nginx->stop(allowed => qr/\[crit\].*connect\(\)/);
};

subtest 'A value that is no record' => sub {
    plan skip_all => 'is about the Redis store' if !$is_redis;
    my $nginx = start_nginx(workers => 1);
    my $id = ask($nginx, '/corrupt', 'corrupt')->status && (redis()->command('KEYS', "$nginx->{prefix}*"))->[0];
    redis()->command('SET', $id, 'nonsense');
    is_problem ask($nginx, '/corrupt', 'corrupt'), 503, 'store_unavailable', 'a request with this key is refused';
    my $figures = figures($nginx);
    is $figures->{store_errors}{corrupt}, 1, 'it is counted';
    is "$figures->{events}[0]{event} $figures->{events}[0]{key_id}", 'corrupt ' . substr($id, length $nginx->{prefix}), 'with the key';
    is $figures->{healthy}, 1, 'and the store is healthy: it takes other keys';
    $nginx->stop;
};

subtest 'A near cache' => sub {
    plan skip_all => 'is about the Redis store' if !$is_redis;
    my $nginx = start_nginx(workers => 1, more => 'near_cache 256k;');
    ask($nginx, '/near', 'near') for 1 .. 3;
    my $figures = figures($nginx);
    is "$figures->{near_cache_misses} $figures->{near_cache_hits}", '1 2', 'hits and misses';
    is $figures->{store_calls}{claim}, 1, 'a hit is no call to the store';
    is $figures->{store_call_seconds}{claim}{count}, 1, 'and has no time';
    ask($nginx, "/near/$_?size=20000", "near-$_") for 1 .. 30;
    cmp_ok figures($nginx)->{near_cache_evictions}, '>', 0, 'copies that had to go';
    $nginx->stop;
};

done_testing;
