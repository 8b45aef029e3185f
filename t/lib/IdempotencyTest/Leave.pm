package IdempotencyTest::Leave;

# The ways in which a client disconnects. The nginx listens on `h2`
# in its directory too, and on TCP: only there a connection can be reset.

use strict;
use warnings;

use Exporter 'import';
use IdempotencyTest::Client;
use IdempotencyTest::Http2;
use IdempotencyTest::Process qw(free_port);

our @EXPORT_OK = qw(leave_ways leave_listeners leave_locations upload_ways);

# Directives for the server, once for each nginx.
sub leave_listeners {
    my ($nginx) = @_;
    $nginx->{leave_port} //= free_port();
    my $h2 = $nginx->directory . '/h2.sock';
    return "listen unix:$h2 http2; listen 127.0.0.1:$nginx->{leave_port};";
}

# Locations of requests whose client disconnects: the response is kept, or passed through, or the request body is passed
# through, or nothing is covered.
sub leave_locations {
    return <<'END';
        location / { proxy_pass http://app; }
        location /unbuffered/ { proxy_buffering off; proxy_pass http://app; }
        location /streaming/ {
            idempotency_fingerprint "$request_method $request_uri" body=off;
            proxy_request_buffering off;
            proxy_pass http://app;
        }
        location /small/ { idempotency_max_body 1k; proxy_pass http://app; }
        location /small-unbuffered/ { idempotency_max_body 1k; proxy_buffering off; proxy_pass http://app; }
        location /plain/ { idempotency off; proxy_pass http://app; }
END
}

# By name: what sends a request (method, path, key, headers by name) and gives a client with
# await_bytes and leave.
sub leave_ways {
    my ($nginx) = @_;
    my $h2 = $nginx->directory . '/h2.sock';

    my $http1 = sub {
        my ($leave, $path, $key, %headers) = @_;
        my $client = IdempotencyTest::Client->connect("127.0.0.1:$nginx->{leave_port}")->send(
            path => $path, key => $key, headers => [map { "$_: $headers{$_}" } sort keys %headers]);
        return IdempotencyTest::Leave->new($client, sub { $client->$leave });
    };
    my $http2 = sub {
        my ($leave, $path, $key, %headers) = @_;
        my $client = IdempotencyTest::Http2->connect($h2);
        my $stream = $client->send($path, 'idempotency-key' => $key, map { lc $_ => $headers{$_} } keys %headers);
        # the connection of a stream that was reset stays
        return IdempotencyTest::Leave->new($client, sub { $client->$leave($stream) });
    };

    return ways($http1, $http2);
}

# The same for a client that disconnects during its upload: path, key, the part of the body that is sent, and
# the length that is promised, undef for chunks, headers by name.
sub upload_ways {
    my ($nginx) = @_;
    my $h2 = $nginx->directory . '/h2.sock';

    my $http1 = sub {
        my ($leave, $path, $key, $part, $length, %headers) = @_;
        my $client = IdempotencyTest::Client->connect("127.0.0.1:$nginx->{leave_port}");
        my $body = defined $length ? $part : sprintf "%x\r\n%s\r\n", length $part, $part;
        $client->send_raw(join("\r\n", "POST $path HTTP/1.1", 'Host: localhost', "Idempotency-Key: $key",
            (map { "$_: $headers{$_}" } sort keys %headers),
            defined $length ? "Content-Length: $length" : 'Transfer-Encoding: chunked', '', $body), 'POST');
        return IdempotencyTest::Leave->new($client, sub { $client->$leave });
    };
    my $http2 = sub {
        my ($leave, $path, $key, $part, $length, %headers) = @_;
        my $client = IdempotencyTest::Http2->connect($h2);
        my $stream = $client->begin($path, 'idempotency-key' => $key, (map { lc $_ => $headers{$_} } keys %headers),
            defined $length ? ('content-length' => $length) : ());
        $client->send_data($stream, $part);
        $client->await_read;
        return IdempotencyTest::Leave->new($client, sub { $client->$leave($stream) });
    };

    return ways($http1, $http2);
}

# The ways to disconnect, by name. The first argument of the code is the method of the client that disconnects.
sub ways {
    my ($http1, $http2) = @_;
    return (
        'HTTP/1.1' => sub { $http1->('close', @_) },
        'HTTP/1.1, its connection reset' => sub { $http1->('close_with_reset', @_) },
        'HTTP/2, its stream reset' => sub { $http2->('reset', @_) },
        'HTTP/2, its connection closed' => sub { $http2->('close', @_) },
    );
}

sub new { my ($class, $client, $leave) = @_; return bless {client => $client, leave => $leave}, $class }
sub leave { $_[0]{leave}->() }
sub await_bytes { return $_[0]{client}->await_bytes }

1;
