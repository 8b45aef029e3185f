package IdempotencyTest::Redis;

# A Redis or Valkey server of the test, or a connection to a server that is
# running already, with a client for any bytes.
#
# Environment: IDEMPOTENCY_TEST_REDIS_SERVER, the server's program.

use strict;
use warnings;

use File::Basename qw(basename dirname);
use IO::Socket::INET;
use IO::Socket::UNIX;
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Process qw(await free_port temporary_directory);

# `socket`: of a server that is running already; or `address`, HOST:PORT. Otherwise a server is started, with
#   arguments     more of its command line
#   configuration text of its configuration file
#   bind          the addresses it listens at, 127.0.0.1
#   tls           certificates (Certificates::server): it has a port for TLS too; `client_certificates` yes, no or optional;
#                 `tls_inside`: servers speak it among themselves, too
#   acl           text of its ACL file
#   replica_of    another one of these
#   mode          `sentinel`
# and `user` and `password` are those of this client.
sub new {
    my ($class, %options) = @_;
    my $self = bless {%options}, $class;

    if (!defined $self->{socket} && !defined $self->{address}) {
        $self->{directory} = temporary_directory();
        # a sentinel has none
        $self->{socket} = "$self->{directory}/redis.sock" if !$self->{mode};
        $self->write_file('redis.conf', $self->{configuration} // '');
        $self->write_file('users.acl', $self->{acl}) if defined $self->{acl};
        $self->start_somewhere(%options);
    }

    return $self;
}

# A test does not fail because another process took the port in the meantime.
sub start_somewhere {
    my ($self, %options) = @_;
    my $is_given = defined $self->{port};

    for my $attempt (1 .. 5) {
        $self->{port} = free_port() if !$is_given;
        $self->{tls_port} = $options{tls_port} // free_port() if $self->{tls};
        return $self if eval { $self->start };
        die $@ if $@ !~ /Address already in use/;
    }

    die $@;
}

sub port { $_[0]{port} }
sub tls_port { $_[0]{tls_port} }
sub socket { $_[0]{socket} }
sub pid { $_[0]{process}->pid }
sub log_file { "$_[0]{directory}/output" }
sub address { $_[0]{address} // "127.0.0.1:$_[0]{port}" }
sub is_running { $_[0]{process} && $_[0]{process}->is_running }

sub write_file {
    my ($self, $name, $content) = @_;
    return IdempotencyTest::Files::write_file("$self->{directory}/$name", $content);
}

sub server_program {
    return $ENV{IDEMPOTENCY_TEST_REDIS_SERVER} if $ENV{IDEMPOTENCY_TEST_REDIS_SERVER};

    for my $name ('redis-server', 'valkey-server') {
        for my $directory (split(/:/, $ENV{PATH}), '/usr/bin', '/usr/local/bin') {
            return "$directory/$name" if -x "$directory/$name";
        }
    }

    die "neither redis-server nor valkey-server is installed\n";
}

# Of the same product as the server if it is installed: each client works with both servers.
sub client_program {
    my $server = server_program();
    my ($make) = basename($server) =~ /(redis|valkey)/;
    my @names = map { "$_-cli" } ($make // 'redis'), 'redis', 'valkey';

    for my $name (@names) {
        for my $directory (dirname($server), split(/:/, $ENV{PATH}), '/usr/bin', '/usr/local/bin') {
            return "$directory/$name" if -x "$directory/$name";
        }
    }

    die "neither redis-cli nor valkey-cli is installed\n";
}

sub tls_arguments {
    my ($self) = @_;
    my $tls = $self->{tls} or return;
    return '--tls-port', $self->{tls_port}, '--tls-cert-file', $tls->{certificate}, '--tls-key-file', $tls->{key},
        '--tls-ca-cert-file', $tls->{authority}, '--tls-auth-clients', $self->{client_certificates} // 'no',
        $self->{tls_inside} ? ('--tls-replication', 'yes') : ();
}

sub arguments {
    my ($self) = @_;
    return ('--sentinel', '--port', $self->{port}, $self->tls_arguments) if ($self->{mode} // '') eq 'sentinel';

    my @arguments = ('--bind', @{$self->{bind} || ['127.0.0.1']}, '--port', $self->{port}, '--unixsocket', $self->{socket},
        '--dir', "$self->{directory}", '--save', '', '--appendonly', 'no',
        # a replica is in sync at once
        '--repl-diskless-sync-delay', '0', '--repl-ping-replica-period', '1', $self->tls_arguments);

    if (my $master = $self->{replica_of}) {
        push @arguments, '--replicaof', '127.0.0.1', $self->{tls_inside} ? $master->tls_port : $master->port;
        push @arguments, '--masterauth', $master->{password} if defined $master->{password};
        push @arguments, '--masteruser', $master->{user} if defined $master->{user};
    }

    push @arguments, '--aclfile', "$self->{directory}/users.acl" if defined $self->{acl};
    return @arguments, @{$self->{arguments} || []};
}

# Returns when the server replies, or when `until` holds.
sub start {
    my ($self, %options) = @_;
    my $until = $options{until} || sub { eval { $self->command('PING') } };
    unlink $self->{socket} if defined $self->{socket};
    unlink $self->log_file;

    $self->{process} = IdempotencyTest::Process->start(
        name => 'redis',
        output => $self->log_file,
        command => [server_program(), "$self->{directory}/redis.conf", $self->arguments]);

    await(sub { !$self->{process}->is_running || $until->() })
        and $self->{process}->is_running
        or die "redis does not start, see its output:\n" . slurp($self->log_file);

    return $self;
}

sub stop { my ($self) = @_; $self->disconnect; $self->{process}->stop('TERM') }
sub kill { my ($self) = @_; $self->disconnect; $self->{process}->kill_now }

# A stalled server keeps its connections and sends no replies.
sub stall { $_[0]{process}->signal('STOP') }
sub resume { $_[0]{process}->signal('CONT') }

sub disconnect { delete @{$_[0]}{qw(connection buffer)} }

sub connection {
    my ($self) = @_;
    return $self->{connection} if $self->{connection};

    $self->{buffer} = '';
    $self->{connection} = defined $self->{socket}
        ? IO::Socket::UNIX->new(Peer => $self->{socket}) : IO::Socket::INET->new(PeerAddr => $self->address);
    die "cannot connect to redis: $!\n" if !$self->{connection};
    binmode $self->{connection};
    $self->command('AUTH', $self->{user} // (), $self->{password}) if defined $self->{password};
    return $self->{connection};
}

# The reply: a string, a number, undef, or a reference to a list. Dies on an error.
sub command {
    my ($self, @arguments) = @_;
    $self->send_command(@arguments);
    return $self->read_reply;
}

# Waits until so many replicas have all writes so far. WAIT is about the last write of its connection, so this connection
# writes something that is not stored. Returns how many replicas have it.
sub await_replication {
    my ($self, $count) = @_;
    $self->command('PUBLISH', 'replication', 'awaited');
    return $self->command('WAIT', $count, 10_000);
}

sub send_command {
    my ($self, @arguments) = @_;
    local $SIG{PIPE} = 'IGNORE';
    my $bytes = join '', '*' . @arguments . "\r\n", map { '$' . length($_) . "\r\n$_\r\n" } @arguments;
    defined(syswrite $self->connection, $bytes) or $self->disconnect, die "redis has closed the connection: $!\n";
}

sub read_bytes {
    my ($self, $length) = @_;

    while (length $self->{buffer} < $length) {
        sysread $self->connection, $self->{buffer}, 65536, length $self->{buffer}
            or $self->disconnect, die "redis closed the connection\n";
    }

    return substr $self->{buffer}, 0, $length, '';
}

sub read_line {
    my ($self) = @_;
    my $end;

    while (($end = index $self->{buffer}, "\r\n") < 0) {
        sysread $self->connection, $self->{buffer}, 65536, length $self->{buffer}
            or $self->disconnect, die "redis closed the connection\n";
    }

    my $line = substr $self->{buffer}, 0, $end + 2, '';
    return substr $line, 0, -2;
}

sub read_reply {
    my ($self) = @_;
    my $line = $self->read_line;
    my $type = substr $line, 0, 1, '';

    return $line if $type eq '+' || $type eq ':';
    die "redis: $line\n" if $type eq '-';

    return undef if $line < 0;
    return [map { $self->read_reply } 1 .. $line] if $type eq '*';

    my $bytes = $self->read_bytes($line);
    $self->read_bytes(2);
    return $bytes;
}

# With its own connection.
sub another_client {
    my ($self) = @_;
    my %where = defined $self->{socket} ? (socket => $self->{socket}) : (address => $self->address);
    return IdempotencyTest::Redis->new(%where, user => $self->{user}, password => $self->{password});
}

# A field of INFO.
sub info {
    my ($self, $field) = @_;
    my ($value) = $self->command('INFO') =~ /^\Q$field\E:(.*?)\r?$/m;
    return $value;
}

sub is_master { my ($self) = @_; return eval { $self->info('role') eq 'master' } }

# Returns when so many replicas are in sync.
sub await_replicas {
    my ($self, $n) = @_;
    await(sub { eval { $n == (() = $self->command('INFO', 'replication') =~ /^slave\d+:.*state=online/mg) } })
        or die "redis has not $n replicas\n";
    return $self;
}

# The lines of MONITOR while the code runs; what scripts call is left out.
sub commands_during {
    my ($self, $code) = @_;
    my $monitor = $self->another_client;
    $monitor->command('MONITOR');
    $code->();
    $self->command('ECHO', 'that was all');

    my @lines;
    while ((my $line = $monitor->read_reply) !~ /"that was all"/) {
        push @lines, $line if $line !~ /^\S+ \[\d+ lua\]/;
    }

    return @lines;
}

# Every key with its raw value, of one database.
sub contents {
    my ($self, $database) = @_;
    $self->command('SELECT', $database // 0);
    my %value = map { $_ => $self->command('GET', $_) } @{$self->command('KEYS', '*')};
    $self->command('SELECT', 0);
    return \%value;
}

1;
