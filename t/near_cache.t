# A Redis store with a near cache: a replay needs no command to Redis, works while Redis is unavailable, and is always the kept result.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Client qw(finish);
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Redis;
use IdempotencyTest::Requests qw(@who ask begin);

plan skip_all => 'is about the Redis store' if store_mode() ne 'redis';

my $redis = IdempotencyTest::Redis->new;
my $prefixes = 0;

my $server = <<'END';
        add_header X-Id $idempotency_key_id always;
        add_header X-Age $idempotency_age always;
        idempotency main;
        location / { proxy_pass http://app; }
        location /brief/ { idempotency_ttl 2s; proxy_pass http://app; }
        location /small/ { idempotency_max_body 1k; proxy_pass http://app; }
        location /lease/ { idempotency_lease 2s; proxy_pass http://app; }
END

sub stores {
    my ($prefix, $size) = @_;
    return 'idempotency_store main { redis unix:' . $redis->socket
        . "; prefix $prefix; timeout 800ms; connect_timeout 800ms; near_cache $size; }";
}

# An nginx with a near cache of `size` in front of this Redis.
sub start_nginx {
    my ($size, %options) = @_;
    my $prefix = $options{prefix} // 'p' . ++$prefixes . ':';
    return IdempotencyTest::Nginx->start(stores => stores($prefix, $size), server => $server,
        log_format => '$request_uri $status [$idempotency_status] $pid', prefix => $prefix, %options);
}

my $redis_was_down = qr/\[crit\].*connect\(\)/;

# A response that is passed through is complete before its outcome is recorded in Redis.
sub is_told_as_not_kept {
    my ($nginx, $path, $key, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $retry;
    await(sub { $retry = ask($nginx, $path, $key); $retry->code ne 'request_in_progress' });
    is_problem $retry, 409, 'response_not_kept', $name;
}

# The commands that nginx sends to Redis during the code.
sub commands {
    my ($code) = @_;
    return grep { !/"(?:ECHO|INFO|MONITOR|PING)"/ } $redis->commands_during($code);
}

# Without the fields that belong to the exchange.
sub is_same {
    my ($answer, $first, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my ($seen, $expected) = map { $_->lasting =~ s/^X-Age:.*?\r?\n//mgr } $answer, $first;
    return ok($answer->is_replay && $seen eq $expected, $name) || diag($answer->head, "\nthe first answer\n", $first->head);
}

subtest 'A replay needs no Redis' => sub {
    my $nginx = start_nginx('1m');
    my $first = ask($nginx, '/near', 'one');
    is_first $first, 201, 1, 'a request runs';
    my $retry;
    my @said = commands(sub { $retry = ask($nginx, '/near', 'one') for 1 .. 10 });
    is_same $retry, $first, 'its retry gets a replay';
    is join("\n", @said), '', 'no command is sent to Redis';
    @said = commands(sub { is_problem ask($nginx, '/near', 'one', body => 'other'), 422, 'idempotency_key_reused', 'another request with the key is refused' });
    is join("\n", @said), '', 'without a command to Redis, too';

    my $large = ask($nginx, '/small/large?size=2000', 'large');
    is_told_as_not_kept $nginx, '/small/large?size=2000', 'large', 'a retry of a request that was not kept gets response_not_kept';
    @said = commands(sub { is_problem ask($nginx, '/small/large?size=2000', 'large'), 409, 'response_not_kept', 'and again' });
    is join("\n", @said), '', 'without a command to Redis';
    is app()->count('/near') + app()->count('/small/large'), 2, 'each request ran once';

    ask($nginx, '/near?status=503', 'busy');
    @said = commands(sub { is ask($nginx, '/near?status=503', 'busy')->status, 503, 'what may be tried again' });
    is scalar(@said), 2, 'is not in the near cache either';
    $nginx->stop;
};

subtest 'Running requests are not in the near cache' => sub {
    my $nginx = start_nginx('1m');
    my $running = begin($nginx, '/runs', 'runs');
    is_problem ask($nginx, '/runs?gate=runs', 'runs'), 409, 'request_in_progress', 'a duplicate is refused' for 1 .. 2;
    app()->open_gate('runs');
    my $first = $running->response;
    is_first $first, 201, 1, 'the first request gets its response';
    is_same ask($nginx, '/runs?gate=runs', 'runs'), $first, 'and is then replayed at once';
    $nginx->stop;
};

subtest 'Redis is down' => sub {
    my $nginx = start_nginx('1m', workers => 4);
    my %first = map { $_ => ask($nginx, "/down/$_", "down-$_") } 1 .. 20;
    ask($nginx, '/small/down?size=2000', 'not-kept');
    is_told_as_not_kept $nginx, '/small/down?size=2000', 'not-kept', 'a response that is not kept is recorded as such';

    for my $how (['is stalled' => sub { $redis->stall }, sub { $redis->resume }], ['has died' => sub { $redis->kill }, sub { $redis->start }]) {
        my ($what, $begin, $end) = @$how;
        $begin->();
        my @answers = finish(map { $nginx->send_request(path => "/down/$_", key => "down-$_", @who) } 1 .. 20);
        is join(' ', grep { !$answers[$_ - 1]->is_replay || $answers[$_ - 1]->body ne $first{$_}->body } 1 .. 20), '', "while Redis $what, each result is replayed";
        is_problem ask($nginx, '/down/1', 'down-1', body => 'other'), 422, 'idempotency_key_reused', "while Redis $what, another request is refused";
        is_problem ask($nginx, '/small/down?size=2000', 'not-kept'), 409, 'response_not_kept', "while Redis $what, a retry of a request that was not kept gets response_not_kept";
        is_problem ask($nginx, '/down/new', 'new'), 503, 'store_unavailable', "while Redis $what, a new key is refused";
        is app()->count('/down/new'), 0, 'and does not run';
        $end->();
        ok await(sub { ask($nginx, "/down/after-$what" =~ tr/ /-/r, "after-$what" =~ tr/ /-/r)->status == 201 }), 'when Redis is available again requests with new keys run';
    }

    is scalar(grep { app()->count("/down/$_") != 1 } 1 .. 20), 0, 'each request ran once';
    $nginx->stop(allowed => $redis_was_down);
};

subtest 'A result that is not in Redis is not in the near cache' => sub {
    my $nginx = start_nginx('1m');
    my $running = begin($nginx, '/lease/untold', 'untold');
    $redis->kill;
    app()->open_gate('untold');
    is_first $running->response, 201, 1, 'a response is delivered though Redis is unavailable';
    is_problem ask($nginx, '/lease/untold?gate=untold', 'untold'), 503, 'store_unavailable', 'its retry is refused';
    $redis->start;
    ok await(sub { ask($nginx, '/lease/untold?gate=untold', 'untold')->status == 201 }), 'until Redis is available again';
    $nginx->stop(allowed => $redis_was_down);
};

subtest 'A copy in the near cache expires with the result' => sub {
    my $nginx = start_nginx('1m');
    my $first = ask($nginx, '/brief/end', 'end');
    my $name = $nginx->{prefix} . $first->header('X-Id');
    my $retry = ask($nginx, '/brief/end', 'end');
    is_same $retry, $first, 'a result is replayed';
    like $retry->header('X-Age'), qr/^[01]$/, 'the replay has an age';
    my $aged;
    ok await(sub { $aged = ask($nginx, '/brief/end', 'end'); !$aged->is_replay || $aged->header('X-Age') >= 1 }), 'the age grows';
    ok $aged->is_replay, 'while the result is in Redis';
    ok await(sub { !$redis->command('EXISTS', $name) }), 'when the result has expired in Redis';
    is_first ask($nginx, '/brief/end', 'end'), 201, 2, 'it is not replayed any more';

    $first = ask($nginx, '/brief/down', 'down');
    $redis->kill;
    is_same ask($nginx, '/brief/down', 'down'), $first, 'a result is replayed after Redis was killed';
    my $last;
    ok await(sub { $last = ask($nginx, '/brief/down', 'down'); !$last->is_replay }), 'until it expires';
    is_problem $last, 503, 'store_unavailable', 'then the request is refused, because the state of the key is not known';
    $redis->start;
    $nginx->stop(allowed => $redis_was_down);
};

subtest 'Two hosts' => sub {
    my $one = start_nginx('1m');
    my $two = start_nginx('1m', prefix => $one->{prefix});
    my $first = ask($one, '/hosts', 'hosts');
    my $retry;
    my @said = commands(sub { $retry = ask($two, '/hosts', 'hosts') });
    is_same $retry, $first, 'one nginx replays what the other has kept';
    is scalar(grep { /EVAL/ } @said), 1, 'after a command to Redis';
    @said = commands(sub { $retry = ask($two, '/hosts', 'hosts') for 1 .. 3 });
    is_same $retry, $first, 'and it replays it again';
    is join("\n", @said), '', 'without a command to Redis';

    $redis->kill;
    is_same ask($_, '/hosts', 'hosts'), $first, 'both replay it after Redis was killed' for $one, $two;
    $redis->start;
    is app()->count('/hosts'), 1, 'it was executed once';
    $_->stop(allowed => $redis_was_down) for $one, $two;
};

subtest 'Workers share the near cache, and a reload keeps it' => sub {
    my $nginx = start_nginx('1m', workers => 4);
    my $first = ask($nginx, '/shared', 'shared');
    my @workers = $nginx->workers;
    my @said = commands(sub {
        for my $worker (@workers) {
            is_same $nginx->over($worker, sub { ask($nginx, '/shared', 'shared') }), $first, "worker $worker replays it";
        }
    });
    is scalar(grep { /EVAL/ } @said), 0, 'and sends no command to Redis';

    $redis->kill;
    $nginx->reload;
    is_same ask($nginx, '/shared', 'shared'), $first, 'after a reload it is replayed without a command to Redis';

    kill KILL => $nginx->workers;
    @workers = $nginx->workers;
    ok await(sub { my $answer = eval { ask($nginx, '/shared', 'shared') }; $answer && $answer->is_replay && $answer->body eq $first->body }),
        'so it is when the workers have been killed';
    $redis->start;

    $nginx->set(stores => stores($nginx->{prefix}, '512k'))->reload;
    ok await(sub { ask($nginx, '/shared', 'shared-2')->status == 201 }), 'with another size the near cache is empty';
    $nginx->stop(allowed => qr/$redis_was_down|exited on signal 9/);
};

subtest 'A reload with another Redis, database or prefix' => sub {
    my $other = IdempotencyTest::Redis->new;
    my $nginx = start_nginx('1m');
    my $first = ask($nginx, '/moved', 'moved');
    my $store = $nginx->{stores};
    my $n = 1;

    for my $change (['prefix', qr/prefix \S+;/, 'prefix another:;'], ['Redis', qr/redis \S+;/, 'redis unix:' . $other->socket . ';'],
        ['database', qr/redis \S+;/, 'redis unix:' . $redis->socket . '; database 1;']) {
        my ($what, $old, $new) = @$change;
        $nginx->set(stores => $store =~ s/$old/$new/r)->reload;
        is_first ask($nginx, '/moved', 'moved'), 201, ++$n, "with another $what no copy of the old results is replayed";
    }

    $nginx->set(stores => $store)->reload;
    is_same ask($nginx, '/moved', 'moved'), $first, 'with the first Redis again its result is replayed';
    $nginx->stop;
};

# nginx logs the name of the shared memory: it must not depend on a password, which could be tried until the name matches.
subtest 'A reload with other credentials' => sub {
    my $address = $redis->address;
    my $store = stores('rotated:', '1m') =~ s{redis unix:[^;]+}{redis redis://$address}r;
    my $nginx = IdempotencyTest::Nginx->start(stores => $store, server => $server);
    my $first = ask($nginx, '/rotated', 'rotated');

    # the user `default` of this Redis takes any password
    for my $password (qw(sesame mustard)) {
        $nginx->set(stores => $store =~ s{redis://}{redis://default:$password@}r)->reload;
        my $retry;
        my @said = commands(sub { $retry = ask($nginx, '/rotated', 'rotated') });
        is_same $retry, $first, 'the result is replayed';
        is scalar(grep { /EVAL/ } @said), 0, 'from the near cache';
    }

    $nginx->stop;
};

subtest 'A result that an operator has deleted' => sub {
    my $nginx = start_nginx('1m');
    my $first = ask($nginx, '/forgotten', 'forgotten');
    my $name = $nginx->{prefix} . $first->header('X-Id');
    $redis->command('DEL', $name);
    is_same ask($nginx, '/forgotten', 'forgotten'), $first, 'for a minute it is still replayed';
    $nginx->stop;

    # the first request with a key makes nginx ask Redis
    $nginx = start_nginx('1m', prefix => $nginx->{prefix});
    is_first ask($nginx, '/forgotten', 'forgotten'), 201, 2, 'the key is free for an nginx without it in its near cache';
    my $value = $redis->command('GET', $name);
    $nginx->stop;

    $nginx = start_nginx('1m', prefix => $nginx->{prefix});
    $redis->command('SET', $name, substr($value, 0, -1), 'PX', 60_000);
    is_problem ask($nginx, '/forgotten', 'forgotten'), 503, 'store_unavailable', 'an incomplete record is refused';
    $redis->command('SET', $name, $value, 'PX', 60_000);
    is_same ask($nginx, '/forgotten', 'forgotten'), ask($nginx, '/forgotten', 'forgotten'), 'and is not in the near cache';
    $nginx->stop;
};

subtest 'With encryption' => sub {
    my $nginx = IdempotencyTest::Nginx->new(server => $server);
    my $file = $nginx->write_file('encryption.key', 'ab' x 32);
    chmod 0600, $file;
    my $store = stores('sealed:', '1m') =~ s/near_cache/encryption_key_file $file; near_cache/r;
    $nginx->set(stores => $store)->start;
    my $first = ask($nginx, '/sealed?text=plain-text', 'sealed');
    is_first $first, 201, 1, 'a request runs';
    my ($value) = map { $redis->command('GET', $_) } @{$redis->command('KEYS', 'sealed:*')};
    unlike $value, qr/plain-text/, 'the record in Redis is sealed';
    my $retry;
    my @said = commands(sub { $retry = ask($nginx, '/sealed?text=plain-text', 'sealed') });
    is_same $retry, $first, 'its retry gets a replay';
    is join("\n", @said), '', 'no command is sent to Redis';
    $nginx->stop;

    # another host, which asks Redis
    my $other = IdempotencyTest::Nginx->new(server => $server, stores => $store)->start;
    is_same ask($other, '/sealed?text=plain-text', 'sealed'), $first, 'another host opens it';
    @said = commands(sub { $retry = ask($other, '/sealed?text=plain-text', 'sealed') });
    is_same $retry, $first, 'and has a copy from then on';
    is join("\n", @said), '', 'without a command to Redis';
    $other->stop;
};

subtest 'Large responses' => sub {
    my $nginx = start_nginx('16m', workers => 1);
    for my $size (1024 * 1024 - 1, 1024 * 1024) {
        my $first = ask($nginx, "/large?kind=binary&size=$size", "large-$size");
        is length $first->body, $size, 'a response at the limit is complete';
        my @answers;
        my @said = commands(sub {
            @answers = finish(map { $nginx->send_request(path => "/large?kind=binary&size=$size", key => "large-$size", @who) } 1 .. 10);
        });
        is scalar(grep { !$_->is_replay || $_->body ne $first->body } @answers), 0, 'its replays are complete';
        is join("\n", @said), '', 'no command is sent to Redis';
    }

    my $first = ask($nginx, '/large/more?kind=binary&size=1048577', 'more');
    is length $first->body, 1048577, 'a larger response is delivered';
    ok await(sub { ask($nginx, '/large/more?kind=binary&size=1048577', 'more')->code eq 'response_not_kept' }), 'and recorded as not kept';
    $nginx->stop;
};

# Many more results than fit into the cache, of all sizes; some are too large for it.
subtest 'A cache that is too small' => sub {
    my $nginx = start_nginx('256k', workers => 3);
    my @sizes = (1, 300, 336, 500, 840, 2000, 8000, 20_000, 50_000, 62_000, 70_000, 300_000);
    my @known;

    for my $n (1 .. 120) {
        my $path = "/crowd/$n?kind=binary&size=" . ($sizes[$n % @sizes] + $n);
        push @known, {path => $path, key => "crowd-$n", first => ask($nginx, $path, "crowd-$n")};
    }

    my $wrong = 0;
    for my $round (1 .. 5) {
        my @order = sort { ($a * 7919 * $round) % 127 <=> ($b * 7919 * $round) % 127 } 0 .. $#known;
        for my $half ([@order[0 .. 59]], [@order[60 .. 119]]) {
            my @twice = (@$half, @$half);
            my @answers = finish(map { $nginx->send_request(path => $known[$_]{path}, key => $known[$_]{key}, @who) } @twice);
            $wrong += grep { !$answers[$_]->is_replay || $answers[$_]->body ne $known[$twice[$_]]{first}->body } 0 .. $#twice;
        }
    }
    is $wrong, 0, 'every replay is correct';
    is scalar(grep { app()->count("/crowd/$_") != 1 } 1 .. 120), 0, 'and no request ran twice';

    my $last = $known[3];
    my $retry;
    ask($nginx, $last->{path}, $last->{key});
    is scalar(commands(sub { $retry = ask($nginx, $last->{path}, $last->{key}) })), 0, 'the last used result is in the near cache';
    cmp_ok scalar(grep { /EVAL/ } commands(sub { ask($nginx, $known[-2]{path}, $known[-2]{key}) })), '>', 0, 'what is too large for it never is'
        for 1 .. 2;
    $nginx->stop;
};

done_testing;
