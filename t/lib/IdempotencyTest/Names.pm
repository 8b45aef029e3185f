package IdempotencyTest::Names;

# A name server (names.py) in a process of its own.

use strict;
use warnings;

use File::Basename qw(dirname);
use File::Spec;
use IdempotencyTest::App ();
use IdempotencyTest::Process qw(await free_port temporary_directory);

my $program = File::Spec->rel2abs(dirname(__FILE__) . '/../names.py');

# What it knows: NAME => [ADDRESS, ...].
sub new {
    my ($class, %zone) = @_;
    my $self = bless {directory => temporary_directory(), zone => {}}, $class;
    $self->set(%zone);
    $self->start;
    return $self;
}

sub output { "$_[0]{directory}/output" }

sub start {
    my ($self) = @_;

    # a port that somebody else took in the meantime is not worth a failed test
    for my $attempt (1 .. 5) {
        my $port = $self->{port} // free_port();
        unlink $self->output;
        my $process = IdempotencyTest::Process->start(name => 'names', output => $self->output,
            command => [-x '/usr/bin/python3' ? '/usr/bin/python3' : 'python3', $program, '--port', $port, '--zone', "$self->{directory}/zone"]);

        await(sub { !$process->is_running || IdempotencyTest::App::slurp($self->output) =~ /^ready$/m });
        next if !$process->is_running;

        @$self{qw(port process)} = ($port, $process);
        return $self;
    }

    die 'the name server does not start: ' . IdempotencyTest::App::slurp($self->output) . "\n";
}

sub stop { $_[0]{process}->stop }
sub port { $_[0]{port} }

# What nginx is to be told.
sub directive { "resolver 127.0.0.1:$_[0]{port}; resolver_timeout 1s;" }

# undef for a name that is to exist no more.
sub set {
    my ($self, %zone) = @_;
    %{$self->{zone}} = (%{$self->{zone}}, %zone);
    my $file = "$self->{directory}/zone";
    open my $out, '>', "$file.new" or die "$file: $!\n";
    print $out map { "$_ @{$self->{zone}{$_}}\n" } grep { defined $self->{zone}{$_} } sort keys %{$self->{zone}};
    close $out or die "$file: $!\n";
    rename "$file.new", $file or die "$file: $!\n";
}

# How often it was asked for a name.
sub asked {
    my ($self, $name) = @_;
    return scalar(() = IdempotencyTest::App::slurp($self->output) =~ /^\Q$name\E$/mg);
}

1;
