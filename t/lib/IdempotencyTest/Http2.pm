package IdempotencyTest::Http2;

# As much of an HTTP/2 client as it takes to send requests and to leave: streams
# are opened and reset, answers are not read.

use strict;
use warnings;

use IO::Socket::UNIX;

use constant {HEADERS => 1, RST_STREAM => 3, SETTINGS => 4, CANCEL => 8, ACK => 1, END_OF_HEADERS => 4, END_STREAM_AND_HEADERS => 5, DATA => 0, END_STREAM => 1};

sub connect {
    my ($class, $path) = @_;
    my $socket = IO::Socket::UNIX->new(Peer => $path) or die "cannot connect to $path: $!\n";
    binmode $socket;

    my $self = bless {socket => $socket, stream => -1}, $class;
    syswrite $socket, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    $self->frame(SETTINGS, 0, 0, '');
    $self->frame(SETTINGS, ACK, 0, '');
    return $self;
}

sub frame {
    my ($self, $type, $flags, $stream, $payload) = @_;
    syswrite $self->{socket}, substr(pack('N', length $payload), 1) . pack('CCN', $type, $flags, $stream) . $payload;
}

# A request without a body; its stream.
sub send { my ($self, $path, %headers) = @_; return $self->open($path, END_STREAM_AND_HEADERS, %headers) }

# A request whose body goes in parts, by send_data.
sub begin { my ($self, $path, %headers) = @_; return $self->open($path, END_OF_HEADERS, %headers) }

sub send_data {
    my ($self, $stream, $bytes, $is_last) = @_;
    $self->frame(DATA, $is_last ? END_STREAM : 0, $stream, $bytes);
}

sub open {
    my ($self, $path, $flags, %headers) = @_;
    my @fields = (':method' => 'POST', ':scheme' => 'http', ':path' => $path, ':authority' => 'localhost', %headers);
    my $block = '';

    while (my ($name, $value) = splice @fields, 0, 2) {
        # a literal without indexing
        $block .= pack 'C C/a C/a', 0, $name, $value;
    }

    $self->frame(HEADERS, $flags, $self->{stream} += 2, $block);
    return $self->{stream};
}

sub reset { my ($self, $stream) = @_; $self->frame(RST_STREAM, 0, $stream, pack 'N', CANCEL) }
sub close { close $_[0]{socket} }

# Gives back once the first bytes of a body are here; false at the end of the connection.
sub await_bytes {
    my ($self) = @_;
    my $bytes = '';

    while (sysread $self->{socket}, $bytes, 65536, length $bytes) {
        while (length $bytes >= 9) {
            my ($high, $low, $type) = unpack 'CnC', $bytes;
            my $length = $high << 16 | $low;
            return 1 if $type == DATA;
            last if length $bytes < 9 + $length;
            substr $bytes, 0, 9 + $length, '';
        }
    }

    return 0;
}

1;
