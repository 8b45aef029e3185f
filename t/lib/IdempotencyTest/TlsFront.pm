package IdempotencyTest::TlsFront;

# TLS before a Redis (tls_front.py) in a process of its own, and what it has seen.

use strict;
use warnings;

use File::Basename qw(dirname);
use File::Spec;
use IdempotencyTest::App ();
use IdempotencyTest::Process qw(await free_port temporary_directory);
use JSON::PP ();

my $program = File::Spec->rel2abs(dirname(__FILE__) . '/../tls_front.py');

# `to`: the unix socket of the Redis; `certificate`: what Certificates gives; `authority` of clients, `protocol`, `silent`.
sub new {
    my ($class, %options) = @_;
    my $self = bless {directory => temporary_directory(), %options}, $class;
    my $certificate = $self->{certificate} || {};
    my @arguments = $self->{silent} ? '--silent'
        : ('--to', $self->{to}, '--certificate', $certificate->{certificate}, '--key', $certificate->{key});
    push @arguments, "--$_", $self->{$_} for grep { defined $self->{$_} } qw(authority protocol);

    # a port that somebody else took in the meantime is not worth a failed test
    for my $attempt (1 .. 5) {
        $self->{port} = free_port();
        unlink $self->output;
        my $process = IdempotencyTest::Process->start(name => 'TLS', output => $self->output,
            command => [-x '/usr/bin/python3' ? '/usr/bin/python3' : 'python3', $program, '--port', $self->{port}, @arguments]);

        await(sub { !$process->is_running || $self->text =~ /^ready$/m });
        next if !$process->is_running;

        $self->{process} = $process;
        return $self;
    }

    die 'TLS does not start: ' . $self->text . "\n";
}

sub port { $_[0]{port} }
sub output { "$_[0]{directory}/output" }
sub text { IdempotencyTest::App::slurp($_[0]->output) }

# Of handshakes, from the first; those that failed have `failed`.
sub seen { my ($self) = @_; return map { JSON::PP::decode_json($_) } $self->text =~ /^(\{.*\})$/mg }

# The Nth handshake that succeeded, once it is there.
sub await_seen {
    my ($self, $n) = @_;
    return await(sub { (grep { !exists $_->{failed} } $self->seen)[$n - 1] });
}

sub await_accepted {
    my ($self, $n) = @_;
    return await(sub { $n <= (() = $self->text =~ /^accepted$/mg) });
}

1;
