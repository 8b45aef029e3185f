# Unknown outcomes: a request that was sent and got no complete response is not executed again while its outcome is held.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Redis;
use IdempotencyTest::Requests qw(@who ask begin);
use Time::HiRes qw(sleep time);

my $is_redis = store_mode() eq 'redis';

my $server = <<'END';
        add_header X-Status $idempotency_status always;
        add_header X-Id $idempotency_key_id always;
        idempotency main;
        idempotency_lease 2s;
        proxy_read_timeout 1s;
        location / { proxy_pass http://app; }
        location /ttl/ { idempotency_ttl 3s; proxy_pass http://app; }
        location /hold/ { idempotency_unknown hold 3s; proxy_pass http://app; }
        location /release/ { idempotency_unknown release; proxy_pass http://app; }
        location /store/ { idempotency_unknown store; proxy_pass http://app; }
        location /store/ttl/ { idempotency_unknown store; idempotency_ttl 3s; proxy_pass http://app; }
        # for requests that end only when their gate opens
        location /slow/ { proxy_read_timeout 60s; proxy_pass http://app; }
        location /slow/hold/ { idempotency_unknown hold 3s; proxy_read_timeout 60s; proxy_pass http://app; }
        location /slow/release/ { idempotency_unknown release; proxy_read_timeout 60s; proxy_pass http://app; }
        location /slow/store/ { idempotency_unknown store; proxy_read_timeout 60s; proxy_pass http://app; }
        location /slow/wait/ { idempotency_lease 1s; idempotency_conflict wait 20s; proxy_read_timeout 60s; proxy_pass http://app; }
        location /slow/short/ { idempotency_lease 1s; proxy_read_timeout 60s; proxy_pass http://app; }
        location = /status { idempotency_status json; }
END

sub start_nginx { return IdempotencyTest::Nginx->start(server => $server, memory => '1m', short_leases => 1, @_) }

# Retries a request every 200 ms for so many seconds. Returns [the time, the response] of each.
sub retries {
    my ($nginx, $path, $key, $seconds) = @_;
    my $until = time + $seconds;
    my @retries;

    while (time < $until) {
        push @retries, [time, ask($nginx, $path, $key)];
        sleep 0.2;
    }

    return @retries;
}

sub codes { my %seen; return join ' ', grep { !$seen{$_}++ } map { $_->[1]->code || $_->[1]->status } @_ }

# Kills all workers. Returns when there are new workers, with the time of the signal.
sub kill_workers {
    my ($nginx) = @_;
    my @workers = $nginx->workers;
    kill KILL => @workers;
    my $killed = time;
    await(sub { @workers == grep { my $pid = $_; !grep { $_ == $pid } @workers } $nginx->workers });
    return $killed;
}

subtest 'An application that takes longer than nginx waits' => sub {
    my $nginx = start_nginx();
    my $path = '/slow-application?delay=8';
    my $first = ask($nginx, $path, 'slow');
    is $first->status, 504, 'the client gets a 504 from nginx';
    cmp_ok $first->elapsed, '<', 4, 'after proxy_read_timeout';

    my @retries = retries($nginx, $path, 'slow', 9);
    is codes(@retries), 'outcome_unknown', 'for several leases each retry gets outcome_unknown';
    is scalar(grep { $_->[1]->status != 409 || defined $_->[1]->header('Retry-After') || $_->[1]->header('X-Status') ne 'UNKNOWN' } @retries), 0,
        'with 409, without Retry-After, and $idempotency_status is UNKNOWN';
    is app()->count('/slow-application'), 1, 'the application executed the request once';
    is_problem ask($nginx, '/slow-application?delay=7', 'slow'), 422, 'idempotency_key_reused', 'another request with this key is refused as a reuse';

    $nginx->reload;
    is_problem ask($nginx, $path, 'slow'), 409, 'outcome_unknown', 'after a reload the outcome is still unknown';
    is app()->count('/slow-application'), 1, 'and there is no second execution';
    $nginx->stop;
};

subtest 'The policies' => sub {
    my $nginx = start_nginx();
    my $query = 'abort=before,no';

    for my $where (['hold/', 3, 1], ['ttl/', 3, 0], ['store/ttl/', 3, 0]) {
        my ($location, $hold, $has_retry_after) = @$where;
        my $path = "/${location}policy";
        my $first = ask($nginx, "$path?$query", $path);
        my $begin = time;
        is $first->status, 502, "the client gets a 502 ($location)";

        my (@held, $next);
        await(sub {
            $next = ask($nginx, "$path?$query", $path);
            return 1 if $next->status == 201;
            push @held, [time, $next];
            sleep 0.1;
            return 0;
        }, 10);
        is_first $next, 201, 2, "after the hold the request runs ($location)";
        cmp_ok time - $begin, '>=', $hold - 0.1, "not earlier ($location)";
        cmp_ok time - $begin, '<', $hold + 2, "not much later ($location)";

        if ($location =~ /store/) {
            is scalar(grep { !$_->[1]->is_replay || $_->[1]->lasting ne $first->lasting } @held), 0, "until then the 502 is replayed ($location)";
            next;
        }

        is codes(@held), 'outcome_unknown', "until then retries get outcome_unknown ($location)";
        my @told = map { $_->[1]->header('Retry-After') // '' } @held;
        if ($has_retry_after) {
            my @wrong = grep { my $left = $hold - ($held[$_][0] - $begin); $told[$_] !~ /^[123]$/ || abs($told[$_] - $left) > 1.2 } 0 .. $#held;
            is "@told[@wrong]", '', "with the time left as Retry-After ($location)";
        }
        else {
            is join('', @told), '', "without Retry-After ($location)";
        }
    }

    my $path = '/release/policy';
    is ask($nginx, "$path?$query", $path)->status, 502, 'release: the client gets a 502';
    is_first ask($nginx, "$path?$query", $path), 201, 2, 'release: the next request runs at once';

    $path = '/store/policy';
    my $first = ask($nginx, "$path?$query", $path);
    is $first->status, 502, 'store: the client gets a 502';
    my @retries = retries($nginx, "$path?$query", $path, 5);
    is scalar(grep { !$_->[1]->is_replay || $_->[1]->lasting ne $first->lasting } @retries), 0, 'store: it is replayed for several leases';
    is app()->count($path), 1, 'store: the application executed the request once';

    $path = '/store/truncated';
    my $broken = 'abort=mid&kind=binary&size=50000';
    is ask($nginx, "$path?$broken", $path)->status, 502, 'store: the response breaks off';
    is codes(retries($nginx, "$path?$broken", $path, 3)), 'outcome_unknown', 'store: there is no response to keep, so the outcome is held as unknown';
    is app()->count($path), 1, 'store: the application executed this request once, too';
    $nginx->stop;
};

subtest 'Workers are killed' => sub {
    my $nginx = start_nginx();
    my %running = map { my $path = "/slow/${_}killed"; ($path => begin($nginx, $path, $path)) } '', 'hold/', 'release/', 'store/';
    my $killed = kill_workers($nginx);
    $_->close for values %running;
    my %codes;
    my %free;

    # the gate of the requests is closed: only the arrival of a second execution can be seen
    while (time < $killed + 8) {
        for my $path (grep { !$free{$_} } sort keys %running) {
            my $client = $nginx->send_request(path => "$path?gate=$path", key => $path, @who);
            await(sub { app()->count($path) > 1 || !$client->is_silent_for(0) });

            if (app()->count($path) > 1) {
                $free{$path} = time;
                next;
            }

            my $response = $client->response;
            push @{$codes{$path}}, [time, $response];
        }
        sleep 0.1;
    }

    my $when = sub { my ($path, $code) = @_; return map { $_->[0] } grep { $_->[1]->code eq $code } @{$codes{$path}} };

    for my $path ('/slow/killed', '/slow/store/killed', '/slow/hold/killed') {
        is codes(@{$codes{$path}}), 'request_in_progress outcome_unknown', "in progress until the lease expires, then unknown ($path)";
        my ($unknown) = $when->($path, 'outcome_unknown');
        cmp_ok $unknown // 0, '>=', $killed + 1.2, "not before the lease expires ($path)";
        cmp_ok $unknown // 1e12, '<', $killed + 3.5, "not much later ($path)";
    }

    for my $path ('/slow/killed', '/slow/store/killed') {
        ok !$free{$path}, "it is never executed again ($path)";
        is scalar(grep { defined $_->[1]->header('Retry-After') } grep { $_->[1]->code eq 'outcome_unknown' } @{$codes{$path}}), 0,
            "retries get no Retry-After ($path)";
    }

    my ($unknown) = $when->('/slow/hold/killed', 'outcome_unknown');
    cmp_ok $free{'/slow/hold/killed'} // 0, '>=', ($unknown // 0) + 2.3, 'hold TIME: the key is free TIME after the lease has expired, not earlier';
    cmp_ok $free{'/slow/hold/killed'} // 1e12, '<', ($unknown // 0) + 5, 'hold TIME: not much later';
    is scalar(grep { ($_->[1]->header('Retry-After') // '') !~ /^[123]$/ } grep { $_->[1]->code eq 'outcome_unknown' } @{$codes{'/slow/hold/killed'}}), 0,
        'hold TIME: retries get the time left as Retry-After';

    is codes(@{$codes{'/slow/release/killed'}}), 'request_in_progress', 'release: in progress until the lease expires';
    cmp_ok $free{'/slow/release/killed'} // 0, '>=', $killed + 1.2, 'release: then the key is free, not earlier';
    cmp_ok $free{'/slow/release/killed'} // 1e12, '<', $killed + 3.5, 'release: not much later';
    app()->open_gate($_) for keys %running;
    $nginx->stop(allowed => qr/exited on signal 9/);
};

sub halt {
    my ($worker) = @_;
    kill STOP => $worker;
    await(sub { slurp("/proc/$worker/stat") =~ /\) T / });
}

# A holder whose lease has expired settles as long as no other request has claimed the key.
subtest 'A holder that comes back' => sub {
    my $nginx = start_nginx();
    my ($old, $young) = $nginx->workers;

    for my $case (['finished', 0], ['runs', 1]) {
        my ($name, $still_runs) = @$case;
        my $path = "/slow/short/back-$name";
        my $uri = "$path?gate=$path";
        my $late = $nginx->over($old, sub { begin($nginx, $path, $path) });
        halt($old);
        my $response;
        ok await(sub { $response = ask($nginx, $uri, $path); $response->code ne 'request_in_progress' }, 6), "its lease expires ($name)";
        is_problem $response, 409, 'outcome_unknown', "then the outcome is unknown ($name)";

        if ($still_runs) {
            kill CONT => $old;
            ok await(sub { ask($nginx, $uri, $path)->code eq 'request_in_progress' }, 3), "its lease is renewed ($name)";
            sleep 2;
            is_problem $nginx->over($young, sub { ask($nginx, $uri, $path) }), 409, 'request_in_progress', "and stays valid ($name)";
            app()->open_gate($path);
        }
        else {
            app()->open_gate($path);
            app()->await_answer($path);
            kill CONT => $old;
        }

        my $first = $late->response;
        is_first $first, 201, 1, "the client gets the response ($name)";
        is_replay_of $nginx->over($young, sub { ask($nginx, $uri, $path) }), $first, "the response is kept ($name)";
        is app()->count($path), 1, "the application executed the request once ($name)";
    }

    $nginx->stop;
};

subtest 'A duplicate that waits' => sub {
    my $nginx = start_nginx();
    my ($old) = $nginx->workers;
    my $late = $nginx->over($old, sub { begin($nginx, '/slow/wait/x', 'waits') });
    my $held = $nginx->send_request(path => '/slow/wait/x?gate=waits', key => 'waits', @who);
    # the other worker has it, or the same one, which is stopped
    halt($old);
    my @held = ($held, map { $nginx->send_request(path => '/slow/wait/x?gate=waits', key => 'waits', @who) } 1 .. 5);
    my @early = grep { defined } map { $_->is_silent_for(0.5) ? undef : 1 } $held[-1];
    is scalar(@early), 0, 'it waits while the lease is valid';
    my @responses;
    await(sub {
        @responses = (@responses, map { $_->response } grep { !$_->is_silent_for(0) } @held);
        return @responses;
    }, 6);
    cmp_ok scalar(@responses), '>=', 1, 'when the lease has expired it gets its response';
    is join(' ', grep { $_ ne 'outcome_unknown' } map { $_->code } @responses), '', 'which is outcome_unknown';

    kill CONT => $old;
    app()->open_gate('waits');
    is_first $late->response, 201, 1, 'the first request gets its response';
    is app()->count('/slow/wait/x'), 1, 'there is no second execution';
    $nginx->stop;
};

# The claim can't be renewed for several leases, and the outcome can't be recorded.
subtest 'Redis is unavailable for longer than a lease while a request finishes' => sub {
    plan skip_all => 'is about the Redis store' if !$is_redis;
    my $redis = IdempotencyTest::Redis->new;
    my $nginx = start_nginx(redis => 'unix:' . $redis->socket);
    my $other = start_nginx(redis => 'unix:' . $redis->socket, prefix => $nginx->{prefix}, workers => 1);

    for my $case (['kept', ''], ['broken', '&abort=before']) {
        my ($name, $query) = @$case;
        my $path = "/slow/short/away-$name";
        my $uri = "$path?gate=$path$query";
        my $running = $nginx->send_request(path => $uri, key => $path, @who);
        app()->await_arrival($path);
        $redis->stall;
        app()->open_gate($path);
        my $first = $running->response;
        is $first->status, $query ? 502 : 201, "the client gets its response ($name)";
        sleep 3.5;
        $redis->resume;

        my $response;
        await(sub { $response = ask($other, $uri, $path); $response->code !~ /store_unavailable|request_in_progress/ && ($query || $response->status == 201) });
        $query ? is_problem($response, 409, 'outcome_unknown', "the outcome is unknown afterwards ($name)")
            : is_replay_of $response, $first, "the response is kept afterwards ($name)";
        sleep 1.5;
        $response = ask($other, $uri, $path);
        ok $response->is_replay || $response->code eq 'outcome_unknown', "and it stays so ($name)" or diag $response->head;
        is app()->count($path), 1, "the application executed the request once ($name)";
    }

    $_->stop for $nginx, $other;
};

# An unknown outcome takes one block of a zone.
subtest 'The memory of unknown outcomes' => sub {
    plan skip_all => 'is about the memory store' if $is_redis;
    my $nginx = start_nginx();
    my $used = sub { $nginx->request(method => 'GET', path => '/status')->json->{stores}{main}{memory_used_bytes} };
    my $before = $used->();
    ask($nginx, "/block/$_?abort=before", "block-$_") for 1 .. 10;
    is $used->() - $before, 10 * 512, 'a broken exchange takes one block';

    $before = $used->();
    my @running = map { begin($nginx, '/slow/short/block', "running-$_", $_) } 1 .. 10;
    my $running = $used->() - $before;
    kill_workers($nginx);
    ok await(sub { ask($nginx, '/slow/short/block?gate=running-1', 'running-1')->code eq 'outcome_unknown' }), 'the leases of killed workers expire';
    ask($nginx, "/slow/short/block?gate=running-$_", "running-$_") for 1 .. 10;
    is $used->() - $before, 10 * 512, 'a claim whose lease has expired takes one block';
    cmp_ok $running, '>=', 10 * 512, 'a running claim takes at least one';
    $nginx->stop(allowed => qr/exited on signal 9/);
};

done_testing;
