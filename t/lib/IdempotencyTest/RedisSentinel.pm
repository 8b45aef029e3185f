package IdempotencyTest::RedisSentinel;

# A master with two replicas, and three sentinels over them with a quorum of two.

use strict;
use warnings;

use IdempotencyTest::Process qw(await free_port);
use IdempotencyTest::Redis;

# `name` of the master; `down_after`, milliseconds; `server`: options of each Redis, with `password` where it needs one,
# with `tls` all use TLS, and the servers have ports without it, too; with `sentinel_tls` the sentinels have ports with TLS, too; `sentinel_user`, `sentinel_password`: the credentials of the sentinels.
sub new {
    my ($class, %options) = @_;
    my $self = bless {name => 'shop', down_after => 1000, replicas => 2, sentinels => 3, quorum => 2, server => {}, %options}, $class;
    my %server = (arguments => [], %{$self->{server}});
    $server{tls_inside} = 1 if $server{tls};

    my $master = IdempotencyTest::Redis->new(%server);
    # a master becomes a replica after a failover
    my $login = defined $master->{password} ? ['--masterauth', $master->{password}] : [];
    $master->command('CONFIG', 'SET', 'masterauth', $master->{password}) if @$login;
    my @replicas = map { IdempotencyTest::Redis->new(%server, replica_of => $master) } 1 .. $self->{replicas};
    $master->await_replicas($self->{replicas});

    $self->{redis} = [$master, @replicas];
    $self->start_sentinels;
    return $self;
}

sub redis { @{$_[0]{redis}} }
sub sentinels { @{$_[0]{watchers}} }
sub name { $_[0]{name} }

# URLs of the sentinels that run.
sub urls { my ($self) = @_; return join ' ', map { $_->tls_port ? 'rediss://127.0.0.1:' . $_->tls_port : 'redis://' . $_->address } grep { $_->is_running } $self->sentinels }

# They know each other and the replicas from the start: discovery would take some seconds.
sub start_sentinels {
    my ($self) = @_;
    my ($master, @replicas) = $self->redis;
    my @ids = map { sprintf '%040x', 1000 * $$ + $_ } 1 .. $self->{sentinels};
    my @ports = map { free_port() } @ids;
    my $tls = $self->{server}{tls};
    my @tls_ports = $tls ? map { free_port() } @ids : ();
    my @known_ports = $tls ? @tls_ports : @ports;
    my $name = $self->{name};

    for my $i (0 .. $#ids) {
        my @lines = (
            'bind 127.0.0.1', "sentinel myid $ids[$i]",
            "sentinel monitor $name 127.0.0.1 " . port_of($master) . " $self->{quorum}",
            "sentinel down-after-milliseconds $name $self->{down_after}",
            "sentinel failover-timeout $name 5000", "sentinel parallel-syncs $name 2",
            (map { "sentinel known-replica $name 127.0.0.1 " . port_of($_) } @replicas),
            (map { "sentinel known-sentinel $name 127.0.0.1 $known_ports[$_] $ids[$_]" } grep { $_ != $i } 0 .. $#ids));
        push @lines, "sentinel auth-pass $name $master->{password}" if defined $master->{password};
        push @lines, "sentinel auth-user $name $master->{user}" if defined $master->{user};

        if (defined $self->{sentinel_password}) {
            my $user = $self->{sentinel_user} // 'default';
            push @lines, "user $user on >$self->{sentinel_password} allchannels allkeys +\@all", ($user eq 'default' ? () : 'user default off'),
                "sentinel sentinel-user $user", "sentinel sentinel-pass $self->{sentinel_password}";
        }

        push @{$self->{watchers}}, IdempotencyTest::Redis->new(mode => 'sentinel', port => $ports[$i],
            ($self->{sentinel_tls} ? (tls => $self->{sentinel_tls}) : ()),
            ($tls ? (tls => $tls, tls_port => $tls_ports[$i], tls_inside => 1) : ()),
            configuration => join('', map { "$_\n" } @lines), user => $self->{sentinel_user}, password => $self->{sentinel_password});
    }

    await(sub { !grep { !$self->is_settled($_) } $self->sentinels }) or die "the sentinels do not find each other\n";
}

# The port that servers and sentinels use for each other.
sub port_of { my ($redis) = @_; return $redis->tls_port // $redis->port }

# What a sentinel knows about the master.
sub view {
    my ($self, $sentinel) = @_;
    return {@{$sentinel->command('SENTINEL', 'MASTER', $self->{name})}};
}

sub is_settled {
    my ($self, $sentinel) = @_;
    my $view = eval { $self->view($sentinel) } or return 0;
    return $view->{flags} eq 'master' && $view->{'num-slaves'} >= $self->{replicas}
        && $view->{'num-other-sentinels'} == $self->{sentinels} - 1
        && eval { $sentinel->command('SENTINEL', 'CKQUORUM', $self->{name}) =~ /^OK/ };
}

# The Redis that all running sentinels name.
sub master {
    my ($self) = @_;
    my %ports = map { my $view = eval { $self->view($_) }; $view ? ($view->{port} => 1) : () } grep { $_->is_running } $self->sentinels;
    my ($port, @others) = keys %ports;
    return undef if !defined $port || @others;
    my ($master) = grep { port_of($_) == $port } $self->redis;
    return $master;
}

# Waits until all sentinels name another running master, which has this role. Returns the new master.
sub await_new_master {
    my ($self, $old) = @_;
    my $master;
    await(sub { $master = $self->master; $master && $master != $old && $master->is_running && $master->is_master }, 40)
        or die "there is no new master\n";
    return $master;
}

# Kills the master, and returns the new one.
sub kill_master {
    my ($self) = @_;
    my $old = $self->master;
    $old->kill;
    return $self->await_new_master($old);
}

# An orderly failover; returns the new master.
sub failover {
    my ($self) = @_;
    my $old = $self->master;
    await(sub { eval { ($self->sentinels)[0]->command('SENTINEL', 'FAILOVER', $self->{name}) } }) or die "no failover: $@";
    return $self->await_new_master($old);
}

1;
