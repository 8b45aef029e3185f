# A master with sentinels: nginx finds it, it is killed and replaced, sentinels give wrong addresses or are unavailable. The request of a key
# runs once, kept responses are replayed, and requests end in time.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Client qw(finish);
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Python qw(start_python_server);
use IdempotencyTest::Known qw(prepare are_replayed);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await dead_port temporary_directory);
use IdempotencyTest::Redis;
use IdempotencyTest::RedisSentinel;
use IdempotencyTest::Relay;
use IdempotencyTest::Requests qw(@who ask);
use IdempotencyTest::Scenarios qw(is_refused_at_once);
use Time::HiRes qw(sleep time);

plan skip_all => 'is about the Redis store' if store_mode() ne 'redis';

# The default of `timeout` and `connect_timeout` in seconds; `slack` is for the time that this machine needs.
my $timeout = 1;
my $slack = 2;

my $allowed = qr/\[crit\].*connect\(\)/;

my $server = <<'END';
        idempotency main;
        location / { proxy_pass http://app; }
END

sub start_nginx {
    my (%options) = @_;
    my $store = join ' ', 'topology sentinel shop;', delete $options{store} // ();
    return IdempotencyTest::Nginx->start(store => $store, server => $server, workers => 1, %options);
}

# Retries kept requests until all get replays. Returns how long requests were refused, and the slowest response.
sub await_replays {
    my ($nginx, @known) = @_;
    my ($start, $last, $longest, $in_a_row) = (time, time, 0, 0);
    my $ok = await(sub {
        my @answers = finish(map { $nginx->send_request(path => $_->{path}, key => $_->{key}, @who) } @known[0 .. 3]);
        for my $answer (@answers) {
            $longest = $answer->elapsed if ($answer->elapsed // 99) > $longest;
            $last = time if !$answer->is_replay;
        }
        $in_a_row = (grep { !$_->is_replay } @answers) ? 0 : $in_a_row + 1;
        sleep 0.02;
        $in_a_row == 5;
    }, 40);
    ok $ok, 'kept responses are replayed again';
    return ($last - $start, $longest);
}

# The URL of a sentinel that always names the given port; it runs as long as the test.
my @liars;

sub liar {
    my ($named, @options) = @_;
    my $output = temporary_directory();
    my ($process, $port) = start_python_server(name => 'liar', output => "$output/output", arguments => ['--names', $named, @options]);
    push @liars, $output, $process;
    return "redis://127.0.0.1:$port";
}

sub url { my ($redis) = @_; return 'redis://' . $redis->address }

my $watched = IdempotencyTest::RedisSentinel->new(down_after => 2000);
my $replicas = 2;
my $replays = 0;

# Sentinels close all connections of a server whose role they change.
sub command {
    my ($redis, @words) = @_;
    return eval { $redis->command(@words) } // $redis->command(@words);
}

sub await_replication { command($watched->master, 'PING'); $watched->master->await_replication($replicas) }

# Whether a sentinel has seen all replicas as replicas: it asks them every ten seconds, and changes a server that reports the role of a master,
# even if another sentinel has just made it a master.
sub is_seen_through {
    my ($sentinel) = @_;
    my @views = map { {@$_} } @{(eval { $sentinel->command("SENTINEL", "REPLICAS", "shop") }) || []};
    return @views == $replicas && !grep { $_->{flags} ne 'slave' || $_->{'role-reported'} ne 'slave' || $_->{'master-link-status'} ne 'ok' } @views;
}

sub await_calm {
    ok await(sub { !grep { !$watched->is_settled($_) || !is_seen_through($_) } $watched->sentinels }, 40), 'the sentinels are settled';
}

# The killed server starts as a master, and a sentinel makes it a replica.
sub revive {
    my ($redis) = @_;
    $redis->start;
    ok await(sub { command($redis, 'INFO', 'replication') =~ /role:slave.*master_link_status:up/s }, 40), 'the old master is available again as a replica';
    await_calm();
}

subtest 'The master is found' => sub {
    my $dead = 'redis://127.0.0.1:' . dead_port();
    my ($one) = $watched->sentinels;
    my $found = 0;
    for my $urls ($watched->urls, url($one), "$dead $dead " . url($one), 'redis://localhost:' . $one->port) {
        my $nginx = start_nginx(redis => $urls);
        are_replayed($nginx, 'found', prepare($nginx, 'found' . ++$found));
        is scalar(@{command($watched->master, 'KEYS', "$nginx->{prefix}*")}), 24, 'the master has the keys';
        $nginx->stop(allowed => $allowed);
    }
};

subtest 'The master is killed' => sub {
    my $nginx = start_nginx(redis => $watched->urls, workers => 2);
    my @known = prepare($nginx, 'killed', 40);
    my $running = $nginx->send_request(path => '/killed/running?gate=killed', key => 'killed-running', @who);
    app()->await_arrival('/killed/running');
    await_replication();

    my $old = $watched->master;
    $old->kill;
    my ($took, $longest) = await_replays($nginx, @known);
    diag sprintf 'a killed master (down-after-milliseconds %d): keys failed for %.2f s, the slowest request took %.3f s', $watched->{down_after}, $took, $longest;
    cmp_ok $longest, '<', 2 * $timeout + $slack, 'no request waits longer than `timeout`';
    are_replayed($nginx, 'at the new master', @known);
    app()->open_gate('killed');
    my $answer = $running->response;
    is_first $answer, 201, 1, 'the request that ran during this time gets its response';
    my $retry;
    await(sub { $retry = ask($nginx, '/killed/running?gate=killed', 'killed-running'); $retry->is_replay });
    is_replay_of $retry, $answer, 'and its response is kept';
    is app()->count('/killed/running'), 1, 'and it ran once';

    my $new = $watched->await_new_master($old);
    ok $nginx->await_error_log(qr/\[notice\].*redis "127.0.0.1:@{[$new->port]}" is the master "shop"/), 'the log names the new master';
    revive($old);
    are_replayed($nginx, 'with the old master as a replica', @known);
    is_first ask($nginx, '/killed/after', 'killed-after'), 201, 1, 'a new request runs';
    $nginx->stop(allowed => $allowed);
};

# The old master still runs as a replica: nginx learns that from the sentinel, or from READONLY.
subtest 'Another Redis becomes the master' => sub {
    my $nginx = start_nginx(redis => $watched->urls);
    my @known = prepare($nginx, 'orderly');
    await_replication();
    my $old = $watched->master;
    $watched->failover;
    my ($took, $longest) = await_replays($nginx, @known);
    diag sprintf 'an orderly failover: once the sentinels agreed keys failed for %.2f s, the slowest request took %.3f s', $took, $longest;
    is_first ask($nginx, '/orderly/new', 'orderly-new'), 201, 1, 'a new request runs';
    are_replayed($nginx, 'at the new master', @known);
    await_calm();
    $nginx->stop(allowed => $allowed);
};

# No message comes through the channel: the only configured sentinel is stopped while the other ones act.
subtest 'READONLY shows that the master has changed' => sub {
    my ($one) = $watched->sentinels;
    my $relay = IdempotencyTest::Relay->new(to => $one->address);
    my $nginx = start_nginx(redis => 'redis://127.0.0.1:' . $relay->port);
    my @known = prepare($nginx, 'readonly');
    await_replication();
    $relay->do('hold');
    my $new = $watched->failover;
    # writes to the old master before it becomes a replica are lost
    my ($answer, $n) = (undef, 0);
    await(sub { $n++; $answer = ask($nginx, "/readonly/new/$n", "readonly-new-$n"); $answer->status == 503 });
    is_problem $answer, 503, 'store_unavailable', 'then a request is refused by the old master';
    ok $nginx->await_error_log(qr/READONLY|is unavailable/), 'the log says why';
    $relay->do('pass');
    await_replays($nginx, @known);
    is_first ask($nginx, "/readonly/new/$n", "readonly-new-$n"), 201, 1, 'the refused request runs';
    are_replayed($nginx, 'at the new master', @known);
    await_calm();
    $nginx->stop(allowed => $allowed);
};

# The master changes without a request, and nginx learns that only from the channel.
subtest 'A message of the channel shows that the master has changed' => sub {
    my $nginx = start_nginx(redis => $watched->urls);
    my @known = prepare($nginx, 'channel');
    await_replication();
    my $new = $watched->failover;
    ok $nginx->await_error_log(qr/redis "127.0.0.1:@{[$new->port]}" is the master "shop"/), 'the new master is followed without a request';
    unlike $nginx->error_log, qr/READONLY/, 'and no command was refused';
    are_replayed($nginx, 'at the new master', @known);
    await_calm();
    $nginx->stop(allowed => $allowed);
};

subtest 'Sentinels that give wrong addresses' => sub {
    my ($replica) = grep { $_ != $watched->master } $watched->redis;
    my @false = (liar($replica->port, '--tells'), liar(dead_port(), '--tells'));
    # one of three in every place, and two of five
    my @good = map { url($_) } $watched->sentinels;
    my @sets = map { my $place = $_; map { my @urls = @good; splice @urls, $place, 1, $_; "@urls" } @false } 0 .. 2;
    my $round = 0;
    for my $urls (@sets, "@false @good", "@good @false") {
        $round++;
        my $nginx = start_nginx(redis => $urls);
        are_replayed($nginx, "lies $round", prepare($nginx, "lies$round", 4));
        $nginx->stop(allowed => $allowed);
    }

    # no majority: who is right cannot be known
    my $two = start_nginx(redis => "@false $good[0]");
    ok $two->await_error_log(qr/\[error\].*no sentinel of store "main" names a server that is the master "shop"/), 'without a majority no master is chosen';
    is_problem ask($two, '/lies/two', 'lies-two'), 503, 'store_unavailable', 'and requests are refused';
    $two->stop(allowed => $allowed);

    my $nginx = start_nginx(redis => $false[0]);
    ok $nginx->await_error_log(qr/\[error\].*no sentinel of store "main" names a server that is the master "shop".*it is not a master/), 'a replica is not taken for a master';
    is_problem ask($nginx, '/lies/alone', 'lies-alone'), 503, 'store_unavailable', 'requests are refused';
    cmp_ok ask($nginx, '/lies/alone', 'lies-alone')->elapsed, '<', $slack, 'at once';
    is command($replica, 'INFO', 'errorstats') =~ /errorstat_READONLY:count=(\d+)/ ? $1 : 0, 0, 'the replica got no command of a store';
    $nginx->stop(allowed => $allowed);
};

# The sentinel names another server that is a master: a foreign one, or one that was replaced.
subtest 'A sentinel that names another master' => sub {
    my $other = IdempotencyTest::Redis->new;
    my ($one, $two) = $watched->sentinels;

    for my $round (0 .. 2) {
        my @urls = (url($one), url($two));
        splice @urls, $round, 0, liar($other->port);
        my $nginx = start_nginx(redis => "@urls");
        are_replayed($nginx, "wrong $round", prepare($nginx, "wrong$round", 4));
        $nginx->stop(allowed => $allowed);
    }

    is_deeply [keys %{$other->contents}], [], 'the other Redis has no keys';
};

# A server that says that it is the master, and a sentinel that publishes it.
subtest 'A sentinel that lies gets no password' => sub {
    my $guarded = IdempotencyTest::RedisSentinel->new(server => {password => 'opensesame', arguments => ['--requirepass', 'opensesame']});
    my $trap = IdempotencyTest::Redis->new;
    my ($one, $two) = map { url($_) } $guarded->sentinels;
    my $liar = liar($trap->port, '--tells');

    for my $urls ("$liar $one $two", "$one $two $liar", "$one $liar $two") {
        my $nginx = start_nginx(redis => $urls, store => 'password opensesame;', workers => 2);
        are_replayed($nginx, 'with a liar', prepare($nginx, 'liar' . ++$replays, 6));
        $nginx->stop(allowed => $allowed);
    }

    is $trap->command('INFO', 'commandstats') =~ /cmdstat_auth:calls=(\d+)/ ? $1 : 0, 0, 'the server that the liar names got no password';
    is_deeply [keys %{$trap->contents}], [], 'and no keys';
};

# Two sentinels have followed the new master, the third one and the old master have not heard of it.
subtest 'A sentinel that is cut off' => sub {
    my ($old, $new) = ($watched->master, IdempotencyTest::Redis->new);
    my ($one) = $watched->sentinels;
    my $nginx = start_nginx(redis => url($one) . ' ' . liar($new->port, '--tells') . ' ' . liar($new->port, '--tells'), workers => 4);
    is ask($nginx, "/cut/new/$_", "cut-new-$_")->status, 201, 'a request runs' for 1 .. 20;
    is scalar(@{command($old, 'KEYS', "$nginx->{prefix}*")}), 0, 'no worker stays with the old master';
    is scalar(@{command($new, 'KEYS', "$nginx->{prefix}*")}), 20, 'all use the one that most sentinels name';
    $nginx->stop(allowed => $allowed);
};

# The connection to the sentinel stays, and nothing comes over it any more.
subtest 'A subscription that a firewall has forgotten' => sub {
    my ($one) = $watched->sentinels;
    my $relay = IdempotencyTest::Relay->new(to => $one->address);
    my $nginx = start_nginx(redis => $relay->url);
    is ask($nginx, '/forgotten', 'forgotten')->status, 201, 'a request runs';
    ok await(sub { $relay->do('connected') == 1 }), 'only the subscription is left';
    $relay->do('forget');
    ok $nginx->await_error_log(qr/the subscription to redis sentinel.*is lost: it does not reply/), 'the subscription is found to be dead';
    ok await(sub { $relay->do('accepted') >= 3 }), 'and renewed';
    $nginx->stop(allowed => $allowed);
};

# The master keeps its connections, and sends no replies.
subtest 'The master hangs' => sub {
    my $nginx = start_nginx(redis => $watched->urls);
    my @known = prepare($nginx, 'still');
    await_replication();
    my $old = $watched->master;
    $old->stall;
    my ($took, $longest) = await_replays($nginx, @known);
    diag sprintf 'a master that stands still (down-after-milliseconds %d): keys failed for %.2f s, the slowest request took %.3f s', $watched->{down_after}, $took, $longest;
    cmp_ok $longest, '<', 2 * $timeout + $slack, 'no request waits longer than `timeout`';
    $old->resume;
    are_replayed($nginx, 'when it is awake', @known);
    await_calm();
    are_replayed($nginx, 'with the old master as a replica', @known);
    $nginx->stop(allowed => $allowed);
};

subtest 'No sentinel is available' => sub {
    my $nginx = start_nginx(redis => join ' ', map { 'redis://127.0.0.1:' . dead_port() } 1 .. 2);
    is_refused_at_once($nginx, qr/\[error\].*no sentinel of store "main"/, $slack);
    $nginx->stop(allowed => $allowed);
};

subtest 'A name that no sentinel knows' => sub {
    my $nginx = IdempotencyTest::Nginx->start(server => $server, workers => 1,
        stores => 'idempotency_store main { redis ' . $watched->urls . '; topology sentinel other; }');
    ok $nginx->await_error_log(qr/\[error\].*names a server that is the master "other".*it does not know the master/), 'the error log says so';
    is_problem ask($nginx, '/unknown', 'unknown'), 503, 'store_unavailable', 'requests are refused';
    $nginx->stop(allowed => $allowed);
};

# All sentinels are stopped, as by a broken network; the master still runs.
subtest 'Sentinels become unavailable and available' => sub {
    my $nginx = start_nginx(redis => $watched->urls);
    my @known = prepare($nginx, 'stalled');
    $_->stall for $watched->sentinels;
    are_replayed($nginx, 'without sentinels', @known);
    is_first ask($nginx, '/stalled/new', 'stalled-new'), 201, 1, 'and new requests run';
    $_->resume for $watched->sentinels;
    await_calm();
    are_replayed($nginx, 'afterwards', @known);
    $nginx->stop(allowed => $allowed);
};

subtest 'Passwords of both kinds' => sub {
    my $closed = IdempotencyTest::RedisSentinel->new(sentinel_user => 'watcher', sentinel_password => 'sesame',
        server => {password => 'opensesame', arguments => ['--requirepass', 'opensesame']});
    my $urls = join ' ', map { 'redis://watcher:sesame@' . $_->address } $closed->sentinels;
    my $nginx = start_nginx(redis => $urls, store => 'password opensesame;');
    my @known = prepare($nginx, 'closed');
    are_replayed($nginx, 'closed', @known);
    $closed->master->await_replication(2);
    $closed->kill_master;
    await_replays($nginx, @known);
    are_replayed($nginx, 'at the new master', @known);
    unlike $nginx->error_log, qr/sesame/, 'no password is in the log';
    $nginx->stop(allowed => $allowed);

    $nginx = start_nginx(redis => $urls =~ s/:sesame/:wrong/gr, store => 'password opensesame;');
    ok $nginx->await_error_log(qr/\[error\].*no sentinel.*WRONGPASS/), 'a wrong one is named in the log';
    is_problem ask($nginx, '/closed/wrong', 'closed-wrong'), 503, 'store_unavailable', 'and requests are refused';
    $nginx->stop(allowed => $allowed);

    $nginx = start_nginx(redis => $urls, store => 'password wrong;');
    ok $nginx->await_error_log(qr/\[error\].*no sentinel.*WRONGPASS/), 'a wrong password of the master is named in the log too';
    $nginx->stop(allowed => $allowed);
};

done_testing;
