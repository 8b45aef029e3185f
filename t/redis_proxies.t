# Proxies in front of Redis, as Debian has them: twemproxy (nutcracker) shards by key, and HAProxy finds the master.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Client qw(finish);
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Files qw(slurp write_file);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await free_port temporary_directory);
use IdempotencyTest::Redis;
use IdempotencyTest::Requests qw(@who ask await_outcome begin);
use IO::Socket::INET;

plan skip_all => 'is about the Redis store' if store_mode() ne 'redis';

my $directory = temporary_directory();

sub program {
    my ($name) = @_;
    return (grep { -x } map { "$_/$name" } split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/sbin')[0];
}

# Starts a proxy; returns its process when it accepts connections at the port.
sub start_proxy {
    my ($port, $name, @command) = @_;
    my $process = IdempotencyTest::Process->start(name => $name, output => "$directory/$name.output", command => \@command);
    await(sub { !$process->is_running || IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) })
        && $process->is_running or die "$name does not start\n";
    return $process;
}

sub start_nginx {
    my ($port, %options) = @_;
    return IdempotencyTest::Nginx->start(redis => "redis://127.0.0.1:$port", store => 'connect_timeout 1s; timeout 1s;',
        workers => 1, server => 'idempotency main; idempotency_max_body 4m; location / { proxy_pass http://app; }', %options);
}

# What a client sees of it all: first requests, replays, a duplicate, large responses, a key that is released.
sub works {
    my ($nginx, $name) = @_;
    my @paths = map { "/$name/$_" } 1 .. 20;

    is scalar(grep { $_->status == 201 && !$_->is_replay } map { ask($nginx, $_, "$name$_" =~ tr{/}{-}r) } @paths), 20, 'first requests run';
    is scalar(grep { $_->is_replay } map { ask($nginx, $_, "$name$_" =~ tr{/}{-}r) } @paths), 20, 'and are replayed';

    my $running = begin($nginx, "/$name/slow", "$name-slow");
    is_problem ask($nginx, "/$name/slow?gate=$name-slow", "$name-slow"), 409, 'request_in_progress', 'a duplicate is refused';
    app()->open_gate("$name-slow");
    is $running->response->status, 201, 'the request ends';

    my $large = ask($nginx, "/$name/large?size=2000000", "$name-large");
    is $large->status, 201, 'a large response';
    is_replay_of await_outcome($nginx, "/$name/large?size=2000000", "$name-large"), $large, 'is replayed';

    is ask($nginx, "/$name/free?status=503", "$name-free")->status, 503, 'a response that frees its key';
    is ask($nginx, "/$name/free?status=503", "$name-free")->status, 503, 'and again';
    is app()->count("/$name/free"), 2, 'runs again';
    is app()->count($_), 1, "$_ ran once" for "/$name/slow", "/$name/large";
    return;
}

subtest 'twemproxy' => sub {
    my $nutcracker = program('nutcracker') or plan skip_all => 'nutcracker is not installed';
    my @redis = map { IdempotencyTest::Redis->new } 1 .. 2;
    my ($port, $stats) = (free_port(), free_port());

    write_file("$directory/nutcracker.yml", join "\n", 'shards:', "  listen: 127.0.0.1:$port", '  redis: true', '  hash: fnv1a_64',
        '  distribution: ketama', '  auto_eject_hosts: false', '  timeout: 2000', '  servers:', (map { '   - ' . $_->address . ':1' } @redis), '');
    my $proxy = start_proxy($port, 'nutcracker', $nutcracker, '-c', "$directory/nutcracker.yml", '-s', $stats);
    my $nginx = start_nginx($port);
    works($nginx, 'twemproxy');
    cmp_ok $_->command('DBSIZE'), '>', 3, 'a server has a part of the keys' for @redis;

    $redis[0]->kill;
    my @answers = map { ask($nginx, "/twemproxy/$_", "twemproxy-twemproxy-$_") } 1 .. 20;
    is scalar(grep { $_->is_replay || $_->code eq 'store_unavailable' } @answers), 20, 'without one server, nothing runs again';
    is app()->count("/twemproxy/$_"), 1, "$_ ran once" for 1 .. 20;
    $nginx->check_error_log;
};

subtest 'HAProxy' => sub {
    my $haproxy = program('haproxy') or plan skip_all => 'haproxy is not installed';
    my $master = IdempotencyTest::Redis->new;
    my $replica = IdempotencyTest::Redis->new(replica_of => $master);
    my $port = free_port();
    my @servers = map { "    server s$_->[0] " . $_->[1]->address . ' check inter 100ms rise 1 fall 1 on-marked-down shutdown-sessions' }
        [1, $master], [2, $replica];

    write_file("$directory/haproxy.cfg", join "\n", 'defaults', '    mode tcp', '    timeout connect 1s', '    timeout client 1h', '    timeout server 1h',
        'frontend redis', "    bind 127.0.0.1:$port", '    default_backend masters', 'backend masters', '    option tcp-check',
        '    tcp-check send info\ replication\r\n', '    tcp-check expect string role:master', @servers, '');
    my $proxy = start_proxy($port, 'haproxy', $haproxy, '-db', '-f', "$directory/haproxy.cfg");
    # until it has checked them, it uses all servers
    ok await(sub { slurp("$directory/haproxy.output") =~ /s2 is DOWN/ }), 'HAProxy has found the master';
    my $nginx = start_nginx($port);
    works($nginx, 'haproxy');

    # another master: HAProxy closes the connections to the old one
    ok await(sub { $replica->command('INFO', 'replication') =~ /master_link_status:up/ }), 'the replica follows';
    # WAIT is for what this connection has written
    $master->command('SET', 'last', 1);
    ok await(sub { $master->command('WAIT', 1, 100) == 1 }), 'and has everything';
    $master->kill;
    $replica->command('REPLICAOF', 'NO', 'ONE');
    ok await(sub { ask($nginx, '/haproxy/1', 'haproxy-haproxy-1')->is_replay }), 'kept responses are replayed from the new master';
    is scalar(grep { $_->is_replay } map { ask($nginx, "/haproxy/$_", "haproxy-haproxy-$_") } 1 .. 20), 20, 'all of them';
    is ask($nginx, '/haproxy/new', 'haproxy-new')->status, 201, 'and new requests run';
    is app()->count("/haproxy/$_"), 1, "$_ ran once" for 1 .. 20;
    $nginx->check_error_log;
};

done_testing;
