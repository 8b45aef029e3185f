# What is wrong with the configuration of Redis is one line in the log that says what it is and what to do.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(store_mode);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Redis;
use IdempotencyTest::RedisCluster;
use IdempotencyTest::Requests qw(ask);

plan skip_all => 'is about the Redis store' if store_mode() ne 'redis';

my $server = <<'END';
        location = /status { idempotency_status json; }
        location / { idempotency main; proxy_pass http://app; }
END

sub start_nginx {
    my ($url) = @_;
    return IdempotencyTest::Nginx->start(redis => $url, workers => 1, server => $server);
}

# Each is a configuration of Redis, and what the log says.
my @refused = (
    ['EVALSHA is renamed', "rename-command EVALSHA \"\"\n", qr/\[error\].*replied to claim with ERR.*remove its rename-command/],
    ['EVAL is renamed', "rename-command EVAL \"\"\n", qr/\[error\].*replied to claim with ERR.*remove its rename-command/],
    ['a command of the scripts is renamed', "rename-command PTTL \"\"\n", qr/\[error\].*replied to claim with ERR.*a script cannot run.*remove rename-command/],
);

for my $case (@refused) {
    my ($name, $configuration, $line) = @$case;

    subtest $name => sub {
        my $redis = IdempotencyTest::Redis->new(configuration => $configuration, arguments => []);
        my $nginx = start_nginx('redis://' . $redis->address);
        is_problem ask($nginx, "/$_", "key-$_"), 503, 'store_unavailable', 'a request is refused' for 1 .. 20;
        ok $nginx->await_error_log($line), 'the log says what to do';
        my $lines = () = $nginx->error_log =~ /\[error\].*idempotency: redis/g;
        cmp_ok $lines, '<', 5, 'not once a request';
        $nginx->stop;
    };
}

subtest 'A user that may not run scripts' => sub {
    my $redis = IdempotencyTest::Redis->new;
    $redis->command(qw(ACL SETUSER shop on >word ~* +@all -@scripting));
    my $nginx = start_nginx('redis://shop:word@' . $redis->address);
    is_problem ask($nginx, '/scripts', 'scripts'), 503, 'store_unavailable', 'a request is refused';
    ok $nginx->await_error_log(qr/\[error\].*replied to claim with NOPERM.*allow the commands and keys of the ACL in docs\/redis\.md/), 'the log says what to do';
    $nginx->stop;
};

subtest 'A maxmemory-policy that evicts' => sub {
    my $redis = IdempotencyTest::Redis->new;
    $redis->command(qw(CONFIG SET maxmemory-policy volatile-lru));
    my $nginx = start_nginx('redis://' . $redis->address);
    is ask($nginx, '/evicts', 'evicts')->status, 201, 'a request runs';
    ok $nginx->await_error_log(qr/\[warn\].*redis "\Q${\ $redis->address}\E" of store "main": it may evict.*set maxmemory-policy noeviction/), 'the log warns';

    # a server that is correct gets no line
    $redis->command(qw(CONFIG SET maxmemory-policy noeviction));
    my $good = start_nginx('redis://' . $redis->address);
    is ask($good, '/good', 'good')->status, 201, 'a request runs';
    ok await(sub { $redis->command('INFO', 'commandstats') =~ /cmdstat_info:calls=[3-9]/ }), 'the other one is checked, too';
    unlike $good->error_log, qr/\[(?:warn|error)\].*idempotency/, 'without a line';
    $_->stop for $good, $nginx;
};

subtest 'A node of a cluster, without "topology cluster"' => sub {
    my $cluster = IdempotencyTest::RedisCluster->new;
    my ($node) = $cluster->masters;
    my $nginx = start_nginx('redis://' . $node->address);
    my @answers = map { ask($nginx, "/cluster/$_", "cluster-$_") } 1 .. 40;
    my $refused = grep { $_->code eq 'store_unavailable' } @answers;
    cmp_ok $refused, '>', 0, 'some keys are refused';
    cmp_ok $refused, '<', 40, 'and some are not';
    ok $nginx->await_error_log(qr/\[error\].*redis "\Q${\ $node->address}\E" of store "main" is a node of a cluster.*set "topology cluster"/), 'the log says what to do';
    is scalar(() = $nginx->error_log =~ /is a node of a cluster/g), 1, 'once';
    like $nginx->request(path => '/status', method => 'GET')->body, qr{"store_up": 0}, 'and the status page does not say that the store works';
    $nginx->stop;
};

done_testing;
