package IdempotencyTest::App;

# The test application (app.py) in its own process, and the questions to it.

use strict;
use warnings;

use IdempotencyTest::Client ();
use IdempotencyTest::Process qw(temporary_directory);
use IdempotencyTest::Python qw(start_python_server);
use JSON::PP ();

my $spaces = 0;

# `port`: of an application that is running already, or the one to listen on.
# `gateways`: it serves FastCGI, SCGI, uwsgi and gRPC too, see gateway().
sub new {
    my ($class, %options) = @_;
    my $self = bless {port => $options{port}, gateways => $options{gateways}, space => $class->new_space}, $class;
    $self->start if !$options{is_running};
    return $self;
}

# Each test that shares an application has its own counts.
sub new_space { return join '-', $$, int time, $spaces++ }

sub start {
    my ($self) = @_;
    $self->{directory} ||= temporary_directory();
    @$self{qw(process port)} = start_python_server(name => 'app', output => "$self->{directory}/output", port => $self->{port},
        arguments => [$self->{gateways} ? ('--gateways', "$self->{directory}") : ()]);
    return $self;
}

sub stop { $_[0]{process}->stop if $_[0]{process} }

sub port { $_[0]{port} }

# The socket of fastcgi, scgi, uwsgi or grpc.
sub gateway { my ($self, $protocol) = @_; return "unix:$self->{directory}/$protocol.sock" }

sub space { $_[0]{space} }

# The same application, with the counts of another space.
sub in_space { my ($self, $space) = @_; return bless {port => $self->{port}, space => $space}, ref $self }

sub ask {
    my ($self, $question) = @_;
    my $answer = IdempotencyTest::Client::request("127.0.0.1:$self->{port}",
        method => 'GET', path => $question, headers => ["App-Space: $self->{space}"]);
    die "the application does not reply to $question: " . $answer->status_line . "\n"
        if $answer->status != 200;
    return $answer->body;
}

sub count { my ($self, $path) = @_; return 0 + $self->ask("/count$path") }
sub last_request { my ($self, $path) = @_; return JSON::PP::decode_json($self->ask("/last$path")) }
sub open_gate { my ($self, $name) = @_; $self->ask("/open/$name") }

# These return when the event has happened.
sub await_arrival { my ($self, $path, $n) = @_; $self->ask("/arrived$path?n=" . ($n // 1)) }
sub await_answer { my ($self, $path, $n) = @_; $self->ask("/answered$path?n=" . ($n // 1)) }

1;
