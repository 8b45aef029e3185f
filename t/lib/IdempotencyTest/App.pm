package IdempotencyTest::App;

# The application (app.py) in a process of its own, and the questions to it.

use strict;
use warnings;

use File::Basename qw(dirname);
use File::Spec;
use IdempotencyTest::Client ();
use IdempotencyTest::Process qw(await free_port temporary_directory);
use JSON::PP ();

my $program = File::Spec->rel2abs(dirname(__FILE__) . '/../app.py');
my $spaces = 0;

# `port`: of an application that is running already, or the one to listen on.
# `gateways`: it speaks FastCGI, SCGI, uwsgi and gRPC too, see gateway().
sub new {
    my ($class, %options) = @_;
    my $self = bless {port => $options{port}, gateways => $options{gateways}, space => $class->new_space}, $class;
    $self->start if !$options{is_running};
    return $self;
}

# Tests that share an application count in spaces of their own.
sub new_space { return join '-', $$, int time, $spaces++ }

sub start {
    my ($self) = @_;
    $self->{directory} ||= temporary_directory();
    my $output = "$self->{directory}/output";

    # a port that somebody else took in the meantime is not worth a failed test
    for my $attempt (1 .. 5) {
        my $port = $self->{port} // free_port();
        unlink $output;
        my $process = IdempotencyTest::Process->start(
            name => 'app', output => $output,
            # the python which Debian's python3-h2 is for
            command => [-x '/usr/bin/python3' ? '/usr/bin/python3' : 'python3', $program, '--port', $port,
                $self->{gateways} ? ('--gateways', "$self->{directory}") : ()]);

        await(sub { !$process->is_running || slurp($output) =~ /^ready$/m });
        next if !$process->is_running;

        $self->{port} = $port;
        $self->{process} = $process;
        return $self;
    }

    die 'the application does not start: ' . slurp($output) . "\n";
}

sub slurp {
    my ($file) = @_;
    open my $in, '<:raw', $file or return '';
    local $/;
    return <$in> // '';
}

sub stop { $_[0]{process}->stop if $_[0]{process} }

sub port { $_[0]{port} }

# The socket of fastcgi, scgi, uwsgi or grpc.
sub gateway { my ($self, $protocol) = @_; return "unix:$self->{directory}/$protocol.sock" }

sub space { $_[0]{space} }

sub ask {
    my ($self, $question) = @_;
    my $answer = IdempotencyTest::Client::request("127.0.0.1:$self->{port}",
        method => 'GET', path => $question, headers => ["App-Space: $self->{space}"]);
    die "the application does not say $question: " . $answer->status_line . "\n"
        if $answer->status != 200;
    return $answer->body;
}

sub count { my ($self, $path) = @_; return 0 + $self->ask("/count$path") }
sub last_request { my ($self, $path) = @_; return JSON::PP::decode_json($self->ask("/last$path")) }
sub open_gate { my ($self, $name) = @_; $self->ask("/open/$name") }

# These return once it has happened.
sub await_arrival { my ($self, $path, $n) = @_; $self->ask("/arrived$path?n=" . ($n // 1)) }
sub await_answer { my ($self, $path, $n) = @_; $self->ask("/answered$path?n=" . ($n // 1)) }

1;
