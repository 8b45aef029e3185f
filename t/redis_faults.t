# A Redis and a network that fail in every way: requests are refused in time and never hang, no client gets the response
# of another, other stores still work, and the store is available again when Redis is.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Client qw(finish);
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Redis;
use IdempotencyTest::Relay;
use IdempotencyTest::Requests qw(@who ask);
use Time::HiRes qw(sleep time);

plan skip_all => 'is about the Redis store' if store_mode() ne 'redis';

# `timeout` and `connect_timeout` below. A request waits for both at most; `slack` is for the time that this machine needs.
my $timeout = 0.3;
my $slack = 2;

my $redis = IdempotencyTest::Redis->new;
my $relay = IdempotencyTest::Relay->new(to => $redis->socket);
my $runs = 0;

my $server = <<'END';
        add_header X-Id $idempotency_key_id always;
        location /other/ { idempotency other; proxy_pass http://app; }
        location / { idempotency main; proxy_pass http://app; }
        location /pass/ { idempotency main; idempotency_store_error pass; proxy_pass http://app; }
        location /short/ { idempotency main; idempotency_lease 2s; idempotency_unknown hold 2s; proxy_pass http://app; }
END

sub start_nginx {
    my (%options) = @_;
    return IdempotencyTest::Nginx->start(
        redis => $relay->url, store => 'timeout 300ms; connect_timeout 300ms;', http => 'idempotency_store other { memory 1m; }',
        server => $server, log_format => '$request_uri $status [$idempotency_status]', workers => 1, %options);
}

# From the time that Redis is available again.
sub await_answer {
    my ($nginx, $path, $key, $name) = @_;
    my $start = time;
    my $answer;
    await(sub { $answer = ask($nginx, $path, $key); $answer->status != 503 });
    cmp_ok time() - $start, '<', 2 + $slack, "$name: the store is available again within two seconds";
    return $answer;
}

# Responses that contain their key; some need many reads.
sub prepare {
    my ($nginx) = @_;
    my $run = ++$runs;
    return map { my $path = "/known$run/$_" . ($_ % 4 ? '' : '?size=200000'); {path => $path, key => "known-$run-$_", first => ask($nginx, $path, "known-$run-$_")} } 1 .. 12;
}

# The responses to retries of all keys at once.
sub has_own_answers {
    my ($nginx, $name, @known) = @_;
    my @answers = finish(map { $nginx->send_request(path => $_->{path}, key => $_->{key}, @who) } @known);
    is join(' ', map { $known[$_]{path} } grep { !$answers[$_]->is_replay || $answers[$_]->lasting ne $known[$_]{first}->lasting } 0 .. $#known), '',
        "$name: afterwards each key has its own answer";
}

# Each response is the correct one or a refusal, and none is late.
sub are_refused_or_right {
    my ($nginx, $name, @known) = @_;
    my @answers = finish(map { $nginx->send_request(path => $_->{path}, key => $_->{key}, @who) } @known);
    my @wrong = grep { $answers[$_]->code ne 'store_unavailable' && $answers[$_]->lasting ne $known[$_]{first}->lasting } 0 .. $#known;
    is join(' ', map { "$known[$_]{path}: " . $answers[$_]->status_line } @wrong), '', "$name: no client gets the response of another";
    my ($longest) = sort { $b <=> $a } map { $_->elapsed // 99 } @answers;
    cmp_ok $longest, '<', 2 * $timeout + $slack, "$name: no request waits longer than `timeout`";
    return @answers;
}

# A fault of the network to Redis: code that begins it and code that ends it.
my @ways = (
    ['the network stops' => sub { $relay->do('hold') }, sub { $relay->do('pass') }],
    ['replies get lost' => sub { $relay->do('mute') }, sub { $relay->do('pass') }],
    ['a reply stops after its first byte' => sub { $relay->do('cut', 1) }, sub { $relay->do('pass') }],
    ['a reply stops in its middle' => sub { $relay->do('cut', 100) }, sub { $relay->do('pass') }],
    ['a reply stops ahead of its last bytes' => sub { $relay->do('cut-behind', unpack 'H*', "...\r\n") }, sub { $relay->do('pass') }],
    ['a connection is closed in the middle of a reply' => sub { $relay->do('sever', 100) }, sub { $relay->do('pass') }],
    ['garbage comes ahead of a reply' => sub { $relay->do('insert', unpack 'H*', "\0\1\2nonsense\r\n") }, sub { $relay->do('pass') }],
    ['HTTP comes in place of a reply' => sub { $relay->do('replace', unpack 'H*', "HTTP/1.1 400 Bad Request\r\n\r\n") }, sub { $relay->do('pass') }],
    ['a reply of another kind comes ahead' => sub { $relay->do('insert', unpack 'H*', "+OK\r\n") }, sub { $relay->do('pass') }],
    ['a list too long comes ahead' => sub { $relay->do('insert', unpack 'H*', "*3\r\n:1\r\n:2\r\n:3\r\n") }, sub { $relay->do('pass') }],
    ['a list within a list comes ahead' => sub { $relay->do('insert', unpack 'H*', "*2\r\n*1\r\n:1\r\n:1\r\n") }, sub { $relay->do('pass') }],
    ['a length that is none comes ahead' => sub { $relay->do('insert', unpack 'H*', "\$-77\r\n") }, sub { $relay->do('pass') }],
    ['a length without bytes comes ahead' => sub { $relay->do('insert', unpack 'H*', "\$99999999\r\n") }, sub { $relay->do('pass') }],
    ['replies come late' => sub { $relay->do('delay', 0.5) }, sub { $relay->do('pass') }],
    ['all connections are closed' => sub { $relay->do('close') }, sub { }],
    ['Redis is not to be connected to' => sub { $relay->do('refuse') }, sub { $relay->do('accept') }],
);

subtest 'The way to Redis' => sub {
    my $nginx = start_nginx();
    my @known = prepare($nginx);
    is_first $_->{first}, 201, 1, 'a request runs' for @known;

    for my $way (@ways) {
        my ($name, $begin, $end) = @$way;

        $begin->();
        are_refused_or_right($nginx, $name, @known);
        my $other = ask($nginx, "/other/$name" =~ tr/ /-/r, $name =~ tr/ /-/r);
        ok $other->status == 201 && $other->elapsed < $slack, "$name: another store still works";
        is ask($nginx, '/pass/' . $name =~ tr/ /-/r, 'pass-' . $name =~ tr/ /-/r)->status, 201, "$name: with idempotency_store_error pass requests run";
        $end->();

        await_answer($nginx, '/after/' . $name =~ tr/ /-/r, $name =~ tr/ /-/r, $name);
        has_own_answers($nginx, $name, @known);
    }

    # Only one request here: a missing reply that is followed by other replies cannot be detected.
    $relay->do('replace', unpack 'H*', "-\xff\xfe\0 what\r\n");
    is_problem ask($nginx, $known[0]{path}, $known[0]{key}), 503, 'store_unavailable', 'a request is refused when Redis replies with an unknown error';
    is_replay_of ask($nginx, $known[0]{path}, $known[0]{key}), $known[0]{first}, 'and nothing else goes wrong';
    has_own_answers($nginx, 'an unknown error', @known);

    is app()->count($_->{path} =~ s/\?.*//r), 1, "the application executed the request once ($_->{path})" for @known;
    $nginx->stop(allowed => qr/\[crit\].*connect\(\)/);
};

# An error reply of Redis.
sub has_error {
    my ($name, $code, $begin, $end, %options) = @_;

    subtest $name => sub {
        my $nginx = start_nginx(redis => $options{redis} // 'redis://127.0.0.1:' . $redis->port);
        my ($path, $key) = ("/$code/new", "$code-new");
        my $first = ask($nginx, "/$code/kept", "$code-kept");
        is_first $first, 201, 1, 'a request runs';
        my $running = $nginx->send_request(path => "/$code/running?gate=$code", key => "$code-running", @who);
        app()->await_arrival("/$code/running");

        $begin->();
        for my $n (1 .. 3) {
            my $answer = ask($nginx, $path, $key);
            is_problem $answer, 503, 'store_unavailable', 'a new request is refused';
            cmp_ok $answer->elapsed, '<', 2 * $timeout + $slack, 'within the timeouts';
        }
        is app()->count($path), 0, 'and does not run';
        is ask($nginx, "/pass$path", "pass-$key")->status, 201, 'with idempotency_store_error pass it runs';
        is ask($nginx, "/other$path", "other-$key")->status, 201, 'another store still works';
        my $retry = ask($nginx, "/$code/kept", "$code-kept");
        ok $retry->code eq 'store_unavailable' || $retry->lasting eq $first->lasting, 'a retry is refused or replayed';
        ok $nginx->await_error_log(qr/\[error\].*\b$code\b/), "the error log says $code" if $code ne 'restart';

        app()->open_gate($code);
        my $answer = $running->response;
        is_first $answer, 201, 1, 'a running request gets its response';
        $end->();

        is_first await_answer($nginx, $path, $key, $name), 201, 1, 'then the refused request runs';
        is_replay_of ask($nginx, "/$code/kept", "$code-kept"), $first, 'kept responses are replayed';
        await(sub { $retry = ask($nginx, "/$code/running?gate=$code", "$code-running"); $retry->status == 201 });
        is_replay_of $retry, $answer, 'a response that could not be kept at once is replayed, too';
        is app()->count("/$code/running"), 1, 'its request ran once';
        $nginx->stop(allowed => qr/\[crit\].*connect\(\)/);
    };
}

my $address = '127.0.0.1:' . $redis->port;

has_error 'Redis only reads', 'READONLY', sub { $redis->command('REPLICAOF', '127.0.0.1', '1') }, sub { $redis->command('REPLICAOF', 'NO', 'ONE') };
has_error 'Redis has no room', 'OOM', sub { $redis->command('CONFIG', 'SET', 'maxmemory', '1', 'maxmemory-policy', 'noeviction') },
    sub { $redis->command('CONFIG', 'SET', 'maxmemory', '0') };
has_error 'Redis cannot save', 'MISCONF',
    sub {
        my ($directory) = $redis->command('CONFIG', 'GET', 'dir')->[1];
        # so that no file can be renamed to it
        mkdir "$directory/dump.rdb" or die "mkdir: $!\n";
        $redis->command('CONFIG', 'SET', 'save', '3600 1', 'stop-writes-on-bgsave-error', 'yes');
        await(sub { eval { $redis->command('BGSAVE') } });
        ok await(sub { $redis->command('INFO', 'persistence') =~ /rdb_last_bgsave_status:err/ }), 'Redis could not save';
    },
    sub {
        $redis->command('CONFIG', 'SET', 'save', '', 'stop-writes-on-bgsave-error', 'no');
        rmdir $redis->command('CONFIG', 'GET', 'dir')->[1] . '/dump.rdb';
    };
has_error 'Redis wants a password', 'NOAUTH',
    sub { $redis->command('CONFIG', 'SET', 'requirepass', 'sesame'); $redis->command('CLIENT', 'KILL', 'TYPE', 'normal') },
    sub { $redis->command('CONFIG', 'SET', 'requirepass', '') };

$redis->command(qw(ACL SETUSER shop on >word ~* &* +@all));
has_error 'Redis knows another password', 'WRONGPASS',
    sub { $redis->command(qw(ACL SETUSER shop resetpass >another)); $redis->command('CLIENT', 'KILL', 'TYPE', 'normal') },
    sub { $redis->command(qw(ACL SETUSER shop resetpass >word)) }, redis => "redis://shop:word\@$address";
has_error 'Redis forbids scripts', 'NOPERM', sub { $redis->command(qw(ACL SETUSER shop -evalsha -eval)) },
    sub { $redis->command(qw(ACL SETUSER shop +@all)) }, redis => "redis://shop:word\@$address";

{
    my $spins = IdempotencyTest::Redis->new(socket => $redis->socket);
    $redis->command('CONFIG', 'SET', 'lua-time-limit', '50');
    has_error 'Redis is busy', 'BUSY',
        sub { $spins->send_command('EVAL', 'while true do end', 0); ok await(sub { !eval { $redis->command('PING') } && $@ =~ /BUSY/ }), 'a script spins' },
        sub { $redis->command('SCRIPT', 'KILL'); eval { $spins->read_reply } };
}

# Redis loads its data for two seconds.
{
    my @arguments = ('--key-load-delay', '1000', '--loading-process-events-interval-bytes', '1024');
    has_error 'Redis loads', 'LOADING',
        sub {
            # before the keys that make loading slow
            $redis->command('EVAL', q{for i = 1, 2000 do redis.call('SET', 'load:' .. i, ('x'):rep(1100)) end}, 0);
            $redis->command('SAVE');
            $redis->stop;
            local $redis->{arguments} = \@arguments;
            $redis->start(until => sub { !eval { $redis->command('PING') } && $@ =~ /LOADING/ });
        },
        sub { ok await(sub { eval { $redis->command('PING') } }), 'it has loaded' };
    $redis->command('FLUSHALL');
}

subtest 'All connections of Redis are closed' => sub {
    my $nginx = start_nginx(redis => "redis://$address");
    my @known = prepare($nginx);

    for my $n (1 .. 5) {
        my $running = $nginx->send_request(path => "/killed/$n?gate=killed$n", key => "killed-$n", @who);
        app()->await_arrival("/killed/$n");
        $redis->command('CLIENT', 'KILL', 'TYPE', 'normal');
        app()->open_gate("killed$n");
        my $answer = $running->response;
        is_first $answer, 201, 1, 'a running request gets its response';
        await_answer($nginx, "/killed/$n/after", "killed-after-$n", 'closed');
        my $retry;
        await(sub { $retry = ask($nginx, "/killed/$n?gate=killed$n", "killed-$n"); $retry->status == 201 });
        is_replay_of $retry, $answer, 'the response is kept';
        # large values use a separate connection
        await(sub { ask($nginx, $known[3]{path}, $known[3]{key})->status != 503 });
        has_own_answers($nginx, 'closed', @known);
    }

    $nginx->stop;
};

subtest 'Redis restarts empty' => sub {
    my $nginx = start_nginx(redis => "redis://$address");
    my $first = ask($nginx, '/empty', 'empty');
    $redis->kill;
    is_problem ask($nginx, '/empty', 'empty'), 503, 'store_unavailable', 'while Redis is unavailable requests are refused' for 1 .. 3;
    $redis->start;
    is_first await_answer($nginx, '/empty', 'empty', 'empty'), 201, 2, 'a request whose record Redis has lost runs again';
    ok ask($nginx, '/empty', 'empty')->is_replay, 'and is kept';
    $nginx->stop(allowed => qr/\[crit\].*connect\(\)/);
};

# Calls of one connection keep their order: retried outcomes are sent before the first request after Redis is available again.
for my $way (['away', sub { $relay->do('refuse') }, sub { $relay->do('accept') }],
             ['stalled', sub { $redis->stall }, sub { $redis->resume }])
{
    my ($name, $begin, $end) = @$way;

    subtest "Outcomes that were not recorded while Redis was $name" => sub {
        my $nginx = start_nginx();
        my %running = map { $_ => $nginx->send_request(path => "/untold/$name$_?gate=untold$name$_", key => "untold-$name$_", @who) } 1 .. 20, 'on';
        app()->await_arrival("/untold/$name$_") for sort keys %running;
        my $on = delete $running{on};

        my (%first, %retry);
        my @commands = $redis->commands_during(sub {
            $begin->();
            is_problem ask($nginx, '/untold/refused', 'untold-refused'), 503, 'store_unavailable', 'requests are refused' for 1 .. 2;
            app()->open_gate("untold$name$_") for keys %running;
            $first{$_} = $running{$_}->response for keys %running;
            is scalar(grep { $_->status == 201 } values %first), 20, 'running requests get their responses';

            # by now the next attempt of each is not due soon
            ok await(sub { 20 == (() = $nginx->error_log =~ /the outcome of the request is not recorded yet/g) }), 'and their outcomes are not recorded yet';
            sleep 1.6;

            $end->();
            await_answer($nginx, "/untold/back$name", "untold-back$name", $name);
            $retry{$_} = ask($nginx, "/untold/$name$_?gate=untold$name$_", "untold-$name$_") for keys %first;
        });
        is join(' ', grep { !$retry{$_}->is_replay || $retry{$_}->lasting ne $first{$_}->lasting } sort keys %first), '',
            'when Redis is back it is told at once';

        my $id = ask($nginx, "/untold/${name}on?gate=untold${name}on", "untold-${name}on")->header('X-Id');
        ok scalar(grep { /\Q$id\E/ } @commands), 'and the claim of a running request is renewed at once';
        app()->open_gate("untold${name}on");
        is_first $on->response, 201, 1, 'and the response of this request is kept';
        $nginx->stop(allowed => qr/\[crit\].*connect\(\)/);
    };
}

subtest 'A client disconnects before Redis has kept the response' => sub {
    my $nginx = start_nginx(store => 'timeout 700ms; connect_timeout 300ms;');
    my %expected = (fails => 'STORE_ERROR', works => 'NEW');

    for my $redis (sort keys %expected) {
        for my $when ('before', 'meanwhile') {
            my $path = "/left/$redis-$when";
            my $client = $nginx->send_request(path => "$path?gate=$redis$when", key => "left-$redis-$when", @who);
            app()->await_arrival($path);
            $client->close if $when eq 'before';
            $redis eq 'fails' ? $relay->do('hold') : $relay->do('delay', 0.4);
            app()->open_gate("$redis$when");
            app()->await_answer($path);
            sleep 0.1;
            $client->close if $when eq 'meanwhile';

            like $nginx->await_access_log(qr{\Q$path\E\?}), qr/\[$expected{$redis}\]/, "the log has the status for Redis that $redis ($when)";
            $relay->do('pass');
            my $retry;
            await(sub { $retry = ask($nginx, "$path?gate=$redis$when", "left-$redis-$when"); $retry->status == 201 });
            ok $retry->is_replay, "and a retry gets a replay ($redis, $when)";
        }
    }

    $nginx->stop;
};

sub memory_of {
    my ($pid) = @_;
    my ($size) = slurp("/proc/$pid/status") =~ /^VmRSS:\s+(\d+) kB/m;
    return $size // 0;
}

# Every request that ran when Redis became unavailable has a response that waits to be kept.
subtest 'Many responses that cannot be kept' => sub {
    my $nginx = start_nginx(workers => 1);
    my ($worker) = $nginx->workers;
    my $before;
    my ($many, $size) = (40, 200_000);

    my $round = sub {
        my ($place, $round) = @_;
        my @running = map { $nginx->send_request(path => "$place$round/$_?gate=many$place$round&size=$size", key => "many$place$round-$_", @who) } 1 .. $many;
        app()->await_arrival("$place$round/$_") for 1 .. $many;
        $relay->do('refuse');
        app()->open_gate("many$place$round");
        my @answers = finish(@running);
        is scalar(grep { $_->status == 201 && length $_->body == $size } @answers), $many, 'all responses are delivered';
        return @answers;
    };

    # responses that are kept later
    my @first = $round->('/later', 1);
    $relay->do('accept');
    await_answer($nginx, '/later/back', 'later-back', 'many');
    my @kept;
    await(sub {
        @kept = finish(map { $nginx->send_request(path => "/later1/$_?gate=many/later1&size=$size", key => "many/later1-$_", @who) } 1 .. $many);
        $many == grep { $_->status == 201 } @kept;
    });
    is scalar(grep { $kept[$_]->is_replay && $kept[$_]->lasting eq $first[$_]->lasting } 0 .. $#kept), $many, 'and kept when Redis is available again before their leases expire';

    # responses whose lease expires before
    for my $n (1 .. 3) {
        $round->('/short/', $n);
        ok await(sub { $many * $n == (() = $nginx->error_log =~ /the outcome of the request was not recorded/g) }), 'the log has a line for each that was given up';
        $relay->do('accept');
        await_answer($nginx, "/short/back$n", "short-back$n", 'given up');
        $before = memory_of($worker) if $n == 1;
    }

    my $growth = memory_of($worker) - $before;
    # a sanitizer does not return freed memory
    cmp_ok $growth * 1024, '<', $many * $size / 2, 'what was given up takes no memory any more'
        if ($ENV{IDEMPOTENCY_MODULE} // '') !~ /asan/;
    $nginx->stop(allowed => qr/\[crit\].*connect\(\)/);
};

done_testing;
