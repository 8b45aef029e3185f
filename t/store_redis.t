# The Redis store: what it keeps, the commands of a request, and requests when Redis fails.

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
use IdempotencyTest::Requests qw(@who ask await_status begin);
use IdempotencyTest::Scenarios qw(is_kept_over_a_reload);
use Time::HiRes qw(time);

plan skip_all => 'is about the Redis store' if store_mode() ne 'redis';

my $redis = IdempotencyTest::Redis->new;
my $socket = $redis->socket;

my $server = <<'END';
        add_header X-Id $idempotency_key_id always;
        add_header X-Status $idempotency_status always;
        idempotency main;
        location / { proxy_pass http://app; }
        location /pass/ { idempotency_store_error pass; proxy_pass http://app; }
        location /ttl/ { idempotency_ttl 100s; idempotency_lease 17s; proxy_pass http://app; }
        location /small/ { idempotency_max_body 1k; proxy_pass http://app; }
END

# An nginx over this Redis; `store`: more directives of its store.
sub start_nginx {
    my (%options) = @_;
    return IdempotencyTest::Nginx->start(
        redis => "unix:$socket", server => $server, log_format => '$request_uri $status [$idempotency_status]', %options);
}

# a word that the tests look for in places where no credential may be
@who = (headers => ['X-API-Key: alice-credential']);

subtest 'What is kept' => sub {
    my $nginx = start_nginx();
    my $first = ask($nginx, '/ttl/kept', 'precious-key');
    is_first $first, 201, 1, 'a request runs';

    my $id = $first->header('X-Id');
    like $id, qr/^[0-9a-f]{64}$/, 'its key has an identity';
    my $name = $nginx->{prefix} . $id;
    my $contents = $redis->contents;
    is join(' ', keys %$contents), $name, 'Redis has one key: the prefix and the identity';
    like $contents->{$name}, qr/^IDM\x01\0\0\0K/, 'and its value is a kept record of version 1';

    my $left = $redis->command('PTTL', $name);
    ok $left > 95_000 && $left <= 100_000, 'which expires after idempotency_ttl' or diag $left;

    my $running = $nginx->send_request(path => '/ttl/running?gate=kept', key => 'running-key', @who);
    app()->await_arrival('/ttl/running');
    $contents = $redis->contents;
    my ($claim) = grep { $_ ne $name } keys %$contents;
    like $contents->{$claim}, qr/^IDM\x01\0\0\0R/, 'a running request has a claim';
    $left = $redis->command('PTTL', $claim);
    ok $left > 112_000 && $left <= 117_000, 'which expires after its lease and the time for which its outcome is then held' or diag $left;

    $contents = $redis->contents;
    my $all = join "\n", %$contents;
    unlike $all, qr/precious-key|running-key|alice-credential/, 'neither key nor credential is in Redis in plain text';
    app()->open_gate('kept');
    is_first $running->response, 201, 1, 'the running request gets its response';

    $nginx->stop;
    unlike join("\n", $nginx->error_log, $nginx->access_log), qr/precious-key|running-key|alice-credential/,
        'neither key nor credential is in a log';
};

subtest 'Retriable responses and refusals leave no key in Redis' => sub {
    my $nginx = start_nginx();
    my $first = ask($nginx, '/busy?status=503', 'busy');
    is $first->status, 503, 'a retriable response is delivered';
    is_problem ask($nginx, '/busy', 'a b'), 400, 'idempotency_key_invalid', 'an invalid key is refused';
    ok await(sub { !grep { /^\Q$nginx->{prefix}/ } keys %{$redis->contents} }), 'neither of them leaves a key in Redis';
    $nginx->stop;
};

# Redis sees the end of other, closed connections a little later.
sub connections_are {
    my ($count, $what) = @_;
    my @clients;
    ok await(sub { @clients = $redis->command('CLIENT', 'LIST') =~ /^(id=.*)/mg; @clients == $count + 1 }), $what or diag join "\n", @clients;
}

subtest 'Round trips' => sub {
    # with one worker: after a request its connection exists and Redis knows the scripts
    my $nginx = start_nginx(workers => 1);
    ask($nginx, '/warm', 'warm');

    # PING and INFO: a worker checks the server from time to time
    my $of_a_request = sub { grep { !/"(?:ECHO|MONITOR|PING|INFO)"/ } $redis->commands_during($_[0]) };
    my @first = $of_a_request->(sub { ask($nginx, '/trips', 'trips') });
    is scalar(@first), 2, 'a first request takes one command to claim and one to keep' or diag explain \@first;

    my @replay = $of_a_request->(sub { is ask($nginx, '/trips', 'trips')->is_replay, 1, 'a retry is replayed' });
    is scalar(@replay), 1, 'a replay takes one command' or diag explain \@replay;

    my @uncovered = $of_a_request->(sub { ask($nginx, '/trips', 'trips', method => 'GET') });
    is scalar(@uncovered), 0, 'a request that is not covered sends no command';

    finish(map { $nginx->send_request(path => "/many/$_", key => "many-$_", @who) } 1 .. 100);
    connections_are(1, 'a hundred requests at once share the one connection');
    $nginx->stop;

    $nginx = start_nginx(workers => 1, store => 'connections 3;');
    finish(map { $nginx->send_request(path => "/more/$_", key => "more-$_", @who) } 1 .. 30);
    connections_are(3, 'with `connections 3` they share three');
    $nginx->stop;
};

subtest 'Two nginx share a store' => sub {
    my $one = start_nginx();
    my $two = start_nginx(stores => $one->{stores});
    my $first = ask($one, '/shared', 'shared');
    my $retry = ask($two, '/shared', 'shared');
    is $retry->body, $first->body, 'one nginx replays what the other has kept';
    ok $retry->is_replay, 'the response is a replay';

    my $running = $one->send_request(path => '/shared/running?gate=shared', key => 'running', @who);
    app()->await_arrival('/shared/running');
    is_problem ask($two, '/shared/running?gate=shared', 'running'), 409, 'request_in_progress', 'a request that runs at one host is in progress at the other';
    app()->open_gate('shared');
    is_first $running->response, 201, 1, 'and gets its response';
    $_->stop for $one, $two;
};

subtest 'SCRIPT FLUSH' => sub {
    my $nginx = start_nginx();
    my $first = ask($nginx, '/flushed', 'one');
    $redis->command('SCRIPT', 'FLUSH');
    is_replay_of ask($nginx, '/flushed', 'one'), $first, 'a result is replayed when Redis has forgotten its scripts';

    my $running = $nginx->send_request(path => '/flushed?gate=flushed', key => 'two', @who);
    app()->await_arrival('/flushed', 2);
    $redis->command('SCRIPT', 'FLUSH');
    app()->open_gate('flushed');
    my $second = $running->response;
    is_first $second, 201, 2, 'a request that ran during the flush gets its response';
    is_replay_of ask($nginx, '/flushed?gate=flushed', 'two'), $second, 'and its response was kept';

    $redis->command('SCRIPT', 'FLUSH');
    is ask($nginx, '/flushed?status=503,201', 'three')->status, 201, 'a claim is granted';
    $nginx->stop;
};

subtest 'Values that are not records of this module' => sub {
    my $nginx = start_nginx();
    my $path = '/damaged';
    my $first = ask($nginx, $path, 'damaged');
    my $id = $first->header('X-Id');
    my $name = $nginx->{prefix} . $id;
    my $good = $redis->command('GET', $name);

    my $set = sub { my ($value) = @_; $redis->command('SET', $name, $value, 'PX', 60_000) };
    my @damage = (
        ['nothing at all' => sub { $set->('') }],
        ['garbage' => sub { $set->('garbage') }],
        ['a long stretch of garbage' => sub { $set->(join '', map { chr($_ * 7 % 256) } 1 .. 10_000) }],
        ['a record of a newer version' => sub { my $v = $good; substr($v, 3, 1) = "\x02"; $set->($v) }],
        ['a record of another magic' => sub { my $v = $good; substr($v, 0, 3) = 'IDX'; $set->($v) }],
        ['a record of an unknown state' => sub { my $v = $good; substr($v, 7, 1) = 'Z'; $set->($v) }],
        ['a record with a byte changed' => sub { my $v = $good; substr($v, -1, 1) ^= "\x01"; $set->($v) }],
        ['a record with another fingerprint' => sub { my $v = $good; substr($v, 20, 1) ^= "\x01"; $set->($v) }],
        ['a record that claims to be larger' => sub { my $v = $good; substr($v, 72, 4) = "\xff\xff\xff\xff"; $set->($v) }],
        ['a record with more behind it' => sub { $set->($good . 'x') }],
        (map { my $n = $_; ["a record cut after $n bytes" => sub { $set->(substr $good, 0, $n) }] } 1, 8, 79, 80, 100, length($good) - 1),
        ['a list' => sub { $redis->command('DEL', $name); $redis->command('RPUSH', $name, 'a', 'b') }],
        ['a hash' => sub { $redis->command('DEL', $name); $redis->command('HSET', $name, 'a', 'b') }],
    );

    for my $damage (@damage) {
        my ($what, $make) = @$damage;
        $make->();
        my $before = $redis->command('DUMP', $name);
        my $length = length $nginx->error_log;

        is_problem ask($nginx, $path, 'damaged'), 503, 'store_unavailable', "$what gives a 503";
        like substr($nginx->error_log, $length), qr/\[(?:error|info)\].*idempotency.*\Q$id\E/i, "the error log has a line about $what, with the identity of the key";
        is $redis->command('DUMP', $name), $before, "$what is not changed";
    }

    is app()->count($path), 1, 'the application got no further request';
    $redis->command('DEL', $name);
    $set->($good);
    is_replay_of ask($nginx, $path, 'damaged'), $first, 'the record itself is replayed';

    # the same with idempotency_store_error pass
    $id = ask($nginx, '/pass/damaged', 'pass-damaged')->header('X-Id');
    $redis->command('SET', "$nginx->{prefix}$id", 'garbage', 'PX', 60_000);
    is_problem ask($nginx, '/pass/damaged', 'pass-damaged'), 503, 'store_unavailable', 'with idempotency_store_error pass garbage gives a 503 too';
    $redis->command('DEL', "$nginx->{prefix}$id");
    $redis->command('HSET', "$nginx->{prefix}$id", 'a', 'b');
    is_problem ask($nginx, '/pass/damaged', 'pass-damaged'), 503, 'store_unavailable', 'and so does a hash';
    is app()->count('/pass/damaged'), 1, 'neither is executed again';
    $nginx->stop;
};

subtest 'A value that is larger than any result' => sub {
    my $nginx = start_nginx(http => 'idempotency_max_body 2m;', store => 'timeout 15s;');
    my $name = $nginx->{prefix} . ask($nginx, '/huge', 'huge')->header('X-Id');
    my $most_used = sub {
        my ($most) = sort { $b <=> $a } map { slurp("/proc/$_/status") =~ /VmHWM:\s+(\d+)/ ? $1 : 0 } $nginx->workers;
        return $most;
    };
    my $before = $most_used->();
    my $size = 70_000_000;

    $redis->command('DEL', $name);
    $redis->command('SETRANGE', $name, $size - 1, 'x');
    is_problem ask($nginx, '/huge', 'huge'), 503, 'store_unavailable', 'it is a 503';
    like $nginx->error_log, qr{its value is too large for a record}, 'the error log has a line about it';
    cmp_ok $most_used->() - $before, '<', 30_000, 'and it uses no memory of the worker';
    is $redis->command('STRLEN', $name), $size, 'it is not changed';
    $redis->command('DEL', $name);
    $nginx->stop;
};

subtest 'Values of other keys' => sub {
    my $nginx = start_nginx();
    my $path = '/swapped';
    my %first = map { $_ => ask($nginx, $path, $_) } qw(one two);
    my ($one, $two) = map { $nginx->{prefix} . $first{$_}->header('X-Id') } qw(one two);
    my @values = map { $redis->command('GET', $_) } $one, $two;

    # equal requests: their records differ in the key only
    $redis->command('SET', $one, $values[1], 'PX', 60_000);
    $redis->command('SET', $two, $values[0], 'PX', 60_000);

    for my $key (qw(one two)) {
        my $id = $first{$key}->header('X-Id');
        is_problem ask($nginx, $path, $key), 503, 'store_unavailable', "the response of another key is not replayed for $key";
        ok $nginx->await_error_log(qr/\[(?:error|info)\].*the value of key \Q$id\E .* is corrupt, or belongs to another key/), 'the error log has a line about it';
    }

    is app()->count($path), 2, 'the application got no further request';
    $redis->command('SET', $one, $values[0], 'PX', 60_000);
    is_replay_of ask($nginx, $path, 'one'), $first{one}, 'the record itself is replayed';
    $nginx->stop;
};

subtest 'A response is delivered only after it is kept' => sub {
    my $nginx = start_nginx(store => 'timeout 15s;');
    my $running = begin($nginx, '/after', 'after');
    $redis->stall;
    app()->open_gate('after');
    app()->await_answer('/after');
    ok $running->is_silent_for(0.5), 'before Redis has confirmed the record the client gets nothing';
    $redis->resume;
    my $first = $running->response;
    is_first $first, 201, 1, 'then the response is delivered';
    is_replay_of ask($nginx, '/after?gate=after', 'after'), $first, 'and its retry gets a replay';
    $nginx->stop;
};

subtest 'Redis stalls' => sub {
    my $nginx = start_nginx(store => 'timeout 300ms; connect_timeout 300ms;');
    my $first = ask($nginx, '/stalled', 'before');
    $redis->stall;

    my $answer = ask($nginx, '/stalled', 'during');
    is_problem $answer, 503, 'store_unavailable', 'a request is refused';
    like $answer->header('Retry-After'), qr/^[1-9]\d*$/, 'with Retry-After';
    is $answer->header('X-Status'), 'STORE_ERROR', '$idempotency_status is STORE_ERROR';
    cmp_ok $answer->elapsed, '>=', 0.25, 'after `timeout`';
    cmp_ok $answer->elapsed, '<', 3, 'and not much later';
    is_problem ask($nginx, '/stalled', 'before'), 503, 'store_unavailable', 'a retry is refused too: it is not known whether there is a result';
    is app()->count('/stalled'), 1, 'neither request runs';
    ok $nginx->await_error_log(qr/\[error\].*(?:idempotency|redis)/i), 'the error log has a line about it';

    # both workers learn that the store is unavailable
    ask($nginx, '/stalled', "during-$_") for 1 .. 10;
    my @slow = grep { $_->elapsed > 0.2 } map { ask($nginx, '/stalled', "known-$_") } 1 .. 10;
    cmp_ok scalar(@slow), '<=', 2, 'once it is known requests are refused at once';

    $answer = ask($nginx, '/pass/stalled', 'during');
    is_first $answer, 201, 1, 'with idempotency_store_error pass requests run';
    is $answer->header('X-Status'), 'STORE_ERROR', 'with $idempotency_status STORE_ERROR';

    $redis->resume;
    is_replay_of await_status($nginx, '/stalled', 'before', 201), $first, 'when Redis is available again a retry gets a replay';
    $nginx->stop;
};

subtest 'Late replies of Redis are not used for another request' => sub {
    my $nginx = start_nginx(workers => 1, store => 'timeout 700ms;');
    my %first = map { $_ => ask($nginx, "/late/$_", "late-$_") } 1 .. 20;

    $redis->stall;
    my @late = finish(map { $nginx->send_request(path => "/late/$_", key => "late-$_", @who) } 1 .. 10);
    is scalar(grep { $_->status == 503 } @late), 10, 'requests are refused if the replies of Redis do not arrive';
    $redis->resume;

    await_status($nginx, '/late/11', 'late-11', 201);
    my @wrong = grep { my $answer = ask($nginx, "/late/$_", "late-$_"); $answer->lasting ne $first{$_}->lasting } reverse 1 .. 20;
    is "@wrong", '', 'each request gets its own response afterwards';
    $nginx->stop;
};

subtest 'Redis becomes unavailable and available again' => sub {
    my $nginx = start_nginx(workers => 1, store => 'timeout 500ms; connect_timeout 500ms;');
    my $first = ask($nginx, '/down', 'before');
    is_first $first, 201, 1, 'a request runs';

    $redis->stop;
    my @refused = map { ask($nginx, '/down', "during-$_") } 1 .. 10;
    is scalar(grep { $_->status == 503 && $_->code eq 'store_unavailable' } @refused), 10, 'while Redis is down requests are refused';
    my @slow = grep { $_->elapsed > 0.2 } @refused[4 .. 9];
    is scalar(@slow), 0, 'at once' or diag join ' ', map { $_->elapsed } @refused;
    is app()->count('/down'), 1, 'and the requests do not run';
    is_first ask($nginx, '/pass/down', 'during'), 201, 1, 'with idempotency_store_error pass requests run';

    $redis->start;
    my $next = await_status($nginx, '/down', 'after', 201);
    is_first $next, 201, 2, 'when Redis is available again requests run, without a reload';
    is_replay_of ask($nginx, '/down', 'after'), $next, 'and their retries get replays';
    $nginx->stop(allowed => qr/\[crit\].*connect\(\)/);
};

subtest 'Redis becomes unavailable between a claim and its result' => sub {
    my $nginx = start_nginx(workers => 1, store => 'timeout 300ms; connect_timeout 300ms;');
    my $running = begin($nginx, '/lost', 'lost');
    $redis->kill;
    app()->open_gate('lost');

    my $answer = $running->response;
    is_first $answer, 201, 1, 'the response is delivered: the request was executed';
    ok $nginx->await_access_log(qr{^/lost\S* 201 \[STORE_ERROR\]}), '$idempotency_status is STORE_ERROR';
    ok $nginx->await_error_log(qr/\[error\]/), 'the error log has a line about it';
    $redis->start;
    await_status($nginx, '/found', 'found', 201);

    # a response that is passed through: the store fails during the response, or is known to be unavailable before it
    for my $known (0, 1) {
        my $path = "/small/lost$known";
        my $query = 'kind=binary&size=100000&framing=chunked&pieces=2';
        $running = $nginx->send_request(path => "$path?$query&gate=begin$known&middle=go-on$known", key => "large$known", @who);
        app()->await_arrival($path);
        my $log = length $nginx->error_log;
        $known ? $redis->kill : $redis->stall;
        is_problem ask($nginx, '/down', 'down'), 503, 'store_unavailable', 'the store is known to be down' if $known;
        app()->open_gate("begin$known");
        ok await(sub { substr($nginx->error_log, $log) =~ /the outcome of the request is not recorded yet/ }), 'the error log has a line about it';
        app()->open_gate("go-on$known");
        $answer = $running->response;
        is length $answer->body, 100_000, 'a large response is delivered';
        is $answer->header('X-Status'), $known ? 'STORE_ERROR' : 'NEW', '$idempotency_status has the value that is known when the head is sent';
        ok $nginx->await_access_log(qr{^\Q$path\E\S* 201 \[STORE_ERROR\]}), 'and STORE_ERROR in the log';
        $known ? $redis->start : $redis->resume;
        await_status($nginx, "/found$known", "found$known", 201);
    }
    $nginx->stop(allowed => qr/\[crit\].*connect\(\)/);
};

subtest 'A response that could not be kept at once is kept later' => sub {
    my $nginx = start_nginx(store => 'timeout 300ms; connect_timeout 300ms;');
    my $running = begin($nginx, '/later', 'later');
    $redis->stall;
    app()->open_gate('later');
    my $first = $running->response;
    is_first $first, 201, 1, 'the response is delivered though Redis does not reply';
    $redis->resume;

    my $retry;
    await(sub { $retry = ask($nginx, '/later?gate=later', 'later'); $retry->status == 201 });
    is_replay_of $retry, $first, 'within the lease the response is kept';
    is app()->count('/later'), 1, 'and the application executed the request once';
    $nginx->stop;
};

subtest 'A Redis that is unavailable at the start' => sub {
    $redis->stop;
    my $nginx = start_nginx(store => 'timeout 500ms; connect_timeout 500ms;');
    is_problem ask($nginx, '/never', 'never'), 503, 'store_unavailable', 'nginx starts and refuses requests';
    $redis->start;
    is_first await_status($nginx, '/never', 'never', 201), 201, 1, 'until Redis is available';
    $nginx->stop(allowed => qr/\[crit\].*connect\(\)/);
};

subtest 'Errors of Redis' => sub {
    my $nginx = start_nginx();
    my $first = ask($nginx, '/errors', 'kept');

    $redis->command('CONFIG', 'SET', 'maxmemory', '1', 'maxmemory-policy', 'noeviction');
    is_problem ask($nginx, '/errors', 'full'), 503, 'store_unavailable', 'a Redis without free memory gives a 503';
    ok $nginx->await_error_log(qr/\[error\].*OOM/), 'and the error log says what Redis said';
    $redis->command('CONFIG', 'SET', 'maxmemory', '0');

    $redis->command('REPLICAOF', '127.0.0.1', '1');
    is_problem ask($nginx, '/errors', 'replica'), 503, 'store_unavailable', 'a read-only Redis gives a 503';
    $redis->command('REPLICAOF', 'NO', 'ONE');
    is app()->count('/errors'), 1, 'neither request runs';

    is_replay_of await_status($nginx, '/errors', 'kept', 201), $first, 'kept responses are still replayed';
    is_first await_status($nginx, '/errors', 'full', 201), 201, 2, 'and the refused request now runs';
    $nginx->stop;
};

subtest 'Addresses of a Redis' => sub {
    my $guarded = IdempotencyTest::Redis->new(password => 'open/sesame', arguments => ['--requirepass', 'open/sesame',
        qw(--user shop on >pass:word ~shop:* +@all)]);
    my $port = $guarded->port;
    my $file = sub { my ($nginx) = @_; return $nginx->write_file('password', "open/sesame\n") };
    my $guarded_socket = $guarded->socket;

    my $nginx = IdempotencyTest::Nginx->new;
    my $password_file = $file->($nginx);
    my %way = (
        tcp => 'redis redis://127.0.0.1:' . $redis->port . ';',
        database => 'redis redis://127.0.0.1:' . $redis->port . '/5;',
        socket => "redis unix:$socket;",
        socket_database => "redis unix:$socket?db=6;",
        database_word => "redis unix:$socket; database 7;",
        password => "redis redis://:open%2Fsesame\@127.0.0.1:$port;",
        password_word => "redis redis://127.0.0.1:$port; password open/sesame;",
        password_file => "redis unix:$guarded_socket; password_file $password_file;",
        user => "redis redis://shop:pass%3Aword\@127.0.0.1:$port; prefix shop:;",
        user_word => "redis redis://127.0.0.1:$port; user shop; password pass:word; prefix shop:w:;",
    );
    my %wrong = (
        no_password => "redis redis://127.0.0.1:$port;",
        wrong_password => "redis redis://:wrong-sesame\@127.0.0.1:$port;",
        forbidden => "redis redis://shop:pass%3Aword\@127.0.0.1:$port; prefix other:;",
        no_database => 'redis redis://127.0.0.1:' . $redis->port . '/999;',
    );
    my %all = (%way, %wrong);
    $nginx->set(
        stores => join('', map { "idempotency_store $_ { $all{$_} }\n" } sort keys %all),
        server => join('', map { "location /$_/ { idempotency $_; proxy_pass http://app; }\n" } sort keys %all))->start;

    for my $name (sort keys %way) {
        my $first = ask($nginx, "/$name/a", "way-$name");
        is_first $first, 201, 1, "a request runs over a store by $name";
        is_replay_of ask($nginx, "/$name/a", "way-$name"), $first, "and its retry gets a replay ($name)";
    }

    for (['database', 5], ['socket_database', 6], ['database_word', 7]) {
        my ($name, $database) = @$_;
        is scalar(keys %{$redis->contents($database)}), 1, "the record is in the database that was named ($name)";
    }

    for my $name (sort keys %wrong) {
        is_problem ask($nginx, "/$name/a", "way-$name"), 503, 'store_unavailable', "a request is refused over a store with $name";
        is app()->count("/$name/a"), 0, "and does not run ($name)";
    }

    ok $nginx->await_error_log(qr/\[error\].*(?:NOAUTH|WRONGPASS|AUTH)/i), 'the error log says what Redis said';
    $nginx->stop;
    unlike $nginx->error_log, qr/sesame|pass:word|pass%3Aword/, 'no password is in a log';
};

subtest 'A reload' => sub {
    my $nginx = start_nginx();
    is_kept_over_a_reload($nginx);
    $nginx->stop;
};

done_testing;
