package IdempotencyTest::TlsFront;

# TLS in front of a Redis (tls_front.py) in its own process, and what it has reported.

use strict;
use warnings;

use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Process qw(await temporary_directory);
use IdempotencyTest::Python qw(start_python_server);
use JSON::PP ();

# `to`: the unix socket of the Redis; `certificate`: what Certificates gives; `authority` of clients, `protocol`, `silent`.
sub new {
    my ($class, %options) = @_;
    my $self = bless {directory => temporary_directory(), %options}, $class;
    my $certificate = $self->{certificate} || {};
    my @arguments = $self->{silent} ? '--silent'
        : ('--to', $self->{to}, '--certificate', $certificate->{certificate}, '--key', $certificate->{key});
    push @arguments, "--$_", $self->{$_} for grep { defined $self->{$_} } qw(authority protocol);

    @$self{qw(process port)} = start_python_server(name => 'tls_front', output => $self->output, arguments => \@arguments);
    return $self;
}

sub port { $_[0]{port} }
sub output { "$_[0]{directory}/output" }
sub text { slurp($_[0]->output) }

# The reports of all handshakes that succeeded since the last `forget`. A worker opens further connections when it wants, to check
# the server: so a test never counts handshakes.
sub seen {
    my ($self) = @_;
    my @all = grep { !exists $_->{failed} } map { JSON::PP::decode_json($_) } $self->text =~ /^(\{.*\})$/mg;
    return @all[($self->{forgotten} // 0) .. $#all];
}

sub forget { my ($self) = @_; delete $self->{forgotten}; $self->{forgotten} = () = $self->seen; return }

# A handshake for which `is_wanted` is true, or any, once it is there.
sub await_seen {
    my ($self, $is_wanted) = @_;
    $is_wanted //= sub { 1 };
    return await(sub { (grep { $is_wanted->($_) } $self->seen)[0] });
}

sub await_accepted {
    my ($self, $n) = @_;
    return await(sub { $n <= (() = $self->text =~ /^accepted$/mg) });
}

1;
