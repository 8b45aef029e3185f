package IdempotencyTest::RedisCluster;

# A cluster of six: three masters, with a replica each.

use strict;
use warnings;

use IO::Socket::INET;
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Process qw(await temporary_directory);
use IdempotencyTest::Redis;

our $SLOTS = 16384;

# `masters`, `replicas` of each; `timeout`, cluster-node-timeout in milliseconds; `arguments` and the like are those of every
# server (Redis); with `tls` the nodes speak it among themselves, too. `timeout` is short, so that a failover takes some two seconds.
sub new {
    my ($class, %options) = @_;
    my $self = bless {
        masters => delete $options{masters} // 3,
        replicas => delete $options{replicas} // 1,
        timeout => delete $options{timeout} // 1000,
        server => {%options},
        nodes => [],
    }, $class;

    $self->start_node for 1 .. $self->{masters} * (1 + $self->{replicas});
    $self->form;
    return $self;
}

sub nodes { @{$_[0]{nodes}} }
sub running { grep { $_->is_running } $_[0]->nodes }
sub masters { my ($self) = @_; my %is = map { $_->{port} => 1 } $self->map_of_slots; return grep { $is{$_->port} } $self->nodes }

# URLs of so many nodes, all where no number is given.
sub urls {
    my ($self, $n) = @_;
    my @nodes = $self->running;
    return join ' ', map { $_->tls_port ? 'rediss://127.0.0.1:' . $_->tls_port : 'redis://' . $_->address } @nodes[0 .. ($n // @nodes) - 1];
}

# Both its own port and that of the bus have to be free.
sub two_free_ports {
    for (1 .. 200) {
        my $port = IdempotencyTest::Process::free_port();
        next if !IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port + 10_000, Listen => 1, ReuseAddr => 1);
        return $port;
    }

    die "no two free ports found\n";
}

sub start_node {
    my ($self) = @_;
    my %server = %{$self->{server}};
    my @arguments = @{delete $server{arguments} || []};
    push @arguments, '--tls-cluster', 'yes', '--tls-replication', 'yes' if $server{tls};

    for my $attempt (1 .. 5) {
        my $node = eval {
            $server{tls_port} = two_free_ports() if $server{tls};
            IdempotencyTest::Redis->new(%server, port => two_free_ports(), arguments => ['--cluster-enabled', 'yes',
                '--cluster-config-file', 'nodes.conf', '--cluster-node-timeout', $self->{timeout}, @arguments]);
        };

        if ($node) {
            $node->{id} = $node->command('CLUSTER', 'MYID');
            push @{$self->{nodes}}, $node;
            return $node;
        }

        die $@ if $@ !~ /in use|bind|listen/i;
    }

    die $@;
}

sub form {
    my ($self) = @_;
    my @nodes = $self->nodes;
    my @masters = @nodes[0 .. $self->{masters} - 1];
    my @replicas = @nodes[$self->{masters} .. $#nodes];

    $nodes[$_]->command('CLUSTER', 'SET-CONFIG-EPOCH', $_ + 1) for 0 .. $#nodes;

    for my $i (0 .. $#masters) {
        my $first = int($SLOTS * $i / @masters);
        my $last = int($SLOTS * ($i + 1) / @masters) - 1;
        $masters[$i]->command('CLUSTER', 'ADDSLOTSRANGE', $first, $last);
    }

    # each pair, so that no node has to wait for gossip
    for my $node (@nodes) {
        $node->command('CLUSTER', 'MEET', '127.0.0.1', $_->tls_port // $_->port) for grep { $_ != $node } @nodes;
    }

    await(sub { !grep { @nodes != $self->known_to($_) } @nodes }) or die "the nodes of the cluster do not meet\n";

    for my $i (0 .. $#replicas) {
        my $id = $masters[$i % @masters]{id};
        await(sub { eval { $replicas[$i]->command('CLUSTER', 'REPLICATE', $id) } }) or die "a node becomes no replica: $@";
    }

    $self->await_whole;
    $_->await_replicas($self->{replicas}) for @masters;
}

# The nodes that a node has a link to.
sub known_to {
    my ($self, $node) = @_;
    return grep { !/handshake|noaddr|fail/ && /connected/ } split /\n/, $node->command('CLUSTER', 'NODES');
}

# Waits until each running node says that the cluster is ok, and all agree which node has which slots, since which epoch: a replica
# that does not know an epoch would be elected without the slots that moved in this epoch.
sub await_whole {
    my ($self) = @_;
    await(sub {
        my %maps;
        for my $node ($self->running) {
            return 0 if !eval { $node->command('CLUSTER', 'INFO') =~ /cluster_state:ok/ };
            my @map = eval { $self->map_of_slots($node) };
            return 0 if !@map || grep { !length $_->{host} || @{$_->{replicas}} < $_->{due} } @map;
            my %epoch = map { my @word = split; $word[2] =~ /master/ ? ($word[0] => $word[6]) : () } split /\n/, $node->command('CLUSTER', 'NODES');
            $maps{join ' ', map { "$_->{first}-$_->{last}:$_->{port}\@$epoch{$_->{id}}" } @map}++;
        }
        return keys %maps == 1;
    }) or die "the cluster is not complete:\n" . join "\n", map { eval { $_->command('CLUSTER', 'NODES') } // $@ } $self->running;
    return $self;
}

# A list of {first, last, host, port, replicas}, from CLUSTER SLOTS of a node.
sub map_of_slots {
    my ($self, $node) = @_;
    $node ||= ($self->running)[0];
    my $all_run = $self->running == $self->nodes;
    my @map = map {
        my ($first, $last, $master, @replicas) = @$_;
        {first => $first, last => $last, host => $master->[0], port => $master->[1], id => $master->[2],
            replicas => \@replicas, due => $all_run && $self->nodes == $self->{masters} * (1 + $self->{replicas}) ? $self->{replicas} : 0};
    } @{$node->command('CLUSTER', 'SLOTS')};
    return sort { $a->{first} <=> $b->{first} } @map;
}

sub slot_of { my ($self, $key) = @_; return ($self->running)[0]->command('CLUSTER', 'KEYSLOT', $key) }

# The master that has a key, or a slot.
sub node_of { my ($self, $key) = @_; return $self->node_of_slot($self->slot_of($key)) }

sub node_of_slot {
    my ($self, $slot) = @_;
    my ($range) = grep { $_->{first} <= $slot && $slot <= $_->{last} } $self->map_of_slots;
    return undef if !$range;
    my ($node) = grep { $_->port == $range->{port} } $self->nodes;
    return $node;
}

# Kills a node, and returns when another node has its slots and all agree, or at once with `now`.
sub kill {
    my ($self, $node, %options) = @_;
    my @slots = map { $_->{first} } grep { $_->{port} == $node->port } $self->map_of_slots;
    $node->kill;
    return if $options{now};

    await(sub { !grep { my $other = eval { $self->node_of_slot($_) }; !$other || $other == $node } @slots }) or die "no replica becomes the master\n";
    $self->await_whole;
}

# Starts a node that was killed; it is a replica if another node has its slots.
sub revive {
    my ($self, $node) = @_;
    $node->start;
    $self->await_whole;
}

# The steps of a slot's move: between begin_move and end_move the old master replies ASK for keys that it does not have.
sub begin_move {
    my ($self, $slot, $to) = @_;
    my $from = $self->node_of_slot($slot);
    $to->command('CLUSTER', 'SETSLOT', $slot, 'IMPORTING', $from->{id});
    $from->command('CLUSTER', 'SETSLOT', $slot, 'MIGRATING', $to->{id});
    return $from;
}

sub move_keys {
    my ($self, $slot, $from, $to) = @_;

    while (my @keys = @{$from->command('CLUSTER', 'GETKEYSINSLOT', $slot, 100)}) {
        $from->command('MIGRATE', '127.0.0.1', $to->port, '', 0, 5000, 'KEYS', @keys);
    }
}

sub end_move {
    my ($self, $slot, $to) = @_;
    # the new owner first: it must not get commands for a slot that it does not own yet
    for my $node ($to, grep { $_ != $to } $self->running) {
        eval { $node->command('CLUSTER', 'SETSLOT', $slot, 'NODE', $to->{id}) };
        # a replica learns this by itself; so does a master that has lost its last slot and has become a replica
        die $@ if $@ && $@ !~ /only with masters/;
    }
    $self->await_whole;
}

sub move_slot {
    my ($self, $slot, $to) = @_;
    my $from = $self->begin_move($slot, $to);
    $self->move_keys($slot, $from, $to);
    $self->end_move($slot, $to);
}

# With redis-cli. Returns the running process, so that a test can act meanwhile.
sub begin_reshard {
    my ($self, $from, $to, $slots) = @_;
    $self->{output} ||= temporary_directory();
    return IdempotencyTest::Process->start(name => 'reshard', output => "$self->{output}/output",
        command => [IdempotencyTest::Redis::client_program(), '--cluster', 'reshard', $to->address, '--cluster-from', $from->{id},
            '--cluster-to', $to->{id}, '--cluster-slots', $slots, '--cluster-yes']);
}

sub reshard {
    my ($self, $from, $to, $slots) = @_;
    my $process = $self->begin_reshard($from, $to, $slots);
    await(sub { !$process->is_running }, 60);
    die "no reshard:\n" . slurp("$self->{output}/output") if $process->{status} // 1;
    $self->await_whole;
}

# A new master without slots.
sub add_node {
    my ($self) = @_;
    my @others = $self->running;
    my $node = $self->start_node;

    $node->command('CLUSTER', 'MEET', '127.0.0.1', $_->tls_port // $_->port) for @others;
    await(sub { !grep { $self->known_to($_) < @others + 1 } @others, $node }) or die "a new node is not met\n";
    $self->await_whole;
    return $node;
}

# Moves its slots to the other node, then removes it from all nodes.
sub remove_node {
    my ($self, $node, $to) = @_;

    for my $range (grep { $_->{port} == $node->port } $self->map_of_slots) {
        $self->move_slot($_, $to) for $range->{first} .. $range->{last};
    }

    $self->forget($node);
}

# Stops a node without slots, and removes it from all nodes.
sub forget {
    my ($self, $node) = @_;
    $node->stop if $node->is_running;
    $self->{nodes} = [grep { $_ != $node } $self->nodes];
    eval { $_->command('CLUSTER', 'FORGET', $node->{id}) } for $self->running;
    $self->await_whole;
}

# Every key with its raw value, over all masters.
sub contents {
    my ($self) = @_;
    return {map { my $node = $_; my $keys = $node->command('KEYS', '*'); map { $_ => $node->command('GET', $_) } @$keys } $self->masters};
}

1;
