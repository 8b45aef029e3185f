package IdempotencyTest::RawApp;

# An application that responds with any bytes (raw_app.py) in its own process.

use strict;
use warnings;

use IdempotencyTest::Client ();
use IdempotencyTest::Process qw(temporary_directory);
use IdempotencyTest::Python qw(start_python_server);

# Options: `certificate`, what Certificates gives; `idle`, `closing`: seconds, see raw_app.py.
sub new {
    my ($class, %options) = @_;
    my $self = bless {directory => temporary_directory(), %options}, $class;
    my $certificate = $self->{certificate};
    my @arguments = $certificate ? ('--certificate', $certificate->{certificate}, '--key', $certificate->{key}) : ();
    push @arguments, "--$_", $self->{$_} for grep { defined $self->{$_} } qw(idle closing);

    @$self{qw(process port)} = start_python_server(name => 'raw_app', output => "$self->{directory}/output", arguments => \@arguments);
    return $self;
}

sub port { $_[0]{port} }

# For IdempotencyTest::Nginx: this application does not separate its counts.
sub space { 'raw' }

# How often a request for the path has come. Not over TLS.
sub count {
    my ($self, $path) = @_;
    my $answer = IdempotencyTest::Client::request("127.0.0.1:$self->{port}", method => 'GET', path => "/count$path");
    return $answer->body =~ /^(\d+)$/ ? $1 : die 'the application does not reply: ' . $answer->status_line . "\n";
}

1;
