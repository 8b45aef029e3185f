package IdempotencyTest::Http2;

# A minimal HTTP/2 client that sends requests and disconnects: streams
# are opened and reset, responses are not parsed.

use strict;
use warnings;

use IO::Socket::UNIX;

use constant {HEADERS => 1, RST_STREAM => 3, SETTINGS => 4, PING => 6, CANCEL => 8, ACK => 1, END_OF_HEADERS => 4, END_STREAM_AND_HEADERS => 5, DATA => 0, END_STREAM => 1};

sub connect {
    my ($class, $path) = @_;
    my $socket = IO::Socket::UNIX->new(Peer => $path) or die "cannot connect to $path: $!\n";
    binmode $socket;

    my $self = bless {socket => $socket, stream => -1, unread => ''}, $class;
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

# A request whose body is sent in parts with send_data.
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

# The next frame: type, flags, length. Nothing at the end of the connection.
sub next_frame {
    my ($self) = @_;
    my $frame = $self->read_bytes(9) // return;
    my ($high, $low, $type, $flags) = unpack 'CnCC', $frame;
    defined $self->read_bytes($high << 16 | $low) or return;
    return $type, $flags, $high << 16 | $low;
}

sub read_bytes {
    my ($self, $length) = @_;

    while (length $self->{unread} < $length) {
        sysread $self->{socket}, $self->{unread}, 65536, length $self->{unread} or return undef;
    }

    return substr $self->{unread}, 0, $length, '';
}

sub await_frame {
    my ($self, $wanted, $flag) = @_;

    while (my ($type, $flags) = $self->next_frame) {
        return 1 if $type == $wanted && ($flags & $flag) == $flag;
    }

    return 0;
}

# Returns when the first bytes of a body have arrived; false at the end of the connection.
sub await_bytes { return $_[0]->await_frame(DATA, 0) }

# Returns when so many bytes of bodies have arrived since the last call.
sub await_data {
    my ($self, $length) = @_;

    while ($length > 0 && (my ($type, $flags, $size) = $self->next_frame)) {
        $length -= $size if $type == DATA;
    }

    return $length <= 0;
}

# Returns when the server has read all that was sent: unread data is lost if the connection is closed.
sub await_read {
    my ($self) = @_;
    $self->frame(PING, 0, 0, 'all read');
    return $self->await_frame(PING, ACK);
}

1;
