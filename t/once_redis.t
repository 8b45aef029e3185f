# Once, whatever fails, as far as it is about Redis: values that Redis never takes, a Redis that is full, proxies that shard by key,
# and the clock of Redis.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Certificates;
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Faults;
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await temporary_directory);
use IdempotencyTest::Python qw(start_python_server);
use IdempotencyTest::Redis;
use IdempotencyTest::Requests qw(ask await_outcome begin other_outcomes);
use Time::HiRes qw(sleep time);

plan skip_all => 'is about the Redis store' if store_mode() ne 'redis';

my $server = <<'END';
        add_header X-Id $idempotency_key_id always;
        idempotency main;
        idempotency_max_body 4m;
        idempotency_lease 3s;
        location / { proxy_pass http://app; }
        location /long/ { idempotency_lease 30s; proxy_pass http://app; }
        location /release/ { idempotency_unknown release; proxy_pass http://app; }
END

# The lease has to be longer than both timeouts together.
sub start_nginx {
    my ($url, %options) = @_;
    return IdempotencyTest::Nginx->start(redis => $url, store => 'connect_timeout 1s; timeout 1s;', server => $server, %options);
}

sub executions_are {
    my ($path, $n, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is app()->count($path), $n, $name;
}

sub response_is_refused {
    my ($nginx, $way) = @_;

    for my $round (1 .. 3) {
        my $path = "/huge/$way/$round";
        my $first = ask($nginx, "$path?size=2000000", "huge-$way-$round");
        is_first $first, 201, 1, 'is delivered';
        is length $first->body, 2_000_000, 'as a whole';

        # at once: no request is refused meanwhile, and the store is not taken for unavailable
        is_first ask($nginx, "/small/$way/$round", "small-$way-$round"), 201, 1, 'another request runs';
        is_first ask($nginx, "/large/$way/$round?size=300000", "large-$way-$round"), 201, 1, 'and another large one';
        is_problem await_outcome($nginx, "$path?size=2000000", "huge-$way-$round"), 409, 'response_not_kept', 'a retry is told so';
        ok ask($nginx, "/large/$way/$round?size=300000", "large-$way-$round")->is_replay, 'the other large response is replayed';
        executions_are $path, 1, 'the request ran once';
    }

    sleep 4;
    is_problem ask($nginx, "/huge/$way/1?size=2000000", "huge-$way-1"), 409, 'response_not_kept', 'also after a lease';
    executions_are "/huge/$way/1", 1, 'the request ran once';
    my $log = $nginx->error_log;
    like $log, qr/\[error\].*recorded as not kept.*proto-max-bulk-len/, 'the log says why';
    unlike $log, qr/is unavailable|has not replied/, 'and Redis is not reported as unavailable';
    $nginx->stop;
}

# Redis closes the connection when it has read the length of the value.
for my $way ('tcp', 'tls') {
    subtest "A response that Redis never takes ($way)" => sub {
        my $authority = IdempotencyTest::Certificates->new;
        my $redis = IdempotencyTest::Redis->new(configuration => 'proto-max-bulk-len 1mb', tls => $authority->server);
        my $nginx = start_nginx($way eq 'tcp' ? 'redis://' . $redis->address : 'rediss://localhost:' . $redis->tls_port, workers => 1,
            $way eq 'tls' ? (store => 'connect_timeout 1s; timeout 1s; ssl_trusted_certificate ' . $authority->authority . ';') : ());
        response_is_refused($nginx, $way);
    };
}

subtest 'A Redis that is full for longer than a lease' => sub {
    my $redis = IdempotencyTest::Redis->new;
    my $nginx = start_nginx('redis://' . $redis->address);
    my $running = begin($nginx, '/full', 'full');

    $redis->command('CONFIG', 'SET', 'maxmemory', '1');
    app()->open_gate('full');
    is_first $running->response, 201, 1, 'the response is delivered';
    is join(', ', other_outcomes($nginx, '/full?gate=full', 'full', 5)), '', 'retries are told that it is in progress';
    $redis->command('CONFIG', 'SET', 'maxmemory', '0');

    my $retry = await_outcome($nginx, '/full?gate=full', 'full');
    ok $retry->is_replay, 'and get a replay when there is memory again' or diag $retry->head;
    executions_are '/full', 1, 'the request ran once';
    $nginx->stop;
};

# Long requests, each of which needs renewals.
sub renewals_work {
    my ($url, $name) = @_;
    my $nginx = start_nginx($url);
    my @paths = map { "/renewed/$name-$_" } 1 .. 24;
    my @running = map { $nginx->send_request(path => "$_?gate=$name", key => $_, headers => ['X-API-Key: alice']) } @paths;
    app()->await_arrival($_) for @paths;

    my $until = time + 7;
    my %other;

    while (time < $until) {
        for my $path (@paths) {
            my $response = ask($nginx, "$path?gate=$name", $path);
            $other{$response->status_line}++ if $response->code ne 'request_in_progress';
        }
    }

    is join(', ', sort keys %other), '', 'the leases are renewed';
    app()->open_gate($name);
    is scalar(grep { $_->response->status != 201 } @running), 0, 'all requests get their response';
    is scalar(grep { !ask($nginx, "$_?gate=$name", $_)->is_replay } @paths), 0, 'all retries get a replay';
    is scalar(grep { app()->count($_) != 1 } @paths), 0, 'each request ran once';
    unlike $nginx->error_log, qr/\[(?:error|warn)\]/, 'nothing is logged';
    $nginx->stop;
}

subtest 'Behind a proxy that shards by key' => sub {
    my @shards = map { IdempotencyTest::Redis->new } 1 .. 3;
    my $directory = temporary_directory();
    my ($process, $port) = start_python_server(name => 'sharding_proxy', output => "$directory/output",
        arguments => ['--to', join ',', map { $_->socket } @shards]);

    renewals_work("redis://127.0.0.1:$port", 'proxy');
    is scalar(grep { @{$_->command('KEYS', '*')} == 0 } @shards), 0, 'each shard has keys';
    $process->stop;
};

subtest 'A cluster of one shard, as a single server' => sub {
    my $redis = IdempotencyTest::Redis->new(arguments => ['--cluster-enabled', 'yes']);
    $redis->command('CLUSTER', 'ADDSLOTSRANGE', 0, 16383);
    ok await(sub { $redis->command('CLUSTER', 'INFO') =~ /cluster_state:ok/ }), 'the cluster is complete';
    renewals_work('redis://' . $redis->address, 'one-shard');
};

# A Redis whose clock the test shifts.
sub start_redis {
    my ($seconds, %options) = @_;
    my $clock = IdempotencyTest::Faults->new('shifted_clock');
    $clock->shift_clock($seconds);
    my $redis = $clock->preloaded(sub { IdempotencyTest::Redis->new(%options) });
    $redis->{clock} = $clock;
    return $redis;
}

sub clock_of {
    my ($redis) = @_;
    return $redis->command('TIME')->[0] - time;
}

sub shift_redis {
    my ($redis, $seconds) = @_;
    $redis->{clock}->shift_clock($seconds);
    ok await(sub { abs(clock_of($redis) - $seconds) < 5 }), "the clock of Redis is off by $seconds seconds";
}

# All outcomes of retries until the request in progress is known again, and then its response.
sub is_renewed_and_kept {
    my ($nginx, $running, $path, $key, $others) = @_;
    my %seen;
    my $response;

    # the lease is renewed within a second
    ok await(sub {
        $response = ask($nginx, "$path?gate=$key", $key);
        $seen{$response->code}++;
        $response->code eq 'request_in_progress';
    }, 10), 'the claim is renewed';
    like join(' ', sort keys %seen), $others, 'until then retries are refused' or diag explain \%seen;
    executions_are $path, 1, 'the request ran once';
    app()->open_gate($key);
    is_first $running->response, 201, 1, 'it gets its response';
    ok ask($nginx, "$path?gate=$key", $key)->is_replay, 'its retry gets a replay';
    executions_are $path, 1, 'it ran once';
}

subtest 'The clock of Redis jumps forward' => sub {
    my $redis = start_redis(0);
    my $nginx = start_nginx('redis://' . $redis->address);

    my $kept = ask($nginx, '/forward/kept', 'forward-kept');
    my $running = begin($nginx, '/forward', 'forward');
    my $long = begin($nginx, '/long/forward', 'long-forward');
    shift_redis($redis, 31);
    is_problem ask($nginx, '/long/forward?gate=long-forward', 'long-forward'), 409, 'outcome_unknown',
        'a claim whose lease has expired by the clock of Redis is not taken for free';
    is_renewed_and_kept($nginx, $running, '/forward', 'forward', qr/^(?:outcome_unknown )?request_in_progress$/);
    ok ask($nginx, '/forward/kept', 'forward-kept')->is_replay, 'a response that was kept before is replayed';
    app()->open_gate('long-forward');
    is_first $long->response, 201, 1, 'its request gets its response';
    ok ask($nginx, '/long/forward?gate=long-forward', 'long-forward')->is_replay, 'which is kept';
    executions_are '/long/forward', 1, 'it ran once';
    $nginx->stop;
};

subtest 'The clock of Redis jumps back' => sub {
    my $redis = start_redis(0);
    my $nginx = start_nginx('redis://' . $redis->address, workers => 1);

    my $kept = ask($nginx, '/back/kept', 'back-kept');
    my $running = begin($nginx, '/back', 'back');
    shift_redis($redis, -60);
    is_renewed_and_kept($nginx, $running, '/back', 'back', qr/^request_in_progress$/);
    ok ask($nginx, '/back/kept', 'back-kept')->is_replay, 'a response that was kept before is replayed';

    # the holder dies, and the clock goes back: its claim has a lease left, not a minute
    my $lost = begin($nginx, '/back/lost', 'back-lost');
    my $released = begin($nginx, '/release/lost', 'release-lost');
    my ($worker) = $nginx->workers;
    kill KILL => $worker;
    ok await(sub { my ($new) = $nginx->workers; $new && $new != $worker }), 'the worker is killed';
    shift_redis($redis, -120);

    my $begun = time;
    is_problem await_outcome($nginx, '/back/lost?gate=back-lost', 'back-lost'), 409, 'outcome_unknown', 'the key does not stay in progress';
    cmp_ok time - $begun, '<', 6, 'for longer than a lease';
    executions_are '/back/lost', 1, 'its request ran once';

    app()->open_gate('release-lost');
    is_first await_outcome($nginx, '/release/lost?gate=release-lost', 'release-lost'), 201, 2, 'with `idempotency_unknown release` the key is free';
    cmp_ok time - $begun, '<', 10, 'after a lease';
    $nginx->stop(allowed => qr/exited on signal 9/);
};

# The name of the socket that nginx connects to leads to the master.
for my $seconds (40, -40) {
    my $where = $seconds > 0 ? 'ahead' : 'behind';

    subtest "A failover to a replica whose clock is 40 seconds $where" => sub {
        my $master = IdempotencyTest::Redis->new;
        my $replica = start_redis($seconds, replica_of => $master);
        $master->await_replicas(1);

        my $directory = temporary_directory();
        my $name = "$directory/master.sock";
        symlink $master->socket, $name or die "symlink: $!\n";
        my $nginx = start_nginx("unix:$name", workers => 1);

        my $kept = ask($nginx, "/failover/$where/kept", "failover-$where-kept");
        my $running = begin($nginx, "/failover/$where", "failover-$where");
        $master->await_replication(1);
        $master->kill;
        unlink $name;
        symlink $replica->socket, $name or die "symlink: $!\n";
        $replica->command('REPLICAOF', 'NO', 'ONE');

        is_renewed_and_kept($nginx, $running, "/failover/$where", "failover-$where",
            $seconds > 0 ? qr/^(?:outcome_unknown )?request_in_progress(?: store_unavailable)?$/ : qr/^request_in_progress(?: store_unavailable)?$/);
        ok ask($nginx, "/failover/$where/kept", "failover-$where-kept")->is_replay, 'a response that was kept before is replayed';
        $nginx->stop;
    };
}

done_testing;
