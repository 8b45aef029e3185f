package IdempotencyTest::Faults;

# Makes one call of a process fail, or shifts its clock: a library of t/lib that is preloaded into nginx, and its control file (fault.h).

use strict;
use warnings;

use File::Basename qw(dirname);
use File::Spec;
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Process qw(temporary_directory);

my $library = File::Spec->rel2abs(dirname(__FILE__) . '/..');

# The name of the library's source.
sub new {
    my ($class, $name) = @_;
    my $self = bless {directory => temporary_directory()}, $class;
    $self->{preload} = "$self->{directory}/$name.so";

    system('cc', '-O2', '-Wall', '-shared', '-fPIC', '-o', $self->{preload}, "$library/$name.c") == 0 or die "there is no $self->{preload}\n";
    $self->disarm;
    return $self;
}

# Processes that the code starts have the library.
sub preloaded {
    my ($self, $code) = @_;
    local @ENV{qw(LD_PRELOAD FAULT_CONTROL)} = ($self->{preload}, "$self->{directory}/control");
    # the library of a sanitizer, which should be the first, does not use these calls
    local $ENV{ASAN_OPTIONS} = join ':', $ENV{ASAN_OPTIONS} // (), 'verify_asan_link_order=0';
    return $code->();
}

sub set {
    my ($self, @values) = @_;
    my $file = "$self->{directory}/control";
    open my $out, -e $file ? '+<:raw' : '>:raw', $file or die "$file: $!\n";
    syswrite $out, pack 'l l q', @values;
}

# The Nth call of the process from now on fails.
sub arm { my ($self, $pid, $nth) = @_; $self->set($pid, 0, $nth) }
sub disarm { $_[0]->set(0, 0, 0) }

# Of shifted_clock: how far the clock is off, in seconds, from now on.
sub shift_clock { my ($self, $seconds) = @_; $self->set(0, 0, $seconds) }

# The error of the call, or 0 while none has failed.
sub has_failed { return (unpack 'l l q', slurp("$_[0]{directory}/control"))[1] }

1;
