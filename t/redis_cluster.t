# A Redis Cluster with six nodes: slots move, masters are killed, nodes join and leave. In every case the request of a key runs once,
# kept responses are replayed, and requests end in time.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Client qw(finish);
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Known qw(prepare are_replayed);
use IdempotencyTest::Names;
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await dead_port);
use IdempotencyTest::RedisCluster;
use IdempotencyTest::Requests qw(@who ask);
use IdempotencyTest::Scenarios qw(is_refused_at_once);
use Time::HiRes qw(sleep time);

plan skip_all => 'is about the Redis store' if store_mode() ne 'redis';

# The default of `timeout` and `connect_timeout` in seconds; `slack` is for the time that this machine needs.
my $timeout = 1;
my $slack = 2;

my $cluster = IdempotencyTest::RedisCluster->new(timeout => 2000);
my $allowed = qr/\[crit\].*connect\(\)/;

my $server = <<'END';
        add_header X-Id $idempotency_key_id always;
        idempotency main;
        idempotency_max_body 4m;
        location / { proxy_pass http://app; }
        location /short/ { idempotency_lease 2s; proxy_pass http://app; }
END

sub start_nginx {
    my (%options) = @_;
    my $store = join ' ', 'topology cluster;', delete $options{store} // ();
    return IdempotencyTest::Nginx->start(redis => $cluster->urls, store => $store, server => $server, workers => 1, %options);
}

# The name in Redis of the key of a request, from its response.
sub redis_key { my ($nginx, $answer) = @_; return $nginx->{prefix} . $answer->header('X-Id') }

# The sum of a figure over all nodes.
sub total {
    my ($section, $pattern) = @_;
    my $sum = 0;
    $sum += eval { $_->command('INFO', $section) =~ /^$pattern(\d+)/m ? $1 : 0 } // 0 for $cluster->running;
    return $sum;
}

sub moved { total('errorstats', 'errorstat_MOVED:count=') }
sub asked { total('errorstats', 'errorstat_ASK:count=') }
sub maps { total('commandstats', 'cmdstat_cluster\|slots:calls=') }

# Another master than the one that has a key.
sub another_master { my ($node) = @_; my ($other) = grep { $_ != $node } $cluster->masters; return $other }

subtest 'Any node provides the map' => sub {
    for my $node ($cluster->nodes) {
        my $nginx = start_nginx(redis => 'redis://' . $node->address);
        my $before = moved();
        my @known = prepare($nginx, 'seed' . $node->port);
        are_replayed($nginx, $node->port, @known);
        is moved(), $before, 'every command goes directly to the correct node';
        my %nodes = map { $cluster->node_of(redis_key($nginx, $_->{first}))->port => 1 } @known;
        is scalar(keys %nodes), 3, 'and each master has some of the keys';
        $nginx->stop;
    }

    my $dead = join ' ', map { 'redis://127.0.0.1:' . dead_port() } 1 .. 3;
    my $nginx = start_nginx(redis => $dead . ' ' . $cluster->urls(1));
    are_replayed($nginx, 'dead seeds', prepare($nginx, 'dead'));
    $nginx->stop(allowed => $allowed);
};

subtest 'One name for the whole cluster' => sub {
    my ($node) = $cluster->nodes;
    my $nginx = start_nginx(redis => 'redis://localhost:' . $node->port);
    are_replayed($nginx, 'endpoint', prepare($nginx, 'endpoint'));
    $nginx->stop(allowed => $allowed);
};

# Nodes that clients reach with other addresses than the nodes announce.
subtest 'Nodes that do not announce their host' => sub {
    plan skip_all => 'this server always tells it' if !eval { $_->command('CONFIG', 'SET', 'cluster-preferred-endpoint-type', 'unknown-endpoint') for $cluster->nodes; 1 };
    my ($node) = $cluster->nodes;
    my $nginx = start_nginx(redis => 'redis://localhost:' . $node->port);
    my @known = prepare($nginx, 'unknown');
    are_replayed($nginx, 'unknown', @known);

    my $key = redis_key($nginx, $known[0]{first});
    my ($before, $slot) = (moved(), $cluster->slot_of($key));
    my $to = another_master($cluster->node_of($key));
    $cluster->move_keys($slot, $cluster->begin_move($slot, $to), $to);
    $_->command('CLUSTER', 'SETSLOT', $slot, 'NODE', $to->{id}) for $to, grep { $_ != $to } $cluster->masters;
    are_replayed($nginx, 'moved', @known);
    cmp_ok moved(), '>', $before, 'a MOVED without a host is followed';
    $nginx->stop(allowed => $allowed);
    $_->command('CONFIG', 'SET', 'cluster-preferred-endpoint-type', 'ip') for $cluster->nodes;
    $cluster->await_whole;
};

subtest 'Nodes with names' => sub {
    my $call = sub { my ($name) = @_; $_->command('CONFIG', 'SET', 'cluster-announce-hostname', $name, 'cluster-preferred-endpoint-type', $name ? 'hostname' : 'ip') for $cluster->nodes };
    my $are_called = sub { my ($name) = @_; ok await(sub { !grep { ($_->{host} // '') ne $name } map { $cluster->map_of_slots($_) } $cluster->nodes }), "the nodes are called $name" };
    my ($node) = $cluster->nodes;

    plan skip_all => 'this server tells no names' if !eval { $call->('localhost'); 1 };
    $are_called->('localhost');
    my $nginx = start_nginx(redis => 'redis://localhost:' . $node->port);
    are_replayed($nginx, 'a name of the configuration', prepare($nginx, 'names'));
    $nginx->stop(allowed => $allowed);

    $call->('nodes.test');
    $are_called->('nodes.test');
    my $names = IdempotencyTest::Names->new('nodes.test' => ['127.0.0.1']);
    $nginx = start_nginx(redis => 'redis://' . $node->address, http => $names->directive);
    are_replayed($nginx, 'a name that the resolver knows', prepare($nginx, 'resolved'));
    $nginx->stop(allowed => $allowed);

    $nginx = start_nginx(redis => 'redis://' . $node->address);
    is_problem ask($nginx, '/unresolved', 'unresolved'), 503, 'store_unavailable', 'without a resolver requests are refused';
    ok $nginx->await_error_log(qr/\[error\].*"nodes\.test:\d+" of store "main" is unavailable/), 'the error log says why';
    $nginx->stop(allowed => $allowed);

    $call->('');
    $are_called->('127.0.0.1');
};

subtest 'A hash tag in the prefix' => sub {
    my $nginx = start_nginx(prefix => 'x{tag}:');
    my $before = moved();
    my @known = prepare($nginx, 'tagged');
    are_replayed($nginx, 'tagged', @known);
    is moved(), $before, 'every command goes directly to the correct node';
    is scalar(@{$cluster->node_of('x{tag}:')->command('KEYS', 'x{tag}:*')}), scalar @known, 'and this node has all keys';
    $nginx->stop;
};

subtest 'A slot has moved' => sub {
    my $nginx = start_nginx();
    my @known = prepare($nginx, 'moved', 40);
    my $running = $nginx->send_request(path => '/moved/running?gate=moved', key => 'moved-running', @who);
    app()->await_arrival('/moved/running');

    my %slots;
    push @{$slots{$cluster->slot_of(redis_key($nginx, $_->{first}))}}, $_ for @known;
    my $id = ask($nginx, '/moved/running?gate=moved', 'moved-running');
    is_problem $id, 409, 'request_in_progress', 'a request runs';
    $slots{$cluster->slot_of(redis_key($nginx, $id))} //= [];
    my ($before, $maps) = (moved(), maps());
    $cluster->move_slot($_, another_master($cluster->node_of_slot($_))) for keys %slots;

    are_replayed($nginx, 'moved', @known);
    cmp_ok moved(), '>', $before, 'MOVED was followed';
    is_problem ask($nginx, '/moved/running?gate=moved', 'moved-running'), 409, 'request_in_progress', 'a running request still runs';
    app()->open_gate('moved');
    my $answer = $running->response;
    is_first $answer, 201, 1, 'and gets its response';
    is_replay_of ask($nginx, '/moved/running?gate=moved', 'moved-running'), $answer, 'and its response is kept';
    is app()->count('/moved/running'), 1, 'and it ran once';

    # of the map that nginx requested
    my $settled = moved();
    await(sub { are_replayed_silently($nginx, @known); my $now = moved(); my $quiet = $now == $settled; $settled = $now; $quiet });
    are_replayed($nginx, 'the new map', @known);
    is moved(), $settled, 'after that no command goes to the wrong node';
    $nginx->stop;
};

sub are_replayed_silently {
    my ($nginx, @known) = @_;
    finish(map { $nginx->send_request(path => $_->{path}, key => $_->{key}, @who) } @known);
}

# All keys are in the one slot that moves.
subtest 'A slot is moving' => sub {
    my $nginx = start_nginx(prefix => '{moving}:');
    my $slot = $cluster->slot_of('{moving}:');
    my @known = prepare($nginx, 'moving', 10);
    my @running = map { $nginx->send_request(path => "/short/moving/$_?gate=moving", key => "moving-running-$_", @who) } 1 .. 3;
    app()->await_arrival("/short/moving/$_") for 1 .. 3;

    my $to = another_master($cluster->node_of_slot($slot));
    my $from = $cluster->begin_move($slot, $to);
    my $before = asked();
    are_replayed($nginx, 'still at the old node', @known);
    is asked(), $before, 'and it has these keys';

    my @new = prepare($nginx, 'moving-new', 10);
    cmp_ok asked(), '>', $before, 'ASK is followed for new keys';
    are_replayed($nginx, 'new keys', @new);
    is scalar(@{$to->command('KEYS', '{moving}:*')}), scalar @new, 'the new keys are at the new node';

    # the same key many times: one request runs
    my @answers = finish(map { $nginx->send_request(path => '/moving/same', key => 'moving-same', @who) } 1 .. 8);
    is scalar(grep { $_->status == 201 && !$_->is_replay } @answers), 1, 'one of many requests with a new key runs';
    is app()->count('/moving/same'), 1, 'once';

    $cluster->move_keys($slot, $from, $to);
    $before = asked();
    are_replayed($nginx, 'moved keys', @known, @new);
    cmp_ok asked(), '>=', $before + @known, 'ASK is followed for each request';

    # longer than the leases, which are renewed with ASK
    my $until = time + 4;
    while (time < $until) {
        my @retries = finish(map { $nginx->send_request(path => "/short/moving/$_?gate=moving", key => "moving-running-$_", @who) } 1 .. 3);
        is join(' ', map { $_->status } @retries), '409 409 409', 'a running request still runs' or last;
        sleep 0.3;
    }

    app()->open_gate('moving');
    @answers = finish(@running);
    is_first $_, 201, 1, 'and gets its response' for @answers;
    is_replay_of ask($nginx, "/short/moving/$_?gate=moving", "moving-running-$_"), $answers[$_ - 1], 'and its response is kept' for 1 .. 3;

    $cluster->end_move($slot, $to);
    are_replayed($nginx, 'in the end', @known, @new);
    $nginx->stop;
};

# Requests of many clients, two for each key, as long as the code returns true. Returns the keys that ran more than once, and counts by status.
sub load_while {
    my ($nginx, $name, $code) = @_;
    my (%status, @kept, @twice);
    my ($longest, $round) = (0, 0);

    while ($code->() || $round < 2) {
        $round++;
        my @keys = map { my $n = $_; ({path => "/$name/$round/$n", key => "$name-$round-$n"}) x 2 } 1 .. 16;
        my @answers = finish(map { $nginx->send_request(path => $_->{path}, key => $_->{key}, @who) } @keys);
        for my $i (0 .. $#keys) {
            my $answer = $answers[$i];
            $status{$answer->status}++;
            $longest = $answer->elapsed if ($answer->elapsed // 99) > $longest;
            push @kept, {%{$keys[$i]}, first => $answer} if $answer->status == 201 && !$answer->is_replay;
        }
    }

    for my $known (@kept) { push @twice, $known->{path} if app()->count($known->{path}) != 1 }
    return {status => \%status, kept => \@kept, twice => \@twice, longest => $longest};
}

subtest 'Slots move under load' => sub {
    # a timeout on a machine that is busy with the move does not count as a refusal
    my $nginx = start_nginx(workers => 2, store => 'timeout 20s;', server => $server =~ s/lease 2s/lease 30s/r);
    my @known = prepare($nginx, 'reshard', 60);
    my ($from, $to) = $cluster->masters;
    my $reshard = $cluster->begin_reshard($from, $to, 500);
    my $load = load_while($nginx, 'reshard-load', sub { $reshard->is_running });

    is $reshard->{status}, 0, 'slots have moved';
    diag sprintf 'reshard of 500 slots: %d requests, %s, the longest took %.2f s', scalar map({ ($_) x $load->{status}{$_} } keys %{$load->{status}}),
        join(', ', map { "$load->{status}{$_} of $_" } sort keys %{$load->{status}}), $load->{longest};
    is join(' ', @{$load->{twice}}), '', 'no request ran twice';
    is join(' ', grep { !/^(?:201|409)$/ } keys %{$load->{status}}), '', 'and no request was refused';
    $cluster->await_whole;
    are_replayed($nginx, 'kept before', @known);
    are_replayed($nginx, 'kept meanwhile', @{$load->{kept}});
    $nginx->stop;
};

# Enough results that each replica has some of them.
sub await_replication { $_->await_replication(1) for $cluster->masters }

subtest 'A master is killed' => sub {
    my $nginx = start_nginx(workers => 2);
    my @known = prepare($nginx, 'killed', 60);
    await_replication();

    # a key of each node
    my %of;
    push @{$of{$cluster->node_of(redis_key($nginx, $_->{first}))->port}}, $_ for @known;
    my ($victim) = $cluster->masters;
    my $running = $nginx->send_request(path => '/killed/running?gate=killed', key => 'killed-running', @who);
    app()->await_arrival('/killed/running');
    await_replication();

    my $maps = maps();
    my $asked_of_victim = $victim->command('INFO', 'commandstats') =~ /^cmdstat_cluster\|slots:calls=(\d+)/m ? $1 : 0;
    my $start = time;
    $victim->kill;

    my ($refused, $longest, $n) = (0, 0, 0);
    my %last_failure = map { $_ => 0 } keys %of;
    my $retry;
    # until both workers serve the keys of the killed node
    my $in_a_row = 0;
    await(sub {
        my @asked = map { my $port = $_; map { [$port, $_] } @{$of{$port}}[0 .. 1] } keys %of;
        my @answers = finish(map { $nginx->send_request(path => $_->[1]{path}, key => $_->[1]{key}, @who) } @asked);
        for my $i (0 .. $#asked) {
            my $answer = $answers[$i];
            $longest = $answer->elapsed if ($answer->elapsed // 99) > $longest;
            $refused++, $last_failure{$asked[$i][0]} = time - $start if $answer->code eq 'store_unavailable';
        }
        sleep 0.02;
        $in_a_row = (grep { !$_->is_replay } @answers) ? 0 : $in_a_row + 1;
        $in_a_row == 10;
    }, 30);
    my $took = $last_failure{$victim->port};
    my $counted = maps() - $maps + $asked_of_victim;

    diag sprintf 'a killed master (cluster-node-timeout %d ms): its keys failed for %.2f s, those of others for %.2f s; %d refused, the slowest in %.3f s; '
        . '%d maps were asked for by 2 workers', $cluster->{timeout}, $took, (sort { $b <=> $a } map { $last_failure{$_} } grep { $_ != $victim->port } keys %of)[0],
        $refused, $longest, $counted;
    cmp_ok $longest, '<', 2 * $timeout + $slack, 'no request waits longer than `timeout`';
    cmp_ok $counted, '<', 2 * (20 + 2 * $took), 'a worker asks for the map now and then, not for every request';
    are_replayed($nginx, 'after the failover', @known);

    app()->open_gate('killed');
    my $answer = $running->response;
    is_first $answer, 201, 1, 'the request that ran during this time gets its response';
    await(sub { $retry = ask($nginx, '/killed/running?gate=killed', 'killed-running'); $retry->is_replay });
    is_replay_of $retry, $answer, 'and its response is kept';
    is app()->count('/killed/running'), 1, 'and it ran once';

    $cluster->await_whole;
    $cluster->revive($victim);
    are_replayed($nginx, 'with the old master as a replica', @known);
    is_first ask($nginx, '/killed/after', 'killed-after'), 201, 1, 'a new request runs';
    $nginx->stop(allowed => $allowed);
};

# The master keeps its connections, and sends no replies.
subtest 'A master hangs' => sub {
    my $nginx = start_nginx();
    my @known = prepare($nginx, 'still', 30);
    await_replication();
    my ($victim) = $cluster->masters;
    my ($start, $longest, $last) = (time, 0, 0);
    $victim->stall;
    my $in_a_row = 0;
    ok await(sub {
        my @answers = finish(map { $nginx->send_request(path => $_->{path}, key => $_->{key}, @who) } @known);
        for my $answer (@answers) { $longest = $answer->elapsed if ($answer->elapsed // 99) > $longest }
        my $failed = grep { !$_->is_replay } @answers;
        $last = time - $start if $failed;
        $in_a_row = $failed ? 0 : $in_a_row + 1;
        sleep 0.02;
        $in_a_row == 3;
    }, 30), 'kept responses are replayed again';
    diag sprintf 'a master that stands still (cluster-node-timeout %d ms): keys failed for %.2f s, the slowest request took %.3f s', $cluster->{timeout}, $last, $longest;
    cmp_ok $longest, '<', 2 * $timeout + $slack, 'no request waits longer than `timeout`';
    $victim->resume;
    $cluster->await_whole;
    are_replayed($nginx, 'when it is awake', @known);
    $nginx->stop(allowed => $allowed);
};

# In each round a master is killed while clients send requests.
subtest 'Masters are killed under load' => sub {
    my $nginx = start_nginx(workers => 2);
    my @known = prepare($nginx, 'dying', 30);

    for my $round (1 .. 2) {
        await_replication();
        my ($victim) = ($cluster->masters)[$round];
        my $phase = 0;
        my $until = time + 6;
        my $load = load_while($nginx, "dying-load-$round", sub { $victim->kill if !$phase++; time < $until });
        diag sprintf 'a master killed under load: %s; the slowest took %.3f s', join(', ', map { "$load->{status}{$_} of $_" } sort keys %{$load->{status}}), $load->{longest};
        cmp_ok $load->{longest}, '<', 2 * $timeout + $slack, 'no request waits longer than `timeout`';
        is join(' ', grep { !/^(?:201|409|503)$/ } keys %{$load->{status}}), '', 'requests run or are refused';
        is join(' ', @{$load->{twice}}), '', 'no request ran twice';
        $cluster->await_whole;
        are_replayed($nginx, 'kept before', @known);
        $cluster->revive($victim);
    }

    $nginx->stop(allowed => $allowed);
};

sub connections_from {
    my ($node, $nginx) = @_;
    return scalar grep { /\bcmd=(?:evalsha|eval|ping|NULL)/ } grep { /\baddr=127/ && /\bflags=N\b/ } split /\n/, $node->command('CLIENT', 'LIST', 'TYPE', 'normal');
}

subtest 'A node joins and another leaves' => sub {
    my $nginx = start_nginx();
    my @known = prepare($nginx, 'joins', 30);
    my $new = $cluster->add_node;
    my %slots = map { $cluster->slot_of(redis_key($nginx, $_->{first})) => 1 } @known[0 .. 9];
    $cluster->move_slot($_, $new) for keys %slots;
    are_replayed($nginx, 'with the new node', @known);
    cmp_ok scalar(@{$new->command('KEYS', '*')}), '>=', 10, 'the new node has keys';
    cmp_ok connections_from($new), '>=', 1, 'and a connection of nginx';

    my $home = ($cluster->masters)[0];
    $cluster->move_slot($_, $home) for keys %slots;
    are_replayed($nginx, 'without it', @known);
    ok await(sub { connections_from($new) == 0 }, 60), 'the connection to a node without slots is closed';
    $cluster->forget($new);
    are_replayed($nginx, 'when it is gone', @known);
    $nginx->stop(allowed => $allowed);
};

subtest 'Renewals' => sub {
    my $nginx = start_nginx();
    my $before = moved();
    my @running = map { $nginx->send_request(path => "/short/renewed/$_?gate=renewed", key => "renewed-$_", @who) } 1 .. 12;
    app()->await_arrival("/short/renewed/$_") for 1 .. 12;
    my $until = time + 7;
    while (time < $until) {
        my @retries = finish(map { $nginx->send_request(path => "/short/renewed/$_?gate=renewed", key => "renewed-$_", @who) } 1 .. 12);
        is scalar(grep { $_->status == 409 } @retries), 12, 'requests that run for many leases go on running' or last;
        sleep 0.4;
    }
    app()->open_gate('renewed');
    my @answers = finish(@running);
    is scalar(grep { $_->status == 201 } @answers), 12, 'they get their responses';
    is_replay_of ask($nginx, "/short/renewed/$_?gate=renewed", "renewed-$_"), $answers[$_ - 1], 'and its response is kept' for 1 .. 12;
    is scalar(grep { app()->count("/short/renewed/$_") != 1 } 1 .. 12), 0, 'and it ran once';
    is moved(), $before, 'all commands went to the correct node';
    $nginx->stop;
};

subtest 'Large responses' => sub {
    my $nginx = start_nginx();
    my @known = prepare($nginx, 'large', 12, query => '?size=1000000');
    is scalar(grep { length $_->{first}->body >= 1_000_000 } @known), 12, 'the responses are large';
    are_replayed($nginx, 'large', @known);
    my $key = redis_key($nginx, $known[0]{first});
    my $slot = $cluster->slot_of($key);
    my $to = another_master($cluster->node_of($key));
    my $from = $cluster->begin_move($slot, $to);
    $cluster->move_keys($slot, $from, $to);
    are_replayed($nginx, 'over ASK', @known);
    $cluster->end_move($slot, $to);
    are_replayed($nginx, 'over MOVED', @known);
    $nginx->stop;
};

# A part of the cluster is unavailable with all its replicas.
subtest 'The cluster is down' => sub {
    my $nginx = start_nginx();
    my @known = prepare($nginx, 'down', 30);
    await_replication();
    my ($victim) = $cluster->masters;
    my ($range) = grep { $_->{port} == $victim->port } $cluster->map_of_slots;
    my %is = map { $_->[1] => 1 } @{$range->{replicas}};
    my @gone = ($victim, grep { $is{$_->port} } $cluster->nodes);
    # at once: otherwise the replica would become the master
    $_->disconnect, kill(KILL => $_->pid) for @gone;
    $_->kill for @gone;

    # each node finds it out by itself
    my @others = grep { my $node = $_; !grep { $_ == $node } @gone } $cluster->nodes;
    ok await(sub { !grep { !eval { $_->command('CLUSTER', 'INFO') =~ /cluster_state:fail/ } } @others }), 'the cluster says that it is down';
    my @answers = finish(map { $nginx->send_request(path => "/down/new/$_", key => "down-new-$_", @who) } 1 .. 20);
    is scalar(grep { $_->code eq 'store_unavailable' } @answers), 20, 'requests are refused';
    my ($longest) = sort { $b <=> $a } map { $_->elapsed } @answers;
    cmp_ok $longest, '<', $slack, 'at once';
    ok $nginx->await_error_log(qr/\[error\].*replied to claim with CLUSTERDOWN/), 'the error log says why';
    is app()->count("/down/new/$_"), 0, 'and the refused requests have not run' for 1 .. 20;

    $_->start for reverse @gone;
    $cluster->await_whole;
    my $start = time;
    my @late;
    await(sub { @late = finish(map { $nginx->send_request(path => "/down/new/$_", key => "down-new-$_", @who) } 1 .. 20); !grep { $_->status != 201 } @late });
    is scalar(grep { $_->status == 201 } @late), 20, 'when the cluster is up again they run';
    is scalar(grep { app()->count("/down/new/$_") != 1 } 1 .. 20), 0, 'once';
    $nginx->stop(allowed => $allowed);
};

subtest 'No server is available' => sub {
    my $nginx = start_nginx(redis => join ' ', map { 'redis://127.0.0.1:' . dead_port() } 1 .. 2);
    is_refused_at_once($nginx, qr/\[error\].*no node of the cluster of store "main" has sent the slots/, $slack);
    $nginx->stop(allowed => $allowed);
};

subtest 'A server that is no cluster' => sub {
    my $redis = IdempotencyTest::Redis->new;
    my $nginx = start_nginx(redis => 'redis://127.0.0.1:' . $redis->port);
    is_problem ask($nginx, '/single', 'single'), 503, 'store_unavailable', 'requests are refused';
    ok $nginx->await_error_log(qr/\[error\].*cluster support disabled/), 'the error log says why';
    $nginx->stop(allowed => $allowed);
};

done_testing;
