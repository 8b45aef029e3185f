package IdempotencyTest::Relay;

# The relay in front of a Redis (relay.py) in its own process, and its commands.

use strict;
use warnings;

use IO::Socket::UNIX;
use IdempotencyTest::Process qw(temporary_directory);
use IdempotencyTest::Python qw(start_python_server);

# `to`: the unix socket of the Redis, or its host and port.
sub new {
    my ($class, %options) = @_;
    my $self = bless {directory => temporary_directory(), %options}, $class;
    my $control = "$self->{directory}/control.sock";
    unlink $control;
    @$self{qw(process port)} = start_python_server(name => 'relay', output => "$self->{directory}/output",
        arguments => ['--to', $self->{to}, '--control', $control]);
    $self->{control} = IO::Socket::UNIX->new(Peer => $control) or die "cannot connect to the relay: $!\n";
    return $self;
}

sub port { $_[0]{port} }
sub url { "redis://127.0.0.1:$_[0]{port}" }

# Runs a command of the relay. Returns its reply.
sub do {
    my ($self, @words) = @_;
    print {$self->{control}} "@words\n";
    $self->{control}->flush;

    my $answer = readline($self->{control}) // 'nothing';
    chomp $answer;
    die "the relay replies to '@words' with '$answer'\n" if $answer !~ /^(?:ok|\d+)$/;
    return $answer;
}

1;
