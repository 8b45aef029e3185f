# `timeout` is for a reply that makes no progress: a slow way to Redis, and many large responses at once, are no fault. A
# connection that has died without a word is noticed after one `timeout`, or while it is idle.

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
use Time::HiRes qw(time);

plan skip_all => 'is about the Redis store' if store_mode() ne 'redis';

my $redis = IdempotencyTest::Redis->new;
my $relay = IdempotencyTest::Relay->new(to => $redis->socket);
my $server = <<'END';
        idempotency main;
        idempotency_max_body 8m;
        location / { proxy_pass http://app; }
END

sub start_nginx {
    return IdempotencyTest::Nginx->start(redis => $relay->url, workers => 1, server => $server, http => 'idempotency_store other { memory 1m; }', @_);
}

subtest 'A response that takes longer than `timeout`' => sub {
    my $nginx = start_nginx(store => 'timeout 500ms;');
    is ask($nginx, '/slow/small', 'slow-small')->status, 201, 'a request runs';

    # 6 MB in three seconds
    $relay->do('rate', 2_000_000);
    my $first = ask($nginx, '/slow?size=6000000', 'slow');
    is_first $first, 201, 1, 'a large response is delivered';
    is length $first->body, 6_000_000, 'all of it';
    like $nginx->await_access_log(qr{/slow\?}), qr/201/, 'and logged';
    unlike $nginx->error_log, qr/not recorded/, 'and kept at once';
    my $retry = ask($nginx, '/slow?size=6000000', 'slow');
    is_replay_of $retry, $first, 'and replayed';
    cmp_ok $retry->elapsed, '>', 1, 'over a slow connection';
    $relay->do('rate', 0);
    $nginx->stop;
};

subtest 'Many large responses at once' => sub {
    my $nginx = start_nginx(store => 'timeout 500ms;');
    my $many = 30;
    my @path = map { "/many/$_?size=300000" } 1 .. $many;
    is ask($nginx, '/many/small', 'many-small')->status, 201, 'a request runs';

    # 9 MB in some two seconds
    $relay->do('rate', 5_000_000);
    my @first = finish(map { $nginx->send_request(path => $_, key => $_ =~ tr{/?=}{---}r, @who) } @path);
    is scalar(grep { $_->status == 201 && !$_->is_replay } @first), $many, 'first requests run';
    unlike $nginx->error_log, qr/not recorded/, 'and all are kept at once';
    my @again = finish(map { $nginx->send_request(path => $_, key => $_ =~ tr{/?=}{---}r, @who) } @path);
    is scalar(grep { $again[$_]->is_replay && $again[$_]->lasting eq $first[$_]->lasting } 0 .. $#path), $many, 'and all are replayed';
    $relay->do('rate', 0);
    $nginx->stop;
};

subtest 'Equal replies are fetched once' => sub {
    my $nginx = start_nginx(store => 'timeout 500ms;');
    my $many = 60;
    my $first = ask($nginx, '/equal?size=500000', 'equal');
    is_first $first, 201, 1, 'a request runs';

    # without a share it would take six seconds
    $relay->do('rate', 5_000_000);
    my @again;
    my @commands = $redis->commands_during(sub {
        @again = finish(map { $nginx->send_request(path => '/equal?size=500000', key => 'equal', @who) } 1 .. $many);
    });
    $relay->do('rate', 0);
    is scalar(grep { $_->is_replay && $_->lasting eq $first->lasting } @again), $many, 'all retries are replayed to the byte';
    my $fetches = grep { /"GET"/i && !/lua/ } @commands;
    cmp_ok $fetches, '<', 12, "with few fetches ($fetches)";
    cmp_ok $fetches, '>', 0, 'but some';
    $nginx->stop;
};

subtest 'A connection that a firewall has forgotten' => sub {
    my $nginx = start_nginx(store => 'timeout 400ms; connect_timeout 2s;');
    my $first = ask($nginx, '/forgotten', 'forgotten');
    is_first $first, 201, 1, 'a request runs';

    for my $round (1 .. 3) {
        is ask($nginx, "/forgotten/before$round", "before$round")->status, 201, 'a request runs before';
        $relay->do('forget');
        my $start = time;
        is ask($nginx, "/forgotten/lost$round", "lost$round")->code, 'store_unavailable', 'a request whose command is lost is refused';
        my $answer;
        await(sub { $answer = ask($nginx, "/forgotten/after$round", "after$round"); $answer->status == 201 });
        # it would be four timeouts
        cmp_ok time() - $start, '<', 1.5, 'requests run again soon after one `timeout`';
        is_replay_of ask($nginx, '/forgotten', 'forgotten'), $first, 'what is kept is replayed';
    }
    like $nginx->error_log, qr/\[warn\].*replies over a new connection, and not over the one in use/, 'the log says what happened';
    $nginx->stop;
};

subtest 'An idle connection that a firewall has forgotten' => sub {
    my $nginx = start_nginx(store => 'timeout 400ms; connect_timeout 2s;');
    is ask($nginx, '/idle', 'idle')->status, 201, 'a request runs';
    $relay->do('forget');
    ok $nginx->await_error_log(qr/\[warn\].*replies over a new connection/), 'the connection is found to be dead without a request';
    is ask($nginx, '/idle/after', 'idle-after')->status, 201, 'the next request runs';
    $nginx->stop;
};

# A second connection does not help here, and calls are refused at once.
subtest 'A Redis that has stopped' => sub {
    my $nginx = start_nginx(redis => 'redis://' . $redis->address, store => 'timeout 400ms; connect_timeout 2s;');
    my $first = ask($nginx, '/stopped', 'stopped');
    is_first $first, 201, 1, 'a request runs';
    $redis->stall;
    is ask($nginx, '/stopped/1', 'stopped1')->code, 'store_unavailable', 'a request is refused';
    my @refused = map { ask($nginx, "/stopped/1$_", "stopped1$_") } 1 .. 5;
    is scalar(grep { $_->code eq 'store_unavailable' } @refused), 5, 'others too';
    $redis->resume;
    my $answer;
    await(sub { $answer = ask($nginx, '/stopped', 'stopped'); $answer->status == 201 });
    is_replay_of $answer, $first, 'then it works again';
    await(sub { $answer = ask($nginx, '/stopped/1', 'stopped1'); $answer->status == 201 });
    is_first $answer, 201, 1, 'the claim of the refused request was released';
    unlike $nginx->error_log, qr/replies over a new connection/, 'the connection is the same';
    $nginx->stop;
};

done_testing;
