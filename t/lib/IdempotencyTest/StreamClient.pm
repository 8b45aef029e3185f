package IdempotencyTest::StreamClient;

# A client of HTTP/2 or HTTP/3 whose responses are read: a program of t/lib that takes commands (h2_client.py, h3.py).

use strict;
use warnings;

use IPC::Open2 ();
use JSON::PP ();

use IdempotencyTest::Python qw(python_command);
use IdempotencyTest::Response;

my $json = JSON::PP->new;

# A client of HTTP/2; `path` is a unix socket. `window`: how many bytes of a response it allows.
sub connect_http2 {
    my ($class, $path, %options) = @_;
    return $class->run('h2_client.py', '--socket', $path, defined $options{window} ? ('--window', $options{window}) : ());
}

sub run {
    my ($class, @command) = @_;
    my $self = bless {name => $command[0]}, $class;
    $self->{pid} = IPC::Open2::open2($self->{out}, $self->{in}, python_command(@command));
    return $self;
}

sub tell {
    my ($self, @command) = @_;
    local $SIG{PIPE} = 'IGNORE';
    syswrite $self->{in}, $json->encode(\@command) . "\n";
    my $line = readline $self->{out};
    die "the client $self->{name} has failed at $command[0]\n" if !defined $line;
    return JSON::PP->new->allow_nonref->decode($line);
}

# path, host, key, headers (a list of 'Name: value'), body, rest; the stream.
sub send {
    my ($self, %request) = @_;
    my @headers = map { [split /: */, $_, 2] } @{$request{headers} || []};
    push @headers, ['Idempotency-Key', "$request{key}"] if defined $request{key};
    return $self->tell(send => {path => $request{path}, host => $request{host}, headers => \@headers, body => $request{body} // '',
        rest => $request{rest} ? JSON::PP::true : JSON::PP::false});
}

sub response {
    my ($self, $stream) = @_;
    my $answer = $self->tell(answer => $stream);
    my $body = pack 'H*', $answer->{body};
    return IdempotencyTest::Response->missing($answer->{end}, $body) if $answer->{end} ne 'whole';

    my $head = join '', map { "$_\r\n" } "HTTP/1.1 $answer->{status}", map { "$_->[0]: $_->[1]" } @{$answer->{headers}};
    my ($response) = IdempotencyTest::Response->parse("$head\r\n$body", 'POST', 1);
    return $response // IdempotencyTest::Response->missing('less than its length', $body);
}

sub request { my ($self, %request) = @_; return $self->response($self->send(%request)) }
sub await_bytes { my ($self, $stream) = @_; return $self->tell(begin => $stream) }
sub reset { my ($self, $stream) = @_; $self->tell(reset => $stream) }

sub DESTROY {
    my ($self) = @_;
    local ($?, $!);
    return if !$self->{pid};
    CORE::close $self->{in};
    CORE::close $self->{out};
    kill TERM => $self->{pid};
    waitpid $self->{pid}, 0;
}

1;
