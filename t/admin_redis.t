# idempotency_admin with Redis: near caches, several encryption keys, values that can't be read, a database, and the nodes of a cluster.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Time::HiRes qw(time);
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Redis;
use IdempotencyTest::RedisCluster;
use IdempotencyTest::RedisSentinel;
use IdempotencyTest::Relay;
use IdempotencyTest::Requests qw(@who ask begin);

plan skip_all => 'is about the Redis store' if store_mode() ne 'redis';

my $redis = IdempotencyTest::Redis->new;
my $server = <<'END';
        add_header X-Id $idempotency_key_id always;
        idempotency main;
        idempotency_scope $http_x_api_key;
        location / { proxy_pass http://app; }
        location /broken/ { proxy_read_timeout 200ms; proxy_next_upstream off; proxy_pass http://app; }
        location = /admin { idempotency_admin; allow unix:; deny all; }
END

sub start_nginx {
    my ($store, %options) = @_;
    return IdempotencyTest::Nginx->start(server => $server, stores => "idempotency_store main { $store }", %options);
}

sub admin {
    my ($nginx, $method, $arguments, @headers) = @_;
    return $nginx->request(method => $method, path => "/admin?store=main$arguments", headers => ['Idempotency-Admin: 1', @headers]);
}

sub named { my ($key) = @_; return ("Idempotency-Key: $key", 'Idempotency-Scope: alice') }

# The end of an erasure of the keys of alice.
sub erase {
    my ($nginx) = @_;
    my $begun = admin($nginx, 'DELETE', '', 'Idempotency-Scope: alice')->json;
    my $progress;
    await(sub { $progress = admin($nginx, 'GET', "&erasure=$begun->{erasure}")->json; $progress->{state} ne 'running' }, 60);
    return $progress;
}

# Keeps so many keys, and erases them.
sub is_erased {
    my ($nginx, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $place = $what =~ tr/a-z//cdr;
    erase($nginx);
    ask($nginx, "/$place", "$place-$_") for 1 .. 30;
    $nginx->request(path => "/$place", key => "$place-$_", headers => ['X-API-Key: bob']) for 1 .. 10;
    my $progress = erase($nginx);
    is "$progress->{state} $progress->{forgotten} $progress->{unreadable}", 'done 30 0', "$what: all keys of the scope are erased";
    is scalar(grep { admin($nginx, 'GET', '', "Idempotency-Key: $place-$_", 'Idempotency-Scope: bob')->status != 200 } 1 .. 10), 0, "$what: no others";
    is scalar(grep { admin($nginx, 'GET', '', named("$place-$_"))->status != 404 } 1 .. 30), 0, "$what: none is left";
}

subtest 'Near caches' => sub {
    my $store = 'redis unix:' . $redis->socket . '; prefix near:; near_cache 1m;';
    my ($one, $two) = map { start_nginx($store) } 1 .. 2;
    my $first = ask($one, '/near', 'near');
    ask($_, '/near', 'near') for $one, $two;
    my $id = $first->header('X-Id');
    my $key;
    my @said = $redis->commands_during(sub { $key = admin($one, 'GET', "&id=$id")->json });
    is $key->{state}, 'kept', 'a key is looked up';
    is scalar(grep { /EVAL/ } @said), 1, 'in Redis, not in the near cache';
    is admin($one, 'DELETE', "&id=$id")->json->{done}, 'forgotten', 'it is forgotten';
    is_replay_of ask($two, '/near', 'near'), $first, 'another host still has its copy';
    is_first ask($one, '/near', 'near'), 201, 2, 'this host has forgotten it';
    ask($_, '/near-gone', 'near-gone') for $one, $two;
    admin($one, 'DELETE', '', named('near-gone'));
    is admin($two, 'DELETE', '', named('near-gone'))->json->{code}, 'key_not_found', 'the other host says that a key is free';
    is_first ask($two, '/near-gone', 'near-gone'), 201, 2, 'so it has no copy either';
    is_erased($one, 'a near cache');
    is_first ask($one, '/neverseen', 'near-erased'), 201, 1, 'a request runs';
    erase($one);
    is_first ask($one, '/neverseen', 'near-erased'), 201, 2, 'an erased key is not in the near cache of this host';
    $_->stop for $one, $two;
};

subtest 'Several encryption keys' => sub {
    my $nginx = IdempotencyTest::Nginx->new(server => $server);
    my @files = map { my $file = $nginx->write_file("$_.key", $_ x 64); chmod 0600, $file; $file } 'a', 'b';
    my $store = sub { 'idempotency_store main { redis unix:' . $redis->socket . "; prefix sealed:; encryption_key_file @_; }" };
    my $contents = sub { scalar grep { /^sealed:/ } keys %{$redis->contents} };
    $nginx->set(stores => $store->(@files))->start;

    my $first = ask($nginx, '/sealed', 'sealed');
    my $id = $first->header('X-Id');
    is $contents->(), 2, 'a response is kept under two names';
    my @names = map { substr $_, length 'sealed:' } grep { /^sealed:/ } keys %{$redis->contents};
    for my $name (@names) {
        is admin($nginx, 'GET', "&id=$name")->json->{id}, $id, 'it is found by each of them';
    }
    is admin($nginx, 'GET', '', named('sealed'))->json->{id}, $id, 'and by key and scope';
    is admin($nginx, 'DELETE', '&id=' . (grep { $_ ne $id } @names)[0])->json->{done}, 'forgotten', 'it is forgotten by the other one';
    is $contents->(), 0, 'under both';

    my $running = begin($nginx, '/sealed-running', 'sealed-running');
    is admin($nginx, 'DELETE', '&force=1', named('sealed-running'))->json->{was}, 'running', 'a running key is freed';
    is admin($nginx, 'GET', '', named('sealed-running'))->status, 404, 'under both';
    app()->open_gate('sealed-running');
    is_first $running->response, 201, 1, 'its request ends';
    is admin($nginx, 'GET', '', named('sealed-running'))->status, 404, 'and its response is not kept';

    is ask($nginx, '/broken/sealed?gate=never', 'sealed-lost')->status, 504, 'an outcome is unknown';
    is admin($nginx, 'POST', '&outcome=not_kept', named('sealed-lost'))->json->{done}, 'not_kept', 'it is settled';
    is_problem ask($nginx, '/broken/sealed?gate=never', 'sealed-lost'), 409, 'response_not_kept', 'a retry is told so';
    is admin($nginx, 'DELETE', '', named('sealed-lost'))->status, 200, 'it is forgotten';
    is_erased($nginx, 'two keys');
    ask($nginx, '/left', 'left');
    my $before = $contents->();
    $nginx->set(stores => $store->($files[0]))->reload;
    is erase($nginx)->{state}, 'done', 'with the first key alone the keys are erased';
    is $contents->(), $before - 2, 'under both names';
    is_erased($nginx, 'one key');
    $nginx->stop;
};

subtest 'A value that can\'t be read' => sub {
    my $nginx = start_nginx('redis unix:' . $redis->socket . '; prefix damaged:;');
    my $id = ask($nginx, '/damaged', 'damaged')->header('X-Id');
    for my $value (['a text' => sub { $redis->command('SET', "damaged:$id", 'hello', 'PX', 60_000) }], ['no string' => sub { $redis->command('DEL', "damaged:$id"); $redis->command('RPUSH', "damaged:$id", 'hello') }]) {
        my ($what, $write) = @$value;
        $write->();
        is admin($nginx, 'GET', "&id=$id")->json->{state}, 'unreadable', "$what is unreadable";
        is admin($nginx, 'DELETE', "&id=$id")->json->{code}, 'key_unreadable', 'it is not forgotten';
        is admin($nginx, 'DELETE', "&id=$id&force=1")->json->{was}, 'unreadable', 'unless it is forced';
        ok !$redis->command('EXISTS', "damaged:$id"), 'then it is gone';
    }
    $redis->kill;
    is admin($nginx, 'GET', "&id=$id")->json->{code}, 'store_unavailable', 'without Redis nothing is known';
    $redis->start;
    $nginx->stop(allowed => qr/\[crit\].*connect\(\)/);
};

subtest 'A database, and a prefix with special characters' => sub {
    my $nginx = start_nginx('redis unix:' . $redis->socket . '; database 2; prefix "a*[b]?:";');
    is_erased($nginx, 'a database');
    $nginx->stop;
};

subtest 'Each change is replaced only where it was seen' => sub {
    my $nginx = start_nginx('redis unix:' . $redis->socket . '; prefix seen:;', workers => 1);
    my $running = begin($nginx, '/seen', 'seen');
    my $found = admin($nginx, 'GET', '', named('seen'))->json;
    is $found->{state}, 'running', 'a key is running';
    app()->open_gate('seen');
    $running->response;
    is admin($nginx, 'GET', '', named('seen'))->json->{claim}, $found->{claim}, 'the outcome has the id of its claim';
    $nginx->stop;
};

subtest 'A holder does not know yet that its unknown outcome was recorded' => sub {
    my $relay = IdempotencyTest::Relay->new(to => $redis->socket);
    my $prefix = 'prefix untold:;';
    my $holder = start_nginx('redis ' . $relay->url . "; $prefix timeout 300ms;", workers => 1);
    my $other = start_nginx('redis unix:' . $redis->socket . "; $prefix", workers => 1);
    my $told = sub { scalar(() = $holder->error_log =~ /the claim was lost before|the outcome is unknown:/g) };
    is ask($holder, '/broken/untold-0?gate=never', 'untold-0')->status, 504, 'Redis has the script';
    for my $change (['POST', '&outcome=released'], ['DELETE', '&force=1']) {
        my ($method, $arguments) = @$change;
        my $key = "untold-$method";
        my $before = $told->();
        my $running = begin($holder, "/broken/$key", $key);
        $relay->do('mute');
        is $running->response->status, 504, 'an outcome is unknown';
        ok await(sub { admin($other, 'GET', '', named($key))->json->{state} eq 'unknown' }), 'it is recorded, and the holder was not told so';
        is admin($other, $method, $arguments, named($key))->json->{was}, 'unknown', "$method frees the key";
        $relay->do('pass');
        ok await(sub { $told->() > $before }), 'the holder tells the store again';
        is admin($other, 'GET', '', named($key))->status, 404, 'the key stays free';
    }
    $_->stop(allowed => qr/\[(?:crit|error)\]/) for $holder, $other;
};

subtest 'The connections of an erasure' => sub {
    my $large = IdempotencyTest::Redis->new(arguments => ['--enable-debug-command', 'yes']);
    $large->command('DEBUG', 'POPULATE', 100_000, 'other');
    my $nginx = start_nginx('redis unix:' . $large->socket . ';', workers => 1);
    my $before = $large->info('total_connections_received');
    my $begun = time;
    is erase($nginx)->{state}, 'done', 'an erasure ends';
    my $steps = $large->info('total_connections_received') - $before;
    cmp_ok $steps, '>=', 150, 'it has made many steps';
    cmp_ok $steps / (time - $begun), '<=', 200, 'not so fast that it uses up the ports of this host';
    $nginx->stop;
};

subtest 'A cluster' => sub {
    my $cluster = IdempotencyTest::RedisCluster->new;
    my $nginx = start_nginx("topology cluster; redis @{[$cluster->urls]}; connect_timeout 5s; timeout 5s;");
    is_erased($nginx, 'a cluster');
    $nginx->stop;
};

subtest 'A failover in a cluster during an erasure' => sub {
    my $cluster = IdempotencyTest::RedisCluster->new(arguments => ['--enable-debug-command', 'yes']);
    my $nginx = start_nginx("topology cluster; redis @{[$cluster->urls]}; connect_timeout 5s; timeout 5s;", workers => 1);
    ask($nginx, '/failover', "failover-$_") for 1 .. 30;
    my @masters = $cluster->masters;
    # so that the walk takes some seconds
    $_->command('DEBUG', 'POPULATE', 100_000, 'other') for @masters;
    my ($replica) = grep { my $node = $_; !grep { $_ == $node } @masters } $cluster->nodes;
    my $begun = admin($nginx, 'DELETE', '', 'Idempotency-Scope: alice')->json;
    $replica->command('CLUSTER', 'FAILOVER');
    ok await(sub { $replica->is_master }), 'a replica is promoted';
    my $progress;
    my $n = 0;
    await(sub {
        $nginx->request(path => '/others', key => 'others-' . $n++, headers => ['X-API-Key: bob']);
        $progress = admin($nginx, 'GET', "&erasure=$begun->{erasure}")->json;
        return $progress->{state} ne 'running';
    }, 60);
    is $progress->{state}, 'done', 'the erasure ends';
    cmp_ok $progress->{restarts}, '>', 0, 'it has begun again';
    is scalar(grep { admin($nginx, 'GET', '', named("failover-$_"))->status != 404 } 1 .. 30), 0, 'no key is left';
    $nginx->stop(allowed => qr/\[error\]/);
};

subtest 'A sentinel' => sub {
    my $sentinel = IdempotencyTest::RedisSentinel->new;
    my $nginx = start_nginx("topology sentinel @{[$sentinel->{name} // 'mymaster']}; redis @{[$sentinel->urls]}; connect_timeout 5s; timeout 5s;");
    is_erased($nginx, 'a sentinel');
    $nginx->stop;
};

done_testing;
