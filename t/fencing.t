# Fencing: the late response of an expired claim is delivered to its own client and replaces nothing.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app redis store_mode);
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Requests qw(@who);
use Time::HiRes qw(sleep);

my $is_redis = store_mode() eq 'redis';
my $prefix = "fencing:$$:";
my $lost = qr/\[error\].*idempotency: key [0-9a-f]{64} in store "main", token \d+: the claim was lost before its request ended.*client: "?unix:.*request(?:_line)?: "POST \//;

my $nginx = IdempotencyTest::Nginx->start(
    stores => 'idempotency_store main { ' . ($is_redis ? 'redis unix:' . redis()->socket . "; prefix $prefix; connect_timeout 200ms; timeout 500ms;" : 'memory 1m;') . ' }',
    log_format => '$request_uri $status [$idempotency_outcome]',
    server => <<'END');
        add_header X-Id $idempotency_key_id always;
        idempotency main;
        idempotency_lease 700ms;
        # the key is free when the lease has expired
        idempotency_unknown release;
        location / { proxy_pass http://app; }
        location /forgot { idempotency_lease 30s; proxy_pass http://app; }
END

my ($old, $young) = $nginx->workers;

sub ask {
    my ($path, $key) = @_;
    return $nginx->request(path => $path, key => $key, @who);
}

sub errors { return scalar grep { /$lost/ } split /\n/, $nginx->error_log }

sub halt {
    my ($worker) = @_;
    kill STOP => $worker;
    await(sub { slurp("/proc/$worker/stat") =~ /\) T / });
}

# A request of a worker that is stopped until the lease has expired, and the next request with this key, which the other
# worker has. The application has both.
sub two_executions {
    my ($path, $key, $query) = @_;
    my $uri = "$path?gate=$key" . ($query // '');
    my $late = $nginx->over($old, sub {
        my $client = $nginx->send_request(path => $uri, key => $key, @who);
        app()->await_arrival($path);
        return $client;
    });
    halt($old);

    my $next;
    await(sub {
        $next = $nginx->send_request(path => $uri, key => $key, @who);
        # it is refused at once, or the application has it
        await(sub { app()->count($path) > 1 || !$next->is_silent_for(0.01) });
        app()->count($path) > 1;
    });
    return $uri, $late, $next;
}

subtest 'The next request has finished' => sub {
    my $before = errors();
    my ($uri, $late, $next) = two_executions('/finished', 'finished');
    app()->open_gate('finished');
    my $second = $next->response;
    is_first $second, 201, 2, 'the next request gets its response';
    is_replay_of ask($uri, 'finished'), $second, 'and its response is kept';

    kill CONT => $old;
    is_first $late->response, 201, 1, 'the late response is delivered to its own client';
    ok $nginx->await_access_log(qr{^/finished\S* 201 \[lost\]$}), 'its outcome in the access log is `lost`';
    is_replay_of ask($uri, 'finished'), $second, 'and the newer response is kept';
    ok await(sub { errors() == $before + 1 }), 'an error is logged, with key id and token' or diag $nginx->error_log;
    is app()->count('/finished'), 2, 'there is no third execution';
};

subtest 'The next request runs' => sub {
    my $before = errors();
    my ($uri, $late, $next) = two_executions('/runs', 'runs');
    halt($young);
    app()->open_gate('runs');
    app()->await_answer('/runs', 2);
    kill CONT => $old;
    is_first $late->response, 201, 1, 'the late response is delivered to its own client';
    ok await(sub { errors() == $before + 1 }), 'an error is logged, with key id and token' or diag $nginx->error_log;

    kill CONT => $young;
    my $second = $next->response;
    is_first $second, 201, 2, 'the next request gets its response';
    is_replay_of ask($uri, 'runs'), $second, 'and its response is kept';
    is app()->count('/runs'), 2, 'there is no third execution';
};

# `status` is that of the first execution: it is retriable, so that the key would be free again
subtest 'A late release' => sub {
    my $before = errors();
    my ($uri, $late, $next) = two_executions('/release', 'release', '&status=503,201');
    app()->open_gate('release');
    my $second = $next->response;
    is_first $second, 201, 2, 'the next request gets its response';

    kill CONT => $old;
    is_first $late->response, 503, 1, 'the late response is delivered to its own client';
    is_replay_of ask($uri, 'release'), $second, 'and the key is not free';
    ok await(sub { errors() == $before + 1 }), 'an error is logged, with key id and token' or diag $nginx->error_log;
};

subtest 'An expired claim that no other claim follows' => sub {
    my $before = errors();
    my $late = $nginx->over($old, sub {
        my $client = $nginx->send_request(path => '/alone?gate=alone', key => 'alone', @who);
        app()->await_arrival('/alone');
        return $client;
    });
    halt($old);
    sleep 1;
    app()->open_gate('alone');
    app()->await_answer('/alone');
    kill CONT => $old;

    my $first = $late->response;
    is_first $first, 201, 1, 'its response is delivered';
    is_replay_of ask('/alone?gate=alone', 'alone'), $first, 'and is still kept';
    is errors(), $before, 'no error';
};

subtest 'A claim that Redis forgets' => sub {
    plan skip_all => 'is about the Redis store' if !$is_redis;

    for my $round (1 .. 5) {
        my ($path, $key) = ("/forgot$round", "forgot$round");
        my $before = errors();
        my $late = $nginx->send_request(path => "$path?gate=$key", key => $key, @who);
        app()->await_arrival($path);
        my $id = ask("$path?gate=$key", $key)->header('X-Id');
        redis()->command('DEL', "$prefix$id");

        my $next = $nginx->send_request(path => "$path?gate=$key", key => $key, @who);
        app()->await_arrival($path, 2);
        app()->open_gate($key);
        my ($first, $second) = map { $_->response } $late, $next;
        is_first $first, 201, 1, "the late response is delivered (round $round)";
        is_first $second, 201, 2, "and the response of the next request (round $round)";
        is_replay_of ask("$path?gate=$key", $key), $second, "the response of the next request is kept (round $round)";
        ok await(sub { errors() == $before + 1 }), "an error is logged (round $round)";
    }
};

$nginx->stop;
done_testing;
