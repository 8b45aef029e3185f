# The memory store: what it keeps over a reload, and requests when it is full.

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
use IdempotencyTest::Requests qw(@who ask begin);
use IdempotencyTest::Scenarios qw(is_kept_over_a_reload);
use Time::HiRes qw(time);

plan skip_all => 'is about the memory store' if store_mode() ne 'memory';

my $server = <<'END';
        add_header X-Status $idempotency_status always;
        idempotency main;
        location / { proxy_pass http://app; }
        location /brief/ { idempotency_ttl 2s; proxy_pass http://app; }
        location /pass/ { idempotency_store_error pass; proxy_pass http://app; }
        location /lease/ { idempotency_lease 1s; proxy_pass http://app; }
END

sub start_nginx {
    my ($size, %options) = @_;
    return IdempotencyTest::Nginx->start(
        stores => "idempotency_store main { memory $size; }", server => $server,
        log_format => '$request_uri $status [$idempotency_status] $pid', %options);
}

# a word that the tests look for in places where no credential may be
@who = (headers => ['X-API-Key: alice-credential']);

subtest 'Workers share the memory store' => sub {
    my $nginx = start_nginx('1m', workers => 4);
    my $first = ask($nginx, '/shared', 'shared');

    # the kernel chooses the worker: until more than one worker was used
    my (@retries, %workers);
    await(sub {
        push @retries, finish(map { $nginx->send_request(path => '/shared', key => 'shared', @who) } 1 .. 20);
        %workers = map { / (\d+)$/ ? ($1 => 1) : () } $nginx->access_log;
        keys %workers > 1;
    });
    cmp_ok scalar(keys %workers), '>', 1, 'retries met more than one worker';
    is scalar(grep { !$_->is_replay || $_->body ne $first->body } @retries), 0, 'and each retry got a replay';
    $nginx->stop;
};

subtest 'Nothing is in plain text' => sub {
    my $nginx = start_nginx('1m');
    is_first ask($nginx, '/clear', 'precious-key'), 201, 1, 'a request runs';
    my ($worker) = $nginx->workers;
    my $zone = '';
    open my $memory, '<:raw', "/proc/$worker/mem" or die "mem: $!\n";
    for my $maps (slurp("/proc/$worker/maps") =~ m{^(\S+) rw-s }mg) {
        no warnings 'portable';
        my ($start, $end) = map { hex } split /-/, $maps;
        sysseek $memory, $start, 0;
        sysread $memory, my $bytes, $end - $start;
        $zone .= $bytes // '';
    }
    like $zone, qr/#1 POST \/clear/, 'its response is in the shared memory';
    unlike $zone, qr/precious-key|alice-credential/, 'neither key nor credential is in it';
    $nginx->stop;
    unlike join("\n", $nginx->error_log, $nginx->access_log), qr/precious-key|alice-credential/, 'and neither is in a log';
};

subtest 'A reload' => sub {
    my $nginx = start_nginx('1m');
    my ($first) = is_kept_over_a_reload($nginx);

    $nginx->reload;
    is_replay_of ask($nginx, '/reload', 'one'), $first, 'and it is replayed after another reload';
    is app()->count('/reload'), 2, 'the application executed two requests in total';

    $nginx->set(stores => 'idempotency_store main { memory 1m; } idempotency_store other { memory 512k; }')->reload;
    is_replay_of ask($nginx, '/reload', 'one'), $first, 'and after another store was added';
    $nginx->set(stores => 'idempotency_store main { memory 1m; }')->reload;
    is_replay_of ask($nginx, '/reload', 'one'), $first, 'and after that store was removed';
    $nginx->stop;
};

subtest 'A wrong configuration at a reload' => sub {
    my $nginx = start_nginx('1m');
    my $first = ask($nginx, '/wrong', 'one');
    $nginx->set(server => 'idempotency nowhere;')->configure;
    kill HUP => $nginx->pid;
    ok $nginx->await_error_log(qr/\[emerg\].*nowhere/), 'is refused';
    is_replay_of ask($nginx, '/wrong', 'one'), $first, 'and no result is lost';
    $nginx->stop(allowed => qr/\[emerg\].*nowhere/);
};

# A zone of another size would be a new, empty one: what runs would run again, and results would be forgotten.
subtest 'A reload with another size' => sub {
    my $nginx = start_nginx('1m');
    my $first = ask($nginx, '/size', 'kept');
    my $running = begin($nginx, '/size', 'runs', 2);
    my @workers = $nginx->workers;
    my $refused = qr/\[emerg\].*"memory" of store "main"/;

    for my $size ('2m', '512k') {
        my $log = length $nginx->error_log;
        $nginx->set(stores => "idempotency_store main { memory $size; }")->configure;
        kill HUP => $nginx->pid;
        my $line;
        ok await(sub { ($line) = substr($nginx->error_log, $log) =~ /^(.*\[emerg\].*)$/m; defined $line }, 5), "a reload with $size is refused";
        like $line // '', $refused, "the message names the store ($size)";
        like $line // '', qr/another name|new name|new store|restart/, "and says what to do ($size)";
        is join(' ', $nginx->workers), "@workers", "the workers stay ($size)";
        is_replay_of ask($nginx, '/size', 'kept'), $first, "the old configuration goes on: a kept response is replayed ($size)";
        is_problem ask($nginx, '/size?gate=runs', 'runs'), 409, 'request_in_progress', "and a request runs ($size)";
    }

    $nginx->set(stores => 'idempotency_store main { memory 1m; }')->reload(requests_run => 1);
    is_replay_of ask($nginx, '/size', 'kept'), $first, 'with the old size a reload works';
    is_problem ask($nginx, '/size?gate=runs', 'runs'), 409, 'request_in_progress', 'and the request still runs';
    app()->open_gate('runs');
    is_first $running->response, 201, 2, 'it gets its response';
    is app()->count('/size'), 2, 'there are no more executions';

    # the way that the message names
    $nginx->set(stores => 'idempotency_store main { memory 1m; } idempotency_store larger { memory 2m; }',
        server => $server =~ s/idempotency main;/idempotency larger;/r)->reload;
    is_first ask($nginx, '/size', 'kept'), 201, 3, 'a store with another name may have another size';
    $nginx->stop(allowed => qr/\[emerg\]/);
};

# Fills the store until it refuses. Returns the kept responses by their number.
sub fill {
    my ($nginx, $place, $size) = @_;
    my %kept;

    for my $n (1 .. 2000) {
        my $answer = ask($nginx, "/$place/$n?kind=binary&size=$size", "$place-$n");
        return ($n, $answer, \%kept) if $answer->status != 201;
        $kept{$n} = $answer;
    }

    die "2000 answers of $size bytes do not fill it\n";
}

# The numbers whose retry gets neither the kept response nor response_not_kept.
sub forgotten {
    my ($nginx, $place, $size, $kept) = @_;
    return grep {
        my $retry = ask($nginx, "/$place/$_?kind=binary&size=$size", "$place-$_");
        !($retry->is_replay && $retry->lasting eq $kept->{$_}->lasting) && $retry->code ne 'response_not_kept';
    } sort { $a <=> $b } keys %$kept;
}

for my $size (100, 3000, 60_000) {
    subtest "A full store, responses of $size bytes" => sub {
        my $nginx = start_nginx('256k');
        my ($n, $refused, $kept) = fill($nginx, "full$size", $size);

        is_problem $refused, 503, 'store_unavailable', 'a new key is refused';
        my $after = $refused->header('Retry-After');
        ok $after > 86_000 && $after <= 86_401, 'Retry-After says when the first response expires' or diag $after;
        is $refused->header('X-Status'), 'STORE_ERROR', '$idempotency_status is STORE_ERROR';
        is app()->count("/full$size/$n"), 0, 'it does not run';

        if ($size == 100) {
            my $begin = time;
            ask($nginx, '/crowd', "crowd$_") for 1 .. 50;
            my $seconds = time - $begin;
            my @lines = grep { /is full: a new key was not stored/ } split /\n/, $nginx->error_log;
            cmp_ok scalar(@lines), '<=', 2 + $seconds, 'a full store is logged once per second' or diag "@lines";
        }

        cmp_ok scalar(keys %$kept) * $size, '>', $size == 100 ? 20_000 : 120_000, 'the memory was used';
        is join(' ', forgotten($nginx, "full$size", $size, $kept)), '', 'no result was lost before it expired';
        is_first ask($nginx, '/pass/full', 'pass'), 201, 1, 'with idempotency_store_error pass requests run' if $size == 100;
        ok $nginx->await_error_log(qr/\[error\].*idempotency/i), 'the error log has a line about it';
        $nginx->stop;
    };
}

subtest 'A response for which there is no memory' => sub {
    my $nginx = start_nginx('256k');
    my $first = ask($nginx, '/large?kind=binary&size=500000', 'large');
    is length $first->body, 500_000, 'is delivered completely';
    is_problem ask($nginx, '/large?kind=binary&size=500000', 'large'), 409, 'response_not_kept', 'and recorded as not kept';
    is app()->count('/large'), 1, 'the application executed the request once';
    is_first ask($nginx, '/small', 'small'), 201, 1, 'and there is memory for other requests';
    $nginx->stop;
};

subtest 'The memory of expired results' => sub {
    my $nginx = start_nginx('256k');

    for my $round (1 .. 3) {
        my ($n, $refused, $kept) = fill($nginx, "brief/round$round", 5000);
        is $refused->status, 503, "the store is full (round $round)";
        # in a later round the large response of the round before may still exist
        cmp_ok scalar(keys %$kept), '>=', 5, 'after many responses' if $round == 1;
        ok await(sub { ask($nginx, "/brief/again$round", "again$round-" . time)->status == 201 }),
            "when they have expired there is room again, without a reload (round $round)";
        ok await(sub { ask($nginx, "/brief/room$round?kind=binary&size=150000", "room$round-" . time)->status == 201 }), 'also for a large response';
    }

    my $first = ask($nginx, '/brief/last?kind=binary&size=20000', 'last');
    ok await(sub { !ask($nginx, '/brief/last?kind=binary&size=20000', 'last')->is_replay }), 'an expired result is not replayed';
    $nginx->stop;
};

subtest 'Workers that are killed' => sub {
    my $nginx = start_nginx('1m');
    my $first = ask($nginx, '/killed', 'kept');
    for my $round (1 .. 5) {
        my @running = map { $nginx->send_request(path => "/lease/killed-$round-$_?delay=0.2", key => "killed-$round-$_", @who) } 1 .. 30;
        my @workers = $nginx->workers;
        select undef, undef, undef, 0.02 * $round;
        kill KILL => @workers;
        $_->close for @running;
        await(sub { 2 == grep { my $pid = $_; !grep { $_ == $pid } @workers } $nginx->workers });
        is_replay_of ask($nginx, '/killed', 'kept'), $first, "a result survives workers that are killed (round $round)";
        is ask($nginx, "/after-$round", "after-$round")->status, 201, "and new requests run (round $round)";
    }
    $nginx->stop(allowed => qr/exited on signal 9/);
};

done_testing;
