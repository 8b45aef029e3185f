package IdempotencyTest::Process;

# A server that a test starts, signals and stops, and functions that wait for events.

use strict;
use warnings;

use Exporter 'import';
use File::Temp ();
use IO::Socket::INET;
use POSIX qw(WNOHANG);
use Scalar::Util qw(weaken);
use Time::HiRes qw(sleep time);

our @EXPORT_OK = qw(await dead_port free_port temporary_directory);

# Longer than any step takes on a slow machine under a sanitizer: only a test
# that fails waits for so long.
our $DEADLINE = 20;

my %running;

# A test that is interrupted leaves no servers behind.
$SIG{$_} ||= sub { exit 1 } for qw(INT TERM HUP);

END {
    my $status = $?;
    $_->kill_now for grep { defined } values %running;
    $? = $status;
}

# Polls until the condition holds; its value, or a false one at the deadline.
sub await {
    my ($condition, $seconds) = @_;
    my $deadline = time() + ($seconds // $DEADLINE);

    while (1) {
        my $value = $condition->();
        return $value if $value;
        return '' if time() > $deadline;
        sleep 0.01;
    }
}

# Below the range from which the kernel takes the ports of outgoing
# connections: a server which is stopped for a while finds its port again.
sub free_port {
    for (1 .. 200) {
        my $port = 12000 + int rand 18000;
        my $socket = IO::Socket::INET->new(
            LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 1, ReuseAddr => 1);
        return $port if $socket;
    }

    die "no free port found\n";
}

# A port at which no process listens: it is bound until the test ends.
my @dead;

sub dead_port {
    # another process may take a free port before it is bound
    for (1 .. 20) {
        my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => free_port(), Proto => 'tcp') or next;
        push @dead, $socket;
        return $socket->sockport;
    }

    die "no port: $!\n";
}

# Sockets live in it, so the path has to be short.
sub temporary_directory {
    return File::Temp->newdir('idemXXXXXX', TMPDIR => 1);
}

sub start {
    my ($class, %options) = @_;
    my $self = bless {name => $options{name}, owner => $$}, $class;

    my $pid = fork() // die "fork: $!\n";

    if ($pid == 0) {
        # a process group, so that an nginx is killed with its workers
        setpgrp 0, 0;
        $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP);
        open STDIN, '<', '/dev/null';
        open STDOUT, '>>', $options{output} or POSIX::_exit(127);
        open STDERR, '>>', $options{output} or POSIX::_exit(127);
        $ENV{$_} = $options{environment}{$_} for keys %{$options{environment} || {}};
        { no warnings 'exec'; exec {$options{command}[0]} @{$options{command}}; }
        print STDERR "$options{command}[0]: $!\n";
        POSIX::_exit(127);
    }

    setpgrp $pid, $pid;
    $self->{pid} = $pid;
    weaken($running{$pid} = $self);
    return $self;
}

sub pid { $_[0]{pid} }

sub is_running {
    my ($self) = @_;
    return 0 if !defined $self->{pid};

    if (waitpid($self->{pid}, WNOHANG) != 0) {
        $self->{status} = $?;
        delete $running{delete $self->{pid}};
        return 0;
    }

    return 1;
}

sub signal {
    my ($self, $signal) = @_;
    kill $signal => $self->{pid} if defined $self->{pid};
}

# True if the process ended by itself before the deadline.
sub stop {
    my ($self, $signal, $seconds) = @_;
    return 1 if !$self->is_running;

    $self->signal($signal // 'TERM');
    return 1 if await(sub { !$self->is_running }, $seconds);

    $self->kill_now;
    return 0;
}

sub kill_now {
    my ($self) = @_;
    return if !defined $self->{pid} || $self->{owner} != $$;

    # a stopped process has to be continued before it can be killed
    kill CONT => -$self->{pid};
    kill KILL => -$self->{pid};
    waitpid $self->{pid}, 0;
    delete $running{delete $self->{pid}};
}

sub DESTROY {
    my ($self) = @_;
    local ($?, $!);
    $self->kill_now;
}

1;
