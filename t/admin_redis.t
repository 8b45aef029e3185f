# idempotency_admin with Redis: near caches, several encryption keys, values that can't be read, a database, and the nodes of a cluster.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Redis;
use IdempotencyTest::RedisCluster;
use IdempotencyTest::RedisSentinel;
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

subtest 'A cluster' => sub {
    my $cluster = IdempotencyTest::RedisCluster->new;
    my $nginx = start_nginx("topology cluster; redis @{[$cluster->urls]}; connect_timeout 5s; timeout 5s;");
    is_erased($nginx, 'a cluster');
    $nginx->stop;
};

subtest 'A sentinel' => sub {
    my $sentinel = IdempotencyTest::RedisSentinel->new;
    my $nginx = start_nginx("topology sentinel @{[$sentinel->{name} // 'mymaster']}; redis @{[$sentinel->urls]}; connect_timeout 5s; timeout 5s;");
    is_erased($nginx, 'a sentinel');
    $nginx->stop;
};

done_testing;
