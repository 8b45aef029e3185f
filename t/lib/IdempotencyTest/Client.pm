package IdempotencyTest::Client;

# An HTTP/1.1 client over raw sockets: requests may be sent in parts, many at
# once or one after another on one connection, and a response is kept with its bytes.

use strict;
use warnings;

use Exporter 'import';
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use Socket qw(SOL_SOCKET SO_LINGER);
use Time::HiRes qw(time);

use IdempotencyTest::Process;
use IdempotencyTest::Response;

our @EXPORT_OK = qw(send_request finish request);

# `address` is unix:PATH or HOST:PORT.
sub connect {
    my ($class, $address) = @_;

    my $socket = $address =~ /^unix:(.*)/s
        ? IO::Socket::UNIX->new(Peer => $1)
        : IO::Socket::INET->new(PeerAddr => $address);
    die "cannot connect to $address: $!\n" if !$socket;
    binmode $socket;

    return bless {socket => $socket, buffer => '', awaited => []}, $class;
}

# Writes a request; its parts are:
#   method, path, host, version
#   key       the Idempotency-Key
#   headers   a list of 'Name: value'
#   body      sent with its length, or
#   chunks    a list of what is sent chunked
sub send {
    my ($self, %request) = @_;
    my $method = $request{method} // 'POST';

    my @lines = (
        sprintf('%s %s %s', $method, $request{path} // '/', $request{version} // 'HTTP/1.1'),
        'Host: ' . ($request{host} // 'localhost'));
    push @lines, "Idempotency-Key: $request{key}" if defined $request{key};
    push @lines, @{$request{headers} || []};

    my $body = '';
    if (my $chunks = $request{chunks}) {
        push @lines, 'Transfer-Encoding: chunked';
        $body = join '', map { sprintf "%x\r\n%s\r\n", length, $_ } @$chunks, '';
    }
    elsif (defined $request{body}) {
        $body = $request{body};
        push @lines, 'Content-Length: ' . length $body;
    }

    return $self->send_raw(join('', map { "$_\r\n" } @lines) . "\r\n$body", $method);
}

# `methods` are those of the expected responses: a response to HEAD has no body.
sub send_raw {
    my ($self, $bytes, @methods) = @_;

    local $SIG{PIPE} = 'IGNORE';
    my $socket = $self->{socket};
    while (length $bytes) {
        my $written = syswrite $socket, $bytes;
        last if !defined $written;     # the test sees that in the response
        substr $bytes, 0, $written, '';
    }

    push @{$self->{awaited}}, @methods;
    $self->{sent} = time;
    return $self;
}

# What has come without waiting for more; false at the end of the connection.
sub read_some {
    my ($self) = @_;
    my $n = sysread $self->{socket}, my $bytes, 65536;
    return 0 if !$n;

    $self->{buffer} .= $bytes;
    return 1;
}

# The next response.
sub response {
    my ($self, $seconds) = @_;
    my $deadline = time() + ($seconds // $IdempotencyTest::Process::DEADLINE);
    my $select = IO::Select->new($self->{socket});
    my $ended = 0;

    while (1) {
        my $response = $self->parse($ended);
        return $response if $response;

        my $left = $deadline - time();
        return IdempotencyTest::Response->missing('no response in time', $self->{buffer})
            if $left <= 0;
        return IdempotencyTest::Response->missing('closed without a complete response', $self->{buffer})
            if $ended;

        $ended = !$self->read_some if $select->can_read($left);
    }
}

sub parse {
    my ($self, $ended) = @_;
    my ($response, $length) = IdempotencyTest::Response->parse(
        $self->{buffer}, $self->{awaited}[0], $ended);
    return undef if !$response;

    substr $self->{buffer}, 0, $length, '';
    # the final response follows an interim response
    shift @{$self->{awaited}} if $response->status >= 200;
    $response->{elapsed} = time() - ($self->{sent} // time());
    return $response;
}

# True if nothing comes for so long.
sub is_silent_for {
    my ($self, $seconds) = @_;
    return !length $self->{buffer} && !IO::Select->new($self->{socket})->can_read($seconds);
}

# True once the other side has closed.
sub is_closed_within {
    my ($self, $seconds) = @_;
    my $select = IO::Select->new($self->{socket});
    my $deadline = time() + $seconds;

    while ((my $left = $deadline - time()) > 0) {
        next if !$select->can_read($left) || $self->read_some;
        # nginx lingers until this side has closed too
        $self->close;
        return 1;
    }

    return 0;
}

sub close { close $_[0]{socket} }

# The other side gets a reset.
sub close_with_reset {
    my ($self) = @_;
    setsockopt $self->{socket}, SOL_SOCKET, SO_LINGER, pack 'll', 1, 0;
    $self->close;
}

# Returns when the first bytes have arrived.
sub await_bytes {
    my ($self, $seconds) = @_;
    return length $self->{buffer}
        || IO::Select->new($self->{socket})->can_read($seconds // $IdempotencyTest::Process::DEADLINE) && $self->read_some;
}

# Returns when the unread bytes match.
sub await_text {
    my ($self, $pattern, $seconds) = @_;
    my $deadline = time() + ($seconds // $IdempotencyTest::Process::DEADLINE);
    my $select = IO::Select->new($self->{socket});

    while ($self->{buffer} !~ $pattern) {
        my $left = $deadline - time();
        return 0 if $left <= 0 || $select->can_read($left) && !$self->read_some;
    }

    return 1;
}

sub send_request {
    my ($address, %request) = @_;
    return __PACKAGE__->connect($address)->send(%request);
}

sub request { return send_request(@_)->response }

# The responses to many clients, in their order; each is read as it arrives, so that
# `elapsed` is correct for each.
sub finish {
    my @clients = @_;
    my %answer;
    my $deadline = time() + $IdempotencyTest::Process::DEADLINE;
    my %client = map { fileno($_->{socket}) => $_ } @clients;
    my $select = IO::Select->new(map { $_->{socket} } @clients);

    while ($select->count && (my $left = $deadline - time()) > 0) {
        for my $socket ($select->can_read($left)) {
            my $client = $client{fileno $socket};
            my $ended = !$client->read_some;
            my $response = $client->parse($ended);

            $response ||= IdempotencyTest::Response->missing(
                'closed without a complete response', $client->{buffer}) if $ended;
            next if !$response;

            $answer{$client} = $response;
            $select->remove($socket);
        }
    }

    return map { $answer{$_} || IdempotencyTest::Response->missing('no response in time', $_->{buffer}) }
        @clients;
}

1;
