package IdempotencyTest::Relay;

# The relay before a Redis (relay.py) in a process of its own, and the commands to it.

use strict;
use warnings;

use File::Basename qw(dirname);
use File::Spec;
use IO::Socket::UNIX;
use IdempotencyTest::App;
use IdempotencyTest::Process qw(await free_port temporary_directory);

my $program = File::Spec->rel2abs(dirname(__FILE__) . '/../relay.py');

# `to`: the unix socket of the Redis, or its host and port.
sub new {
    my ($class, %options) = @_;
    my $self = bless {directory => temporary_directory(), %options}, $class;
    my $output = "$self->{directory}/output";
    my $control = "$self->{directory}/control.sock";

    # a port that somebody else took in the meantime is not worth a failed test
    for my $attempt (1 .. 5) {
        my $port = free_port();
        unlink $output, $control;
        my $process = IdempotencyTest::Process->start(
            name => 'relay', output => $output,
            command => [-x '/usr/bin/python3' ? '/usr/bin/python3' : 'python3', $program,
                '--port', $port, '--to', $self->{to}, '--control', $control]);

        await(sub { !$process->is_running || IdempotencyTest::App::slurp($output) =~ /^ready$/m });
        next if !$process->is_running;

        @$self{qw(port process)} = ($port, $process);
        $self->{control} = IO::Socket::UNIX->new(Peer => $control) or die "cannot connect to the relay: $!\n";
        return $self;
    }

    die 'the relay does not start: ' . IdempotencyTest::App::slurp($output) . "\n";
}

sub port { $_[0]{port} }
sub url { "redis://127.0.0.1:$_[0]{port}" }

# Gives back once it is done; the answer.
sub do {
    my ($self, @words) = @_;
    print {$self->{control}} "@words\n";
    $self->{control}->flush;

    my $answer = readline($self->{control}) // 'nothing';
    chomp $answer;
    die "the relay answers '@words' with '$answer'\n" if $answer !~ /^(?:ok|\d+)$/;
    return $answer;
}

1;
