package IdempotencyTest::Redis;

# A Redis server of the test's own, or a connection to one that is running, with
# a client that takes and gives any bytes.

use strict;
use warnings;

use IO::Socket::INET;
use IO::Socket::UNIX;
use IdempotencyTest::Process qw(await free_port temporary_directory);

# `socket`: of a server that is running already. Otherwise `arguments` are given
# to the server that is started, and `password` is what this client needs then.
sub new {
    my ($class, %options) = @_;
    my $self = bless {%options}, $class;

    if (!defined $self->{socket}) {
        $self->{directory} = temporary_directory();
        $self->{socket} = "$self->{directory}/redis.sock";
        $self->{port} = free_port();
        $self->start;
    }

    return $self;
}

sub port { $_[0]{port} }
sub socket { $_[0]{socket} }
sub pid { $_[0]{process}->pid }
sub log_file { "$_[0]{directory}/output" }

sub server_program {
    for my $name ('redis-server', 'valkey-server') {
        for my $directory (split(/:/, $ENV{PATH}), '/usr/bin', '/usr/local/bin') {
            return "$directory/$name" if -x "$directory/$name";
        }
    }

    die "neither redis-server nor valkey-server is installed\n";
}

# Returns when it answers, or when `until` holds.
sub start {
    my ($self, %options) = @_;
    my $until = $options{until} || sub { eval { $self->command('PING') } };
    unlink $self->{socket};

    $self->{process} = IdempotencyTest::Process->start(
        name => 'redis',
        output => $self->log_file,
        command => [server_program(),
            '--bind', '127.0.0.1', '--port', $self->{port}, '--unixsocket', $self->{socket},
            '--dir', "$self->{directory}", '--save', '', '--appendonly', 'no',
            @{$self->{arguments} || []}]);

    await(sub { !$self->{process}->is_running || $until->() })
        and $self->{process}->is_running
        or die "redis does not start, see its output:\n" . IdempotencyTest::App::slurp($self->log_file);

    return $self;
}

sub stop { my ($self) = @_; $self->disconnect; $self->{process}->stop('TERM') }
sub kill { my ($self) = @_; $self->disconnect; $self->{process}->kill_now }

# A stalled server keeps its connections and answers nothing.
sub stall { $_[0]{process}->signal('STOP') }
sub resume { $_[0]{process}->signal('CONT') }

sub disconnect { delete @{$_[0]}{qw(connection buffer)} }

sub connection {
    my ($self) = @_;
    return $self->{connection} if $self->{connection};

    $self->{buffer} = '';
    $self->{connection} = IO::Socket::UNIX->new(Peer => $self->{socket})
        or die "cannot connect to redis: $!\n";
    binmode $self->{connection};
    $self->command('AUTH', $self->{password}) if defined $self->{password};
    return $self->{connection};
}

# The reply: a string, a number, undef, or a reference to a list. Dies on an error.
sub command {
    my ($self, @arguments) = @_;
    $self->send_command(@arguments);
    return $self->read_reply;
}

sub send_command {
    my ($self, @arguments) = @_;
    local $SIG{PIPE} = 'IGNORE';
    my $bytes = join '', '*' . @arguments . "\r\n", map { '$' . length($_) . "\r\n$_\r\n" } @arguments;
    defined(syswrite $self->connection, $bytes) or $self->disconnect, die "redis is gone: $!\n";
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

# The lines of MONITOR while the code runs; what scripts call is left out.
sub commands_during {
    my ($self, $code) = @_;
    my $monitor = (ref $self)->new(socket => $self->{socket}, password => $self->{password});
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
