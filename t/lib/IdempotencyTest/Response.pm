package IdempotencyTest::Response;

# One response, with its bytes.

use strict;
use warnings;

use JSON::PP ();

# Fields of this exchange, which do not belong to the kept response; x-status is
# added by tests of $idempotency_status.
my %of_the_exchange = map { $_ => 1 } qw(date connection keep-alive transfer-encoding
    idempotent-replayed x-status);

# The response at the beginning of `bytes` and its length, or nothing if it is not
# complete yet. `ended`: no more bytes will come.
sub parse {
    my ($class, $bytes, $method, $ended) = @_;

    my $head_length = index $bytes, "\r\n\r\n";
    return if $head_length < 0;
    $head_length += 4;

    my ($status_line, @lines) = split /\r\n/, substr $bytes, 0, $head_length;
    my ($status, $reason) = $status_line =~ m{^HTTP/1\.[01] (\d{3})(?: (.*))?$}
        or return $class->missing("not a response: $status_line", $bytes), length $bytes;

    my $self = bless {
        status => $status,
        status_line => $status_line,
        reason => $reason,
        head => substr($bytes, 0, $head_length),
        fields => [map { /^([^:]*):[ \t]*(.*)$/s ? [$1, $2] : ['', $_] } @lines],
        body => '',
    }, $class;

    if ($status < 200 || $status == 204 || $status == 304 || ($method // '') eq 'HEAD') {
        return $self, $head_length;
    }

    if (lc($self->header('Transfer-Encoding') // '') eq 'chunked') {
        my $at = $head_length;

        while (substr($bytes, $at) =~ /^([0-9A-Fa-f]+)\r\n/) {
            my $size = hex $1;
            $at += length($1) + 2;

            if ($size == 0) {
                return if substr($bytes, $at) !~ /^((?:[^\r\n]+\r\n)*)\r\n/;
                $self->{trailers} = [map { [split /:[ \t]*/, $_, 2] } split /\r\n/, $1];
                return $self, $at + length($1) + 2;
            }

            return if length $bytes < $at + $size + 2;
            $self->{body} .= substr $bytes, $at, $size;
            $at += $size + 2;
        }

        return;
    }

    if (defined(my $length = $self->header('Content-Length'))) {
        return if length $bytes < $head_length + $length;
        $self->{body} = substr $bytes, $head_length, $length;
        return $self, $head_length + $length;
    }

    return if !$ended;
    $self->{body} = substr $bytes, $head_length;
    return $self, length $bytes;
}

# Stands for a missing response, so that comparisons fail with the reason.
sub missing {
    my ($class, $why, $bytes) = @_;
    return bless {status => 0, status_line => $why, reason => $why, head => '', fields => [],
        body => $bytes}, $class;
}

sub status { $_[0]{status} }
sub status_line { $_[0]{status_line} }
sub head { $_[0]{head} }
sub body { $_[0]{body} }
sub trailers { $_[0]{trailers} || [] }
sub elapsed { $_[0]{elapsed} }

sub headers {
    my ($self, $name) = @_;
    return map { $_->[1] } grep { lc $_->[0] eq lc $name } @{$self->{fields}};
}

sub header { return (headers(@_))[0] }

sub is_replay { return ($_[0]->header('Idempotent-Replayed') // '') eq 'true' }

# The response without the fields of the exchange: equal for a response and its replay.
sub lasting {
    my ($self) = @_;
    return join "\n", $self->status_line,
        (map { "$_->[0]: $_->[1]" } grep { !$of_the_exchange{lc $_->[0]} } @{$self->{fields}}),
        '', $self->body;
}

sub json {
    my ($self) = @_;
    return eval { JSON::PP->new->decode($self->body) } || {};
}

# The code of a problem response, or '' for another response.
sub code {
    my ($self) = @_;
    return '' if ($self->header('Content-Type') // '') ne 'application/problem+json';
    return $self->json->{code} // '';
}

1;
