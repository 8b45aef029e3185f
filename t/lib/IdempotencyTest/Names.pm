package IdempotencyTest::Names;

# A name server (names.py) in its own process.

use strict;
use warnings;

use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Process qw(temporary_directory);
use IdempotencyTest::Python qw(start_python_server);

# The zone: NAME => [ADDRESS, ...].
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
    @$self{qw(process port)} = start_python_server(name => 'names', output => $self->output, port => $self->{port},
        arguments => ['--zone', "$self->{directory}/zone"]);
    return $self;
}

sub stop { $_[0]{process}->stop }
sub port { $_[0]{port} }

# The directives for nginx.
sub directive { "resolver 127.0.0.1:$_[0]{port}; resolver_timeout 1s;" }

# undef for a name that no longer exists.
sub set {
    my ($self, %zone) = @_;
    %{$self->{zone}} = (%{$self->{zone}}, %zone);
    my $file = "$self->{directory}/zone";
    open my $out, '>', "$file.new" or die "$file: $!\n";
    print $out map { "$_ @{$self->{zone}{$_}}\n" } grep { defined $self->{zone}{$_} } sort keys %{$self->{zone}};
    close $out or die "$file: $!\n";
    rename "$file.new", $file or die "$file: $!\n";
}

# How often a name was queried.
sub asked {
    my ($self, $name) = @_;
    return scalar(() = slurp($self->output) =~ /^\Q$name\E$/mg);
}

1;
