# A claim that is granted late: a worker uses a claim only within its lease, by its own clock.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Redis;
use IdempotencyTest::Relay;
use IdempotencyTest::Requests qw(@who ask);
use Time::HiRes qw(sleep time);

plan skip_all => 'is about the Redis store' if store_mode() ne 'redis';

my $redis = IdempotencyTest::Redis->new;
my $relay = IdempotencyTest::Relay->new(to => $redis->socket);

my $server = <<'END';
        add_header X-Status $idempotency_status always;
        idempotency main;
        idempotency_lease 1s;
        location / { proxy_pass http://app; }
        location /release/ { idempotency_unknown release; proxy_pass http://app; }
        location /wait/ { idempotency_conflict wait 20s; proxy_pass http://app; }
END

sub start_nginx {
    my (%options) = @_;
    return IdempotencyTest::Nginx->start(server => $server, workers => 1, short_leases => 1, redis => $relay->url, %options);
}

sub keys_of { my ($nginx) = @_; return grep { /^\Q$nginx->{prefix}/ } @{$redis->command('KEYS', '*')} }

sub halt {
    my ($worker) = @_;
    kill STOP => $worker;
    await(sub { slurp("/proc/$worker/stat") =~ /\) T / });
}

# A request whose worker is stopped when Redis has granted the claim, and before the worker has read the reply.
sub claim_and_halt {
    my ($nginx, $path) = @_;
    is ask($nginx, '/connects', "connects-$path")->status, 201, 'nginx is connected';
    await(sub { keys_of($nginx) });
    $redis->command('DEL', $_) for keys_of($nginx);

    $relay->do('mute');
    my $client = $nginx->send_request(path => $path, key => $path, @who);
    ok await(sub { keys_of($nginx) }), 'Redis has granted the claim';
    halt($nginx->workers);
    $relay->do('pass');
    return $client;
}

my $nginx = start_nginx();
my $other = start_nginx(redis => 'unix:' . $redis->socket, prefix => $nginx->{prefix});

subtest 'A grant that is read after its lease' => sub {
    my $client = claim_and_halt($nginx, '/late');
    sleep 1.5;
    is_problem ask($other, '/late', '/late'), 409, 'outcome_unknown', 'another host takes its outcome for unknown';
    kill CONT => $nginx->workers;
    is_problem $client->response, 503, 'store_unavailable', 'the request is refused';
    ok await(sub { !keys_of($nginx) }, 1), 'its claim is released within a second';
    is app()->count('/late'), 0, 'the application has not got it';

    my $first = ask($other, '/late', '/late');
    is_first $first, 201, 1, 'a retry runs';
    sleep 1.5;
    is_replay_of ask($nginx, '/late', '/late'), $first, 'and its response is kept';
    is app()->count('/late'), 1, 'there is no second execution';
};

subtest 'A reply that takes longer than the lease' => sub {
    is ask($nginx, '/connects', 'connects-slow')->status, 201, 'nginx is connected';
    $relay->do('trickle', 0.3);
    is_problem ask($nginx, '/slow', 'slow'), 503, 'store_unavailable', 'the request is refused';
    is app()->count('/slow'), 0, 'the application has not got it';
    $relay->do('pass');
    my $first;
    await(sub { $first = ask($other, '/slow', 'slow'); $first->status != 409 }, 1.5);
    is_first $first, 201, 1, 'a retry runs within a second';
    sleep 1.5;
    is_replay_of ask($nginx, '/slow', 'slow'), $first, 'and its response is kept';
};

subtest 'A grant that is read within its lease' => sub {
    my $client = claim_and_halt($nginx, '/in-time');
    kill CONT => $nginx->workers;
    my $first = $client->response;
    is_first $first, 201, 1, 'the request runs';
    is_replay_of ask($other, '/in-time', '/in-time'), $first, 'and its response is kept';
};

# With idempotency_unknown release the key is free when the lease ends.
for my $is_finished (0, 1) {
    subtest 'Another request has the key: ' . ($is_finished ? 'it has finished' : 'it runs') => sub {
        my $path = "/release/taken$is_finished";
        my $client = claim_and_halt($nginx, $path);
        sleep 1.5;
        my $next = $other->send_request(path => $path . ($is_finished ? '' : "?gate=$path"), key => $path, @who);
        app()->await_arrival($path);
        my $second = $is_finished ? $next->response : undef;
        kill CONT => $nginx->workers;

        is_problem $client->response, 503, 'store_unavailable', 'the late request is refused';
        # its release must not free the key of the other request
        sleep 1.5;
        app()->open_gate($path) if !$is_finished;
        $second //= $next->response;
        is_first $second, 201, 1, 'the other request gets its response';
        is_replay_of ask($other, $path . ($is_finished ? '' : "?gate=$path"), $path), $second, 'which is kept';
        is app()->count($path), 1, 'there is no second execution';
    };
}

# The reply is late for a claim of a request that waits for its key.
subtest 'A request that waits for its key' => sub {
    my $first = $other->send_request(path => '/wait/late?gate=waits&status=503,201', key => 'waits', @who);
    app()->await_arrival('/wait/late');
    my $waits = $nginx->send_request(path => '/wait/late?gate=waits&status=503,201', key => 'waits', @who);
    ok $waits->is_silent_for(0.5), 'a duplicate waits';

    $relay->do('hold');
    sleep 0.4;
    halt($nginx->workers);
    app()->open_gate('waits');
    is_first $first->response, 503, 1, 'the first request is not acted on';
    $relay->do('pass');
    sleep 1.5;
    kill CONT => $nginx->workers;

    my $response = $waits->response;
    my $count = app()->count('/wait/late');
    ok $response->status == 503 && $count == 1 || $response->status == 201 && $count == 2, 'the duplicate runs with a valid claim, or not at all'
        or diag $response->head . $count;
    my $retry;
    await(sub { $retry = ask($other, '/wait/late?gate=waits&status=503,201', 'waits'); $retry->status == 201 });
    is app()->count('/wait/late'), 2, 'there is one execution of it';
};

$_->stop for $nginx, $other;

# A lease in which no reply could be read in time is refused by nginx -t. tests: lease, store directives, whether it is valid.
subtest 'A lease that is too short' => sub {
    my $redis_url = 'redis redis://127.0.0.1:6379;';

    for my $case (['1999ms', '', 0], ['2s', '', 1], ['1s', 'timeout 500ms;', 0], ['1s', 'timeout 500ms; connect_timeout 500ms;', 1], ['30s', 'timeout 30s;', 0],
        ['31s', 'timeout 30s;', 1], ['', 'timeout 30s;', 0], ['', 'timeout 29s;', 1])
    {
        my ($lease, $store, $is_valid) = @$case;
        my $directive = $lease ? "idempotency_lease $lease;" : '';
        my $name = ($directive || 'the default lease') . " $store";

        for my $where ('server', 'location', 'http') {
            my %parts = (
                server => "idempotency main; $directive",
                location => "location / { idempotency main; $directive }",
                http => 'location / { idempotency main; }',
            );
            my ($status, $output) = IdempotencyTest::Nginx->new(stores => "idempotency_store main { $redis_url $store }",
                http => $where eq 'http' ? $directive : '', server => $parts{$where})->test_configuration;
            if ($is_valid) {
                is $status, 0, "valid: $name ($where)" or diag $output;
            }
            else {
                isnt $status, 0, "refused: $name ($where)";
                like $output, qr/\[emerg\].*"idempotency_lease".*"main".*"connect_timeout" and "timeout"/, "the message tells why: $name ($where)";
            }
        }
    }

    my ($status, $output) = IdempotencyTest::Nginx->new(stores => 'idempotency_store main { memory 1m; }',
        server => 'idempotency main; idempotency_lease 100ms;')->test_configuration;
    is $status, 0, 'a memory store has no such limit' or diag $output;
    ($status, $output) = IdempotencyTest::Nginx->new(stores => "idempotency_store main { $redis_url }",
        server => 'idempotency_lease 100ms; location / { idempotency off; }')->test_configuration;
    is $status, 0, 'nor a location that is not covered' or diag $output;
};

done_testing;
