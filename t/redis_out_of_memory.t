# Each allocation fails in turn, with each kind of a Redis store: those of a request, and those that find the servers
# and reconnect to them. No crash, only the correct response or an error; then the store works again.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use IdempotencyTest::SingleAllocations;

use Digest::SHA qw(sha256);
use Test::More;
use Time::HiRes qw(sleep time);
use IdempotencyTest::Certificates;
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Faults;
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await temporary_directory);
use IdempotencyTest::Redis;
use IdempotencyTest::RedisCluster;
use IdempotencyTest::RedisSentinel;
use IdempotencyTest::Requests qw(@who);

plan skip_all => 'is about the Redis store' if store_mode() ne 'redis';

use constant {
    SECONDS => 60,          # for each kind of failures, at the most: then the steps were too small
    LONGEST_REST => 2,      # until a connection is tried again
};

my $faults = IdempotencyTest::Faults->new('failing_malloc');
my $n = 0;

my $directory = temporary_directory();

sub key_file {
    my ($name) = @_;
    my $file = "$directory/$name.key";
    open my $out, '>:raw', $file or die "$file: $!\n";
    print $out sha256($name);
    close $out or die "$file: $!\n";
    return $file;
}

# A kind of store: directives, and the servers of its connections. If a request or a connection has very many
# allocations, every Nth of them fails.
my %kind = (
    'a near cache' => sub {
        my $redis = IdempotencyTest::Redis->new;
        return {store => 'redis unix:' . $redis->socket . '; near_cache 4m;', servers => [$redis]};
    },
    'encryption' => sub {
        my $redis = IdempotencyTest::Redis->new;
        return {store => 'redis unix:' . $redis->socket . '; encryption_key_file ' . join(' ', map { key_file($_) } 'one', 'two') . ';', servers => [$redis]};
    },
    'replicas' => sub {
        my $master = IdempotencyTest::Redis->new;
        my $replica = IdempotencyTest::Redis->new(replica_of => $master);
        $master->await_replicas(1);
        $master->await_replication(1);
        return {store => 'redis redis://' . $master->address . '; wait_replicas 1 5s; timeout 5s;', lease => '7s', servers => [$master], alive => [$replica]};
    },
    'TLS' => sub {
        my $authority = IdempotencyTest::Certificates->new;
        my $redis = IdempotencyTest::Redis->new(tls => $authority->server);
        return {store => 'redis rediss://localhost:' . $redis->tls_port . '; ssl_trusted_certificate ' . $authority->authority . ';',
            servers => [$redis], request_step => 7, connection_step => 97, alive => [$authority]};
    },
    'sentinels' => sub {
        my $watched = IdempotencyTest::RedisSentinel->new;
        return {store => 'redis ' . $watched->urls . '; topology sentinel ' . $watched->name . ';', servers => [$watched->master, $watched->sentinels],
            connection_step => 5, alive => [$watched]};
    },
    'a cluster' => sub {
        my $cluster = IdempotencyTest::RedisCluster->new(replicas => 0);
        return {store => 'redis ' . $cluster->urls . '; topology cluster;', servers => [$cluster->nodes], connection_step => 7, alive => [$cluster]};
    },
);

# Whether a new request and its replay work.
sub store_works {
    my ($nginx) = @_;
    my %probe = (path => '/probe' . ++$n, key => "probe$n", @who);
    return $nginx->request(%probe)->status == 201 && $nginx->request(%probe)->is_replay;
}

# Connections of nginx; connections between servers have another name in CLIENT LIST.
sub drop_connections {
    for my $server (@_) {
        eval { $server->command('CLIENT', 'KILL', 'TYPE', $_, 'SKIPME', 'yes') } for 'normal', 'pubsub';
    }
}

for my $name (sort keys %kind) {
    my $kind = $kind{$name}->();
    my $nginx = IdempotencyTest::Nginx->new(workers => 1, stores => "idempotency_store main { $kind->{store} }", server => <<"END");
        idempotency main;
        idempotency_lease ${\($kind->{lease} // '2s')};
        location / { proxy_pass http://app; }
        location /probe { idempotency_lease 30s; proxy_pass http://app; }
        location = /figures { idempotency_status; }
END
    $faults->preloaded(sub { $nginx->start });
    my ($worker) = $nginx->workers;
    ok await(sub { store_works($nginx) }), "$name: the store works";

    # Requests
    my (@all, @wrong);
    my $until = time + SECONDS;
    my $failed = 1;

    for (my $nth = 1; $failed && time < $until; $nth += $kind->{request_step} // 1) {
        my %request = (path => '/oom' . ++$n, key => "oom$n", @who);
        $faults->arm($worker, $nth);
        my $answer = $nginx->request(%request);
        my $again = $nginx->request(%request);
        my $figures = $nginx->request(path => '/figures', method => 'GET');
        $failed = $faults->has_failed;
        $faults->disarm;

        my @ends = map { $_->status } $answer, $again, $figures;
        push @all, {nth => $nth, request => \%request, delivered => scalar grep { $_->status == 201 } $answer, $again};
        push @wrong, "allocation $nth: @ends" if !$failed && "@ends" ne '201 201 200' || grep { !/^(?:0|20[01]|409|50[023])$/ } @ends;
        await(sub { store_works($nginx) }) or push @wrong, "allocation $nth: the store does not work again" and last;
    }

    is join("\n", @wrong), '', "$name: each response is correct or an error, whichever of ${\scalar @all} allocations fails";
    ok !$failed, "$name: and each has failed";
    cmp_ok scalar(@all), '>', 5, "$name: there are allocations";
    is join(' ', $nginx->workers), $worker, "$name: and nginx still runs";

    # the leases expire
    sleep(($kind->{lease} // '2s') =~ s/s//r + 0.5);
    @wrong = ();

    for my $one (@all) {
        my $retry = $nginx->request(%{$one->{request}});
        my $count = app()->count($one->{request}{path});
        # nginx takes a request for sent before it has the memory to send it
        my $works = $retry->status == 201 || $retry->code =~ /^(?:response_not_kept|outcome_unknown)$/;
        push @wrong, "allocation $one->{nth}: the retry gets " . $retry->status_line . ' ' . $retry->code . ", $count executions"
            if !$works || $count > 1 || $count < ($retry->code eq 'outcome_unknown' ? 0 : 1);
    }

    is join("\n", @wrong), '', "$name: when the lease has expired each key works, and no request has run twice";

    # Connections
    my ($nth, $works) = (1, 1);
    $until = time + SECONDS;

    for ($failed = 1; $failed && $works && time < $until; $nth += $kind->{connection_step} // 1) {
        $faults->arm($worker, $nth);
        drop_connections(@{$kind->{servers}});
        $failed = await(sub { $faults->has_failed }, LONGEST_REST);
        $faults->disarm;
        $works = await(sub { store_works($nginx) });
    }

    ok $works, "$name: the connections are made again, whichever of $nth allocations fails";
    ok !$failed, "$name: and each has failed";
    is join(' ', $nginx->workers), $worker, "$name: and nginx still runs";
    $nginx->stop(allowed => qr/(?:malloc|memalign)\(.*failed|no memory|SSL_\w+\(\) failed.*malloc failure/);
}

done_testing;
