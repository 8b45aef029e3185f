# A claim under which nothing was sent does not block its key: it is released as soon as the store confirms it, however the reply to the
# claim was lost. At a fast shutdown too.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app new_prefix store_mode);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await temporary_directory);
use IdempotencyTest::Redis;
use IdempotencyTest::Relay;
use IdempotencyTest::Requests qw(@who ask begin);
use Time::HiRes qw(sleep time);

my $is_redis = store_mode() eq 'redis';

my $server = <<'END';
        add_header X-Status $idempotency_status always;
        idempotency main;
        idempotency_lease 1s;
        location / { proxy_pass http://app; }
        location /pass/ { idempotency_store_error pass; proxy_pass http://app; }
        location /upload/ { idempotency_fingerprint $request_uri body=off; proxy_pass http://app; }
        location /release/ { idempotency_unknown release; proxy_pass http://app; }
END

sub start_nginx { return IdempotencyTest::Nginx->start(server => $server, workers => 1, short_leases => 1, @_) }

# The worker that is terminated ends at once and is replaced.
sub terminate_worker {
    my ($nginx) = @_;
    my @old = $nginx->workers;
    kill TERM => @old;
    ok await(sub { my @new = $nginx->workers; @new == @old && !grep { my $pid = $_; grep { $_ == $pid } @old } @new }), 'the worker ends, and there is a new one';
}

subtest 'A worker that is terminated' => sub {
    my $nginx = start_nginx();
    my $kept = ask($nginx, '/kept', 'kept');
    my $sent = begin($nginx, '/sent', 'sent');
    my $free = begin($nginx, '/release/sent', 'free');
    # the upstream gets the request only when its body has arrived
    my $unsent = $nginx->connect->send_raw(
        "POST /upload/unsent HTTP/1.1\r\nHost: localhost\r\nX-API-Key: alice\r\nIdempotency-Key: unsent\r\nContent-Length: 100\r\n\r\nten bytes.", 'POST');
    ok await(sub { ask($nginx, '/upload/unsent', 'unsent')->code eq 'request_in_progress' }), 'a request is claimed and not sent';
    terminate_worker($nginx);

    is_first ask($nginx, '/upload/unsent', 'unsent', body => '.' x 100), 201, 1, 'what was not sent is free at once, and runs';
    is_problem ask($nginx, '/sent?gate=sent', 'sent'), 409, $is_redis ? 'request_in_progress' : 'outcome_unknown', 'what was sent does not run';

    # a claim in Redis becomes unknown when its lease expires
    my $response;
    await(sub { $response = ask($nginx, '/sent?gate=sent', 'sent'); $response->code ne 'request_in_progress' }, 4);
    is_problem $response, 409, 'outcome_unknown', 'its outcome is unknown';
    is_replay_of ask($nginx, '/kept', 'kept'), $kept, 'a kept response is replayed';

    app()->open_gate('free');
    app()->open_gate('sent');
    await(sub { $response = ask($nginx, '/release/sent?gate=free', 'free'); $response->status == 201 }, 4);
    is_first $response, 201, 2, 'with idempotency_unknown release it runs again';
    sleep 1.2;
    is_problem ask($nginx, '/sent?gate=sent', 'sent'), 409, 'outcome_unknown', 'the outcome of the other request stays unknown';
    is app()->count('/sent'), 1, 'the application executed it once';
    $nginx->stop(allowed => qr/open socket #\d+ left in connection/);
};

if (!$is_redis) {
    done_testing;
    exit;
}

my $directory = temporary_directory();

sub key_file {
    my ($name) = @_;
    open my $out, '>', "$directory/$name" or die "$name: $!\n";
    print $out unpack('H*', substr $name x 32, 0, 32), "\n";
    close $out or die "$name: $!\n";
    return "$directory/$name";
}

my %store = (
    plain => '',
    sealed => 'encryption_key_file ' . key_file('one') . ';',
    'sealed with two keys' => 'encryption_key_file ' . join(' ', map { key_file($_) } 'one', 'two') . ';',
);

my $redis = IdempotencyTest::Redis->new;
my $relay = IdempotencyTest::Relay->new(to => $redis->socket);

sub keys_of {
    my ($prefix) = @_;
    return grep { /^\Q$prefix/ } @{$redis->command('KEYS', '*')};
}

sub await_claim {
    my ($nginx) = @_;
    return await(sub { keys_of($nginx->{prefix}) });
}

# Each loses the reply to the claim of a request that is sent by `send`; the request is refused when it returns. The code that
# it returns makes the store available again.
my %loss = (
    'the reply is lost, with its connection' => sub {
        my ($send) = @_;
        $relay->do('mute');
        $send->();
        return sub { $relay->do('close'); $relay->do('pass') };
    },
    'the reply is late' => sub {
        my ($send) = @_;
        $relay->do('mute');
        $send->();
        return sub { $relay->do('pass') };
    },
    'the reply is lost in a long outage' => sub {
        my ($send) = @_;
        $relay->do('mute');
        $send->();
        sleep 5;
        return sub { $relay->do('close'); $relay->do('pass') };
    },
    'the connection is refused for a while' => sub {
        my ($send) = @_;
        $relay->do('sever', 0);
        $send->(sub { $relay->do('muted'); $relay->do('refuse') });
        sleep 1;
        return sub { $relay->do('accept'); $relay->do('pass') };
    },
    'the connection is closed before the reply' => sub {
        my ($send, $nginx) = @_;
        $relay->do('mute');
        $send->(sub { await_claim($nginx); $relay->do('close') });
        return sub { $relay->do('pass') };
    },
    'a part of the reply is lost' => sub {
        my ($send) = @_;
        $relay->do('cut', 1);
        $send->();
        return sub { $relay->do('close'); $relay->do('pass') };
    },
    'the connection is closed within the reply' => sub {
        my ($send) = @_;
        $relay->do('sever', 1);
        $send->();
        return sub { $relay->do('pass') };
    },
    'the reply is an error' => sub {
        my ($send) = @_;
        $relay->do('replace', unpack 'H*', "-ERR the reply was lost\r\n");
        $send->();
        return sub { $relay->do('pass') };
    },
    'the reply is no reply' => sub {
        my ($send) = @_;
        $relay->do('replace', unpack 'H*', "nonsense\r\n");
        $send->();
        return sub { $relay->do('pass') };
    },
    'Redis is stopped before it reads the claim' => sub {
        my ($send) = @_;
        $redis->stall;
        $send->();
        return sub { $redis->resume };
    },
);

for my $store (sort keys %store) {
    for my $loss (sort keys %loss) {
        subtest "$loss ($store)" => sub {
            my $nginx = start_nginx(redis => $relay->url, store => $store{$store});
            my $path = "/lost-$store-$loss" =~ s/[ ,]+/-/gr;
            is ask($nginx, '/connects', 'connects')->status, 201, 'nginx is connected';
            $redis->command('DEL', $_) for keys_of($nginx->{prefix});

            my $response;
            my $back = $loss{$loss}->(sub {
                my ($meanwhile) = @_;
                my $client = $nginx->send_request(path => $path, key => $path, @who);
                $meanwhile->() if $meanwhile;
                $response = $client->response;
            }, $nginx);
            is_problem $response, 503, 'store_unavailable', 'the request is refused';

            my $since = time;
            $back->();
            # Redis may still have to read the claim
            my @left;
            my $is_free = await(sub { @left = keys_of($nginx->{prefix}); !@left && time > $since + 0.3 }, 4);
            ok $is_free, 'its key is free once the store is back' or diag "@left";
            cmp_ok time - $since, '<', 1, 'within a second';
            is app()->count($path), 0, 'the application has not got the request';

            my $first;
            await(sub { $first = ask($nginx, $path, $path); $first->status != 503 });
            is_first $first, 201, 1, 'a retry runs';
            # what may be sent once more
            sleep 1.5;
            is_replay_of ask($nginx, $path, $path), $first, 'and its response is kept';
            is app()->count($path), 1, 'it runs once';
            $nginx->stop(allowed => qr/\[crit\].*connect\(\)/);
        };
    }
}

# The claim reaches Redis when its worker has given it up. Its release may overtake it, so it is sent twice.
subtest 'A claim that is late' => sub {
    my $nginx = start_nginx(redis => $relay->url);
    is ask($nginx, '/connects', 'connects')->status, 201, 'nginx is connected';
    $redis->command('DEL', $_) for keys_of($nginx->{prefix});
    $relay->do('hold');
    is_problem ask($nginx, '/late', 'late'), 503, 'store_unavailable', 'the request is refused';
    $relay->do('pass');
    my $since = time;
    sleep 0.3;
    ok await(sub { !keys_of($nginx->{prefix}) }, 4), 'its key is free once the store is back';
    cmp_ok time - $since, '<', 2.5, 'within a second, or one lease later';
    sleep 1.5;
    is scalar(keys_of($nginx->{prefix})), 0, 'and stays free';
    is_first ask($nginx, '/late', 'late'), 201, 1, 'a retry runs';
    $nginx->stop;
};

# With idempotency_store_error pass the request runs without a claim. The claim that was lost is released even so.
subtest 'idempotency_store_error pass' => sub {
    my $nginx = start_nginx(redis => $relay->url);
    is ask($nginx, '/connects', 'connects')->status, 201, 'nginx is connected';
    $redis->command('DEL', $_) for keys_of($nginx->{prefix});
    $relay->do('mute');
    is_first ask($nginx, '/pass/lost', 'pass'), 201, 1, 'the request runs though the reply is lost';
    $relay->do('pass');
    ok await(sub { !keys_of($nginx->{prefix}) }, 1), 'the key is free within a second';
    $nginx->stop;
};

subtest 'A client that disconnects while its key is claimed' => sub {
    my $nginx = start_nginx(redis => $relay->url);

    for my $is_lost (0, 1) {
        my $path = "/left$is_lost";
        is ask($nginx, '/connects', "connects-$is_lost")->status, 201, 'nginx is connected';
        await(sub { keys_of($nginx->{prefix}) });
        $redis->command('DEL', $_) for keys_of($nginx->{prefix});
        $relay->do('mute');
        my $client = $nginx->send_request(path => $path, key => $path, @who);
        ok await_claim($nginx), "the key is claimed ($is_lost)";
        $client->close;
        sleep $is_lost ? 1 : 0.1;
        $relay->do('pass');
        ok await(sub { !keys_of($nginx->{prefix}) }, 1), "the key is free within a second ($is_lost)";
        is app()->count($path), 0, "the application has not got the request ($is_lost)";
        my $first;
        await(sub { $first = ask($nginx, $path, $path); $first->status != 503 });
        is_first $first, 201, 1, "a retry runs ($is_lost)";
    }

    $nginx->stop;
};

subtest 'Too few replicas' => sub {
    my $master = IdempotencyTest::Redis->new;
    my $replica = IdempotencyTest::Redis->new(replica_of => $master);
    $master->await_replicas(1);
    my $front = IdempotencyTest::Relay->new(to => $master->socket);
    my $nginx = start_nginx(redis => $front->url, store => 'wait_replicas 1 200ms;');
    my $keys = sub { return grep { /^\Q$nginx->{prefix}/ } @{$master->command('KEYS', '*')} };
    ask($nginx, '/connects', 'connects');
    $master->command('DEL', $_) for $keys->();

    $replica->stall;
    is_problem ask($nginx, '/few', 'few'), 503, 'store_unavailable', 'a request is refused';
    ok await(sub { !$keys->() }, 1), 'its key is free within a second, though there are still too few';

    # the reply to the release is lost, too
    my $client = $nginx->send_request(path => '/few', key => 'few-lost', @who);
    ok await(sub { $keys->() }), 'another request claims its key';
    $front->do('mute');
    is_problem $client->response, 503, 'store_unavailable', 'and is refused, as the reply is lost';
    $front->do('close');
    $front->do('pass');
    ok await(sub { !$keys->() }, 1), 'its key is free within a second';

    $replica->resume;
    my $first;
    await(sub { $first = ask($nginx, '/few', 'few'); $first->status != 503 });
    is_first $first, 201, 1, 'with enough replicas the request runs';
    sleep 1.2;
    is_replay_of ask($nginx, '/few', 'few'), $first, 'and its response is kept';
    $nginx->stop;
};

# The second name of the key has a value that no key opens: the claim of the first name is released.
subtest 'A key of which one name is taken' => sub {
    my $prefix = new_prefix();
    my @stores = map { "idempotency_store $_->[0] { redis unix:" . $redis->socket . "; prefix $prefix; $IdempotencyTest::Environment::SHORT_TIMEOUTS encryption_key_file $_->[1]; }" }
        ['main', key_file('one') . ' ' . key_file('two')], ['second', key_file('two')];
    my $nginx = start_nginx(stores => "@stores", prefix => $prefix,
        server => "$server location = /second { idempotency second; proxy_pass http://app; }");
    is ask($nginx, '/second', 'taken')->status, 201, 'a request runs with the second key alone';
    my @names = keys_of($prefix);
    is scalar(@names), 1, 'it has one name';
    my $good = $redis->command('GET', $names[0]);
    my $bad = $good;
    substr($bad, -1) ^= "\x01";
    $redis->command('SET', $names[0], $bad, 'PX', 60_000);

    is_problem ask($nginx, '/taken', 'taken'), 503, 'store_unavailable', 'a request with both keys is refused';
    ok await(sub { 1 == keys_of($prefix) }, 1), 'and the claim of the other name is released within a second';
    is app()->count('/taken'), 0, 'it does not run';
    is_problem ask($nginx, '/pass/taken', 'taken'), 503, 'store_unavailable', 'also with idempotency_store_error pass: the request may have run';
    is app()->count('/pass/taken'), 0, 'it does not run either';
    $redis->command('DEL', $names[0]);
    is_first ask($nginx, '/taken', 'taken'), 201, 1, 'without this value it runs';
    $nginx->stop;
};

subtest 'A worker that is terminated while it waits for a reply' => sub {
    my $nginx = start_nginx(redis => $relay->url);

    for my $name ('claim', 'release') {
        my $path = "/terminated-$name";
        is ask($nginx, '/connects', "connects-$name")->status, 201, 'nginx is connected';
        $redis->command('DEL', $_) for keys_of($nginx->{prefix});
        $relay->do('mute');
        my $client = $nginx->send_request(path => $path, key => $path, @who);
        ok await_claim($nginx), "a key is claimed ($name)";
        # then the worker has given up the claim, and its release waits
        is $client->response->status, 503, 'its request is refused' if $name eq 'release';
        terminate_worker($nginx);
        $relay->do('pass');
        my $first;
        await(sub { $first = ask($nginx, $path, $path); $first->code ne 'store_unavailable' && $first->code ne 'request_in_progress' }, 4);

        # the store has not confirmed the release before the worker ended: this claim may stay, and its outcome is unknown
        $name eq 'release' && $first->code eq 'outcome_unknown' ? pass 'its outcome is unknown' : is_first $first, 201, 1, "a retry runs ($name)";
        is app()->count($path), $first->status == 201 ? 1 : 0, "it runs once at most ($name)";
    }

    $nginx->stop(allowed => qr/open socket #\d+ left in connection/);
};

# With several keys a claim has several stored ids: each of them is released.
subtest 'A worker with two encryption keys that is terminated' => sub {
    my $nginx = start_nginx(redis => 'unix:' . $redis->socket, store => $store{'sealed with two keys'});
    my $unsent = $nginx->connect->send_raw(
        "POST /upload/sealed HTTP/1.1\r\nHost: localhost\r\nX-API-Key: alice\r\nIdempotency-Key: sealed\r\nContent-Length: 100\r\n\r\nten bytes.", 'POST');
    ok await(sub { 2 == keys_of($nginx->{prefix}) }), 'a request is claimed under both ids';
    terminate_worker($nginx);
    is scalar(keys_of($nginx->{prefix})), 0, 'both are released';
    is_first ask($nginx, '/upload/sealed', 'sealed', body => '.' x 100), 201, 1, 'and a retry runs at once';
    $nginx->stop(allowed => qr/open socket #\d+ left in connection/);
};

# Redis reads the claim after its worker has ended. The release is already behind it.
subtest 'A worker that ends while Redis does not reply' => sub {
    for my $store (sort keys %store) {
        for my $signal ('TERM', 'KILL') {
            my $nginx = start_nginx(redis => 'unix:' . $redis->socket, store => $store{$store});
            my $path = "/stalled-$store-$signal" =~ tr/ /-/r;
            is ask($nginx, '/connects', 'connects')->status, 201, 'nginx is connected';
            $redis->command('DEL', $_) for keys_of($nginx->{prefix});
            $redis->stall;
            is_problem ask($nginx, $path, $path), 503, 'store_unavailable', "a request is refused ($store, $signal)";
            # a worker that is killed must have had the time to send the release
            sleep 0.3;
            my @old = $nginx->workers;
            kill $signal => @old;
            ok await(sub { my @new = $nginx->workers; @new == 1 && $new[0] != $old[0] }), "its worker ends, and there is a new one ($store, $signal)";
            $redis->resume;
            my $retry;
            await(sub { $retry = ask($nginx, $path, $path); $retry->code ne 'store_unavailable' });
            is_first $retry, 201, 1, "its key is free once Redis goes on ($store, $signal)";
            is app()->count($path), 1, "it runs once ($store, $signal)";
            $nginx->stop(allowed => qr/open socket #\d+ left in connection|exited on signal 9/);
        }
    }
};

subtest 'An nginx that is terminated' => sub {
    my $prefix = new_prefix();
    my $nginx = start_nginx(redis => 'unix:' . $redis->socket, prefix => $prefix, workers => 2);
    my $sent = begin($nginx, '/nginx-sent', 'nginx-sent');
    my $unsent = $nginx->connect->send_raw(
        "POST /upload/nginx HTTP/1.1\r\nHost: localhost\r\nX-API-Key: alice\r\nIdempotency-Key: nginx-unsent\r\nContent-Length: 100\r\n\r\nten bytes.", 'POST');
    ok await(sub { 2 == keys_of($prefix) }), 'two requests are claimed';
    ok $nginx->{process}->stop('TERM'), 'nginx ends';
    is scalar(keys_of($prefix)), 1, 'the claim of the request that was not sent is released';
    $nginx->check_error_log(allowed => qr/open socket #\d+ left in connection/);

    my $next = start_nginx(redis => 'unix:' . $redis->socket, prefix => $prefix);
    is_first ask($next, '/upload/nginx', 'nginx-unsent', body => '.' x 100), 201, 1, 'it runs';
    app()->open_gate('nginx-sent');
    my $response;
    await(sub { $response = ask($next, '/nginx-sent?gate=nginx-sent', 'nginx-sent'); $response->code ne 'request_in_progress' }, 4);
    is_problem $response, 409, 'outcome_unknown', 'the outcome of the other request is unknown';
    is app()->count('/nginx-sent'), 1, 'and does not run again';
    $next->stop;
};

done_testing;
