# Leases: a claim is renewed while its request runs, and expires one lease after the last renewal if nginx was killed. With
# `idempotency_unknown release` the key is free then (for the other policies see unknown.t).

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app redis store_mode);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Requests qw(@who ask begin other_outcomes);
use Time::HiRes qw(sleep time);

my $is_redis = store_mode() eq 'redis';

my $server = <<'END';
        add_header X-Id $idempotency_key_id always;
        idempotency main;
        idempotency_lease 1s;
        idempotency_unknown release;
        location / { proxy_pass http://app; }
        location /many/ { idempotency_lease 3s; proxy_pass http://app; }
END

sub start_nginx {
    my (%options) = @_;
    return IdempotencyTest::Nginx->start(server => $server, memory => '1m', short_leases => 1, %options);
}

# Retries until the response is not a 409. Returns the time, and the response.
sub await_end_of_claim {
    my ($nginx, $path, $key) = @_;
    my $answer;
    await(sub { $answer = ask($nginx, $path, $key); $answer->status != 409 });
    return time, $answer;
}

subtest 'A request that runs for several leases' => sub {
    my $nginx = start_nginx();
    my $running = begin($nginx, '/long', 'long');
    is join(', ', other_outcomes($nginx, '/long?gate=long', 'long', 3.5)), '', 'each retry gets request_in_progress';
    is app()->count('/long'), 1, 'it runs once';
    app()->open_gate('long');
    my $first = $running->response;
    is_first $first, 201, 1, 'and gets its response';
    is_replay_of ask($nginx, '/long?gate=long', 'long'), $first, 'and its response is kept';
    $nginx->stop;
};

subtest 'A worker is killed' => sub {
    my $nginx = start_nginx();

    for my $leases (0, 1.5) {
        my ($path, $key) = ("/dies$leases", "dies$leases");
        my $sent = time;
        my $running = begin($nginx, $path, $key);
        sleep $leases;

        my $killed = time;
        my @workers = $nginx->workers;
        kill KILL => @workers;
        $running->close;
        await(sub { 2 == grep { my $pid = $_; !grep { $_ == $pid } @workers } $nginx->workers });

        # the gate is still closed: only the arrival of the second execution can be seen
        my @refused;
        my $second;
        my $is_free = await(sub {
            $second = $nginx->send_request(path => "$path?gate=$key", key => $key, @who);
            await(sub { app()->count($path) > 1 || !$second->is_silent_for(0) });
            app()->count($path) > 1 or push(@refused, $second->response->code) && 0;
        }, 8);
        ok $is_free, "the claim ends (after $leases leases)" or last;
        app()->await_arrival($path, 2);
        my $ended = time;
        is scalar(grep { $_ ne 'request_in_progress' } @refused), 0, "until the claim ends, retries are refused (after $leases leases)";
        cmp_ok $ended, '>=', $sent + 1, "the claim does not end before its lease (after $leases leases)";
        cmp_ok $ended, '>=', $killed + 0.3, "nor before a lease after its last renewal (after $leases leases)" if $leases;
        cmp_ok $ended, '<=', $killed + 2.5, "nor much after (after $leases leases)";
        app()->open_gate($key);
        is_first $second->response, 201, 2, "then the next request runs (after $leases leases)";
    }

    $nginx->stop(allowed => qr/exited on signal 9/);
};

subtest 'An nginx is killed, and another one uses the same Redis' => sub {
    plan skip_all => 'the memory store dies with its nginx' if !$is_redis;
    my $nginx = start_nginx();
    my $other = start_nginx(prefix => $nginx->{prefix}, workers => 1);
    my $running = begin($nginx, '/host', 'host');
    sleep 0.5;

    my $id = ask($other, '/host?gate=host', 'host')->header('X-Id');
    kill KILL => -$nginx->pid;
    my $killed = time;
    my $left = redis()->command('PTTL', "$nginx->{prefix}$id") / 1000;
    cmp_ok $left, '>', 0, 'the claim still exists';
    cmp_ok $left, '<=', 1, 'for one lease at most';
    app()->open_gate('host');

    my ($ended, $answer) = await_end_of_claim($other, '/host?gate=host', 'host');
    is_first $answer, 201, 2, 'then the next request runs';
    cmp_ok $ended, '>=', $killed + $left - 0.01, 'not before the lease has ended';
    cmp_ok $ended, '<=', $killed + $left + 1.5, 'and not much after';
    $other->stop;
};

subtest 'A hundred running requests' => sub {
    plan skip_all => 'counts commands of Redis' if !$is_redis;
    my $nginx = start_nginx(workers => 1);
    my @running = map { $nginx->send_request(path => "/many/x?gate=many", key => "many-$_", @who) } 1 .. 100;
    app()->await_arrival('/many/x', 100);

    my @commands = redis()->commands_during(sub { sleep 4 });
    my @renewals = grep { /\] "EVAL(?:SHA)?"/i && /\Q$nginx->{prefix}\E/ } @commands;
    my %renewed;
    $renewed{$_}++ for map { /"(\Q$nginx->{prefix}\E[0-9a-f]+)"/g } @renewals;
    is scalar(grep { $_ >= 3 } values %renewed), 100, 'each claim is renewed every third of its lease';
    # a proxy that shards sends a command to the server of its key
    is scalar(grep { 1 != (() = /\Q$nginx->{prefix}/g) } @renewals), 0, 'each command has one key';
    cmp_ok scalar(@renewals), '<=', 500, 'and there are no more commands';
    is app()->count('/many/x'), 100, 'each request ran once';
    is ask($nginx, '/many/x?gate=many', "many-$_")->code, 'request_in_progress', "number $_ is still claimed" for 1, 64, 65, 100;
    app()->open_gate('many');
    is scalar(grep { $_->status == 201 } IdempotencyTest::Client::finish(@running)), 100, 'and all get their responses';
    $nginx->stop;
};

done_testing;
