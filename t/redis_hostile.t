# A node of a cluster that sends hostile maps, and very many stores: neither the memory nor the connections of a worker are used up.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Client qw(finish);
use IdempotencyTest::Environment qw(new_prefix store_mode);
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await temporary_directory);
use IdempotencyTest::Python qw(start_python_server);
use IdempotencyTest::Redis;
use IdempotencyTest::RedisCluster;
use IdempotencyTest::Requests qw(@who ask);

plan skip_all => 'is about the Redis store' if store_mode() ne 'redis';

# In IdempotencyTest::Nginx worker_connections is 512.
my $share = 256;
my $others = 20;    # files, listening sockets, connections of clients
my $plain = 'location /plain { return 200 ok; }';

# AddressSanitizer keeps freed memory for a while, which would be measured below.
$ENV{ASAN_OPTIONS} = join ':', $ENV{ASAN_OPTIONS}, 'quarantine_size_mb=1:thread_local_quarantine_size_kb=64' if $ENV{ASAN_OPTIONS};

sub descriptors { my ($nginx) = @_; return scalar(() = glob '/proc/' . ($nginx->workers)[0] . '/fd/*') }
sub megabytes { my ($nginx) = @_; return (split ' ', slurp('/proc/' . ($nginx->workers)[0] . '/statm'))[1] * 4096 / 2**20 }

sub hostile_node {
    my ($map) = @_;
    my $output = temporary_directory();
    my ($process, $port) = start_python_server(name => 'hostile_node', output => "$output/output", arguments => ['--map', $map]);
    return {process => $process, output => $output, url => "redis://127.0.0.1:$port"};
}

sub start_nginx {
    my ($node) = @_;
    return IdempotencyTest::Nginx->start(workers => 1, stores => "idempotency_store main { redis $node->{url}; topology cluster; }",
        server => "idempotency main; location / { proxy_pass http://app; } $plain");
}

subtest 'a map of 1,000 masters' => sub {
    my $node = hostile_node('masters');
    my $nginx = start_nginx($node);

    # connections to nodes that do not reply are closed after a while, so one round may not need the whole share
    my $round = 0;
    ok await(sub {
        $round++;
        my @running = map { $nginx->send_request(path => '/many', key => "many-$round-$_", @who) } 1 .. 200;
        my @plain = map { $nginx->request(path => '/plain')->status } 1 .. 20;
        is join(' ', @plain), join(' ', (200) x 20), 'other locations work';
        cmp_ok descriptors($nginx), '<=', $share + 200 + $others, 'a share of worker_connections is used';
        is scalar(grep { $_->status != 503 } finish(@running)), 0, 'the requests are refused';
        return $nginx->error_log =~ /too many connections to Redis/;
    }, 60), 'the log says that the share is used up';
    ok await(sub { descriptors($nginx) <= $share + $others }), 'there are no more, without other clients';
};

for my $map ('long', 'elements') {
    subtest "a map with too many bytes or elements: $map" => sub {
        my $node = hostile_node($map);
        my $nginx = start_nginx($node);
        my $before = megabytes($nginx);

        ok await(sub { (() = $nginx->error_log =~ /the query to redis .* failed/g) >= 3 }), 'the maps are refused';
        cmp_ok megabytes($nginx), '<', $before + 12, 'little memory is used for them';
        is ask($nginx, '/refused', "refused-$map")->status, 503, 'requests are refused';
    };
}

subtest '600 stores' => sub {
    my $redis = IdempotencyTest::Redis->new;
    my $prefix = new_prefix();
    my $url = 'redis://' . $redis->address;
    my $stores = join "\n", map { "idempotency_store s$_ { redis $url; prefix $prefix$_:; }" } 1 .. 600;
    my $locations = join "\n", map { "location /s$_/ { idempotency s$_; proxy_pass http://app; }" } 1 .. 600;
    my $nginx = IdempotencyTest::Nginx->new(workers => 1, stores => $stores, server => "$locations $plain");

    my ($status, $output) = $nginx->test_configuration;
    is $status, 0, 'the configuration is valid';
    like $output, qr/\[warn\].*"worker_connections 512" is few.*1800 connections.*opens 256 at most.*more than 3600/,
        'nginx -t says what it may need';

    $nginx->start;
    cmp_ok descriptors($nginx), '<', 200, 'no connection is opened before it is needed';
    is ask($nginx, "/s$_/x", "store-$_")->status, 201, "store $_ works" for 1, 300, 600;
    is ask($nginx, '/plain', 'plain')->status, 200, 'other locations work';
};

# Each has less than one connection.
subtest '300 clusters' => sub {
    my $cluster = IdempotencyTest::RedisCluster->new(masters => 1, replicas => 0, arguments => ['--cluster-announce-ip', '127.0.0.1']);
    my ($url, $prefix) = ($cluster->urls, new_prefix());
    my $stores = join "\n", map { "idempotency_store c$_ { redis $url; topology cluster; prefix $prefix$_:; }" } 1 .. 300;
    my $locations = join "\n", map { "location /c$_/ { idempotency c$_; proxy_pass http://app; }" } 1 .. 300;
    my $nginx = IdempotencyTest::Nginx->start(workers => 1, stores => $stores, server => "$locations $plain");

    for my $number (1, 150, 300) {
        ok await(sub { ask($nginx, "/c$number/x", "cluster-$number")->status == 201 }), "cluster $number works";
    }

    is ask($nginx, '/plain', 'plain')->status, 200, 'other locations work';
};

done_testing;
