# Running exchanges and kept results when nginx or its workers are reloaded, upgraded, terminated and killed.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Client qw(finish);
use IdempotencyTest::Environment qw(app nginx_binary redis store_mode);
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Http2;
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Requests qw(@who ask begin other_outcomes);
use Time::HiRes qw(sleep time);

# an upgrade executes the binary by the name under which it was started
$ENV{TEST_NGINX_BINARY} = (grep { -x } nginx_binary(), map { "$_/" . nginx_binary() } split /:/, $ENV{PATH})[0]
    if nginx_binary() !~ m{/};

my $is_redis = store_mode() eq 'redis';

my $server = <<'END';
        idempotency main;
        idempotency_lease 1s;
        location / { proxy_pass http://app; }
        location /term { idempotency_unknown hold 2s; proxy_pass http://app; }
        location /cut/ { idempotency_lease 3s; idempotency_unknown hold 3s; proxy_pass http://app; }
        location /load/ { idempotency_unknown release; proxy_pass http://app; }
END

sub new_nginx {
    my (%options) = @_;
    return IdempotencyTest::Nginx->new(server => $server, memory => '4m', short_leases => 1, %options);
}

sub start_nginx { return new_nginx(@_)->start }

subtest 'A reload, and a request that runs for longer than its lease' => sub {
    my $nginx = start_nginx();
    my $running = begin($nginx, '/reload', 'reload');
    $nginx->reload(requests_run => 1);
    is join(', ', other_outcomes($nginx, '/reload?gate=reload', 'reload', 2.5)), '', 'the worker that is shutting down renews its claim';
    app()->open_gate('reload');
    my $first = $running->response;
    is_first $first, 201, 1, 'and sends its response';
    is_replay_of ask($nginx, '/reload?gate=reload', 'reload'), $first, 'the response is kept';
    $nginx->stop;
};

# A process may have no parent that waits for it: after its end it may stay as a zombie.
sub is_alive { return slurp("/proc/$_[0]/stat") =~ /\) [^Z]/ }

sub children { return split ' ', slurp("/proc/$_[0]/task/$_[0]/children") }

# nginx upgrades its binary only if it is a daemon, without its parent.
sub start_daemon {
    my ($nginx) = @_;
    $nginx->configure;
    my $configuration = slurp($nginx->directory . '/nginx.conf');
    $nginx->write_file('nginx.conf', $configuration =~ s/daemon off/daemon on/r);
    system($nginx->command) == 0 or die 'nginx does not start: ' . $nginx->error_log;

    my $pid = await(sub { pid_in($nginx) }) or die "nginx does not start\n";
    await(sub { 2 == grep { IdempotencyTest::Nginx::is_worker($_) } children($pid) });
    return $pid;
}

sub pid_in {
    my ($nginx) = @_;
    return slurp($nginx->directory . '/logs/nginx.pid') =~ /^(\d+)\n/ ? $1 : 0;
}

subtest 'An upgrade of the binary' => sub {
    # the new binary needs the environment of the sanitizer, too
    my $nginx = new_nginx(main => 'env ASAN_OPTIONS; env LSAN_OPTIONS;');
    my $old = start_daemon($nginx);
    my @processes = ($old, children($old));
    my @old_workers = children($old);

    my $ended = eval {
        my $kept = ask($nginx, '/upgrade', 'kept');
        my $running = begin($nginx, '/upgrade/runs', 'upgrade');

        kill USR2 => $old;
        my $new = await(sub {
            my $pid = pid_in($nginx);
            $pid != $old && 2 == grep({ IdempotencyTest::Nginx::is_worker($_) } children($pid)) && $pid;
        }) or die 'no new nginx: ' . $nginx->error_log;
        push @processes, $new, children($new);

        kill QUIT => $old;
        await(sub { my $log = $nginx->error_log; !grep { $log !~ / \Q$_\E#\d+: gracefully shutting down/ } @old_workers });

        if ($is_redis) {
            is_replay_of ask($nginx, '/upgrade', 'kept'), $kept, 'the new nginx replays the results in Redis';
        }
        else {
            is_first ask($nginx, '/upgrade', 'kept'), 201, 2, 'the new nginx has a memory store of its own, which is empty';
        }

        # for longer than a lease
        sleep 1.5;
        is_problem ask($nginx, '/upgrade/runs?gate=upgrade', 'upgrade'), 409, 'request_in_progress', 'a request of the old one is running'
            if $is_redis;
        app()->open_gate('upgrade');
        my $first = $running->response;
        is_first $first, 201, 1, 'the exchange of the old nginx ends with its response';
        is_replay_of ask($nginx, '/upgrade/runs?gate=upgrade', 'upgrade'), $first, 'and is kept' if $is_redis;
        ok await(sub { !is_alive($old) }), 'the old nginx ends';
        kill QUIT => $new;
        ok await(sub { !grep { is_alive($_) } @processes }), 'the new nginx ends when it gets the signal';
        1;
    };
    my $error = $@;
    kill KILL => grep { is_alive($_) } @processes;
    die $error if !$ended;
    $nginx->check_error_log;
};

subtest 'A worker that is cut off by worker_shutdown_timeout' => sub {
    my $nginx = start_nginx(main => 'worker_shutdown_timeout 500ms;', workers => 1);
    my @paths = map { "/cut/$_" } 1 .. 5;
    my $kept = ask($nginx, '/cut/kept', 'kept');
    my @running = map { begin($nginx, $_, "cut$_") } @paths;
    my @old = $nginx->workers;
    my $cut = time;
    $nginx->reload(requests_run => 1);
    ok await(sub { !grep { kill 0 => $_ } @old }), 'the worker ends though requests run';
    is scalar(grep { $_->status == 0 } finish(@running)), 5, 'the clients of these requests get no response';

    my @codes = map { ask($nginx, "$_?gate=cut$_", "cut$_")->code } @paths;
    is "@codes", join(' ', ('outcome_unknown') x 5), 'a retry gets outcome_unknown';
    is join(' ', map { app()->count($_) } @paths), '1 1 1 1 1', 'and does not run';
    is_replay_of ask($nginx, '/cut/kept', 'kept'), $kept, 'kept responses are replayed';

    app()->open_gate("cut$_") for @paths;
    my $answer;
    await(sub { $answer = ask($nginx, "$paths[0]?gate=cut$paths[0]", "cut$paths[0]"); $answer->status != 409 });
    is_first $answer, 201, 2, 'after the hold the key is free';
    cmp_ok time - $cut, '<', 0.5 + 3 + 3, 'and not much later';
    $nginx->stop(allowed => qr/open socket #\d+ left in connection/);
};

subtest 'HTTP/2 requests of a worker that is cut off by worker_shutdown_timeout' => sub {
    my $nginx = IdempotencyTest::Nginx->new(short_leases => 1, main => 'worker_shutdown_timeout 500ms;', workers => 1);
    my $h2 = $nginx->directory . '/h2.sock';

    $nginx->set(server => <<"END")->start;
        listen unix:$h2 http2;
        idempotency main;
        location / { proxy_pass http://app; }
END
    my $client = IdempotencyTest::Http2->connect($h2);
    my @uris = ('/cut2/held?gate=never', '/cut2/stream?header=Content-Type:text/event-stream&framing=chunked&pieces=2&middle=never');
    $client->send($_, 'x-api-key' => 'alice', 'idempotency-key' => $_) for @uris;
    app()->await_arrival($_) for '/cut2/held', '/cut2/stream';
    $client->await_bytes;
    my @old = $nginx->workers;
    $nginx->reload(requests_run => 1);
    ok await(sub { !grep { kill 0 => $_ } @old }, 10), 'the worker ends though requests run';
    my @codes = map { $nginx->request(path => $_, key => $_, headers => ['X-API-Key: alice'])->code } @uris;
    is "@codes", 'outcome_unknown response_not_kept', 'what a retry gets';
    $nginx->stop(allowed => qr/open socket #\d+ left in connection/);
};

subtest 'An nginx that is terminated at once' => sub {
    plan skip_all => 'the memory store ends with its nginx' if !$is_redis;
    my $nginx = start_nginx();
    my $kept = ask($nginx, '/term', 'kept');
    my $running = begin($nginx, '/term/runs', 'term');
    my $ended = time;
    ok $nginx->{process}->stop('TERM'), 'nginx ends';
    is $running->response->status, 0, 'the client of a running request gets no response';
    $nginx->check_error_log(allowed => qr/open socket #\d+ left in connection/);

    my $next = start_nginx(prefix => $nginx->{prefix});
    is_replay_of ask($next, '/term', 'kept'), $kept, 'the next nginx replays kept responses';
    app()->open_gate('term');
    my ($answer, @codes);
    await(sub { $answer = ask($next, '/term/runs?gate=term', 'term'); push @codes, $answer->code; $answer->status != 409 });
    is_first $answer, 201, 2, 'the key of the running request is free';
    cmp_ok time - $ended, '<', 1 + 2 + 2.5, 'after lease and hold';
    pop @codes;
    is scalar(grep { !/^(?:request_in_progress|outcome_unknown)$/ } @codes), 0, 'until then retries are refused';
    $next->stop;
};

subtest 'Workers that are killed and that crash under load' => sub {
    local $ENV{ASAN_OPTIONS} = join ':', $ENV{ASAN_OPTIONS} // (), 'handle_segv=0';
    my $nginx = start_nginx(workers => 3, main => 'worker_rlimit_core 0;');
    my (%kept, @not_answered, $n);

    for my $round (1 .. 24) {
        my @keys = map { ++$n } 1 .. 20;
        my @running = map { $nginx->send_request(path => "/load/$_?delay=0.0" . $_ % 4 . '&size=' . $_ * 37 % 5000, key => "load-$_", @who) } @keys;
        my @workers = $nginx->workers;
        sleep 0.002 * ($round % 12);
        my $victim = $workers[$round % 3];
        kill +($round % 2 ? 'KILL' : 'SEGV') => $victim;
        my @answers = finish(@running);

        for my $i (0 .. $#keys) {
            if ($answers[$i]->status == 201) {
                $kept{$keys[$i]} = $answers[$i];
            }
            else {
                push @not_answered, $keys[$i];
            }
        }
        await(sub { 3 == grep { $_ != $victim } $nginx->workers });
    }

    note scalar(keys %kept) . ' answered, ' . @not_answered . ' not';
    cmp_ok scalar(keys %kept), '>=', 100, 'the other workers still work';
    my $uri = sub { "/load/$_[0]?delay=0.0" . $_[0] % 4 . '&size=' . $_[0] * 37 % 5000 };
    my @lost = grep { my $retry = ask($nginx, $uri->($_), "load-$_"); !$retry->is_replay || $retry->lasting ne $kept{$_}->lasting } sort { $a <=> $b } keys %kept;
    is "@lost", '', 'each response that a client got is kept';
    my @blocked = grep { my $key = $_; !await(sub { ask($nginx, $uri->($key), "load-$key")->status == 201 }, 3) } @not_answered;
    is "@blocked", '', 'no key is blocked for longer than a lease';
    my @twice = grep { app()->count("/load/$_") > 1 } keys %kept;
    is "@twice", '', 'nothing that gets its response ran twice';
    # some workers are killed while they hold the lock of the zone, which the master then unlocks
    $nginx->stop(allowed => qr/exited on signal (?:9|11)|shared memory zone "idempotency_store main" was locked by/);
};

done_testing;
