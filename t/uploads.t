# Requests with bodies of every kind, and when the application sees them.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Leave qw(leave_listeners upload_ways);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Requests qw(@who);

my $nginx = IdempotencyTest::Nginx->new;
my $leave = leave_listeners($nginx);
$nginx->set(server => "$leave\n" . <<'END')->start;
        idempotency main;
        client_body_buffer_size 4k;
        location / { proxy_pass http://app; }
        location /streaming/ {
            idempotency_fingerprint "$request_method $request_uri" body=off;
            proxy_request_buffering off;
            proxy_pass http://app;
        }
        location /on-unbuffered/ { proxy_request_buffering off; proxy_pass http://app; }
        location /off/ { idempotency_fingerprint $request_uri body=off; proxy_pass http://app; }
        location /limited/ { client_max_body_size 1k; proxy_pass http://app; }
END

{
    my $body = join '', map { "$_," } 1 .. 5000;
    my $first = $nginx->request(path => '/chunks', key => 'chunks', body => $body, @who);
    my $same = $nginx->request(path => '/chunks', key => 'chunks', chunks => [unpack '(a777)*', $body], @who);
    my $other = $nginx->request(path => '/chunks', key => 'chunks', chunks => [$body, '.'], @who);

    is_first $first, 201, 1, 'a body with a length reaches the application';
    is_replay_of $same, $first, 'the same body in chunks is the same request';
    is_problem $other, 422, 'idempotency_key_reused', 'another body in chunks is another request';
    is_replay_of $nginx->request(path => '/chunks', key => 'chunks', body => $body, @who), $first, 'which spoils nothing';
    is app()->count('/chunks'), 1, 'and the application acted once';
}

{
    my $body = join '', map { chr } map { $_ % 256 } 1 .. 3_000_000;
    my $first = $nginx->request(path => '/large', key => 'large', body => $body, @who);
    is_first $first, 201, 1, 'a body of 3 MB reaches the application';
    is app()->last_request('/large')->{length}, 3_000_000, 'and is whole';
    is_replay_of $nginx->request(path => '/large', key => 'large', body => $body, @who), $first, 'its retry is replayed';
}

{
    my $client = $nginx->connect->send_raw(join('', map { "$_\r\n" } 'POST /expect HTTP/1.1', 'Host: localhost', 'X-API-Key: alice',
        'Idempotency-Key: expect', 'Expect: 100-continue', 'Content-Length: 4', ''), 'POST');
    is $client->response->status, 100, 'a client that waits for a word before it sends its body gets it';
    $client->send_raw('body');
    is_first $client->response, 201, 1, 'and then its answer';
}

# A body that is still on its way.

sub begin {
    my ($path, $key) = @_;
    return $nginx->connect->send_raw(join('', map { "$_\r\n" } "POST $path HTTP/1.1", 'Host: localhost', 'X-API-Key: alice',
        "Idempotency-Key: $key", 'Content-Length: 10', '') . 'half ', 'POST');
}

{
    my $client = begin('/slow', 'slow');
    ok $client->is_silent_for(0.3), 'a request whose body is not whole waits';
    is app()->count('/slow'), 0, 'and the application has not seen it';
    my $other = $nginx->request(path => '/slow', key => 'slow', body => 'half whole', @who);
    is_first $other, 201, 1, 'it has claimed nothing yet: the same request runs';
    $client->send_raw('whole');
    is_replay_of $client->response, $other, 'and is what the slow one is answered with';
}

{
    my $client = begin('/left', 'left');
    $client->close;
    my $next = $nginx->request(path => '/left', key => 'left', body => 'half whole', @who);
    is_first $next, 201, 1, 'a client that left within its body has claimed nothing';
    is app()->count('/left'), 1, 'and its request never ran';
}

# A client that leaves within its body frees the key, if it was claimed already.
{
    my %way = upload_ways($nginx);
    my $n = 0;

    for my $where ('', 'on-unbuffered/', 'off/', 'streaming/') {
        for my $way (sort keys %way) {
            for my $length (1000, undef) {
                my $path = "/${where}leaves" . ++$n;
                my $what = "$way, " . ($where || '/') . ', ' . (defined $length ? 'length' : 'chunked');
                my $client = $way{$way}->($path, $n, 'x' x 500, $length, 'X-API-Key' => 'alice');
                if ($where eq 'streaming/') {
                    app()->await_arrival($path);
                    is_problem $nginx->request(path => $path, key => $n, body => 'x', @who), 409, 'request_in_progress',
                        "a request that streams is claimed ($what)";
                }
                $client->leave;
                # nginx says 500 where it can't ask for more of a body, as over HTTP/2 when the connection has gone
                ok $nginx->await_access_log(qr{^POST \Q$path\E (?:499|400|500)}), "a client that leaves within its body ends its request ($what)"
                    or diag join "\n", grep { /\Q$path\E / } $nginx->access_log;
                is app()->count($path), 0, "and the application did not act ($what)";
                my $same;
                # the store may be told of the end a little later than the log
                await(sub { $same = $nginx->request(path => $path, key => $n, body => 'x' x 1000, @who); $same->code ne 'request_in_progress' });
                is_first $same, 201, 1, "the same request runs ($what)";
            }
        }
    }
}

{
    my $client = begin('/streaming/a', 'stream');
    app()->await_arrival('/streaming/a');
    pass 'with body=off the application sees a request before its body is whole';
    is_problem $nginx->request(path => '/streaming/a', key => 'stream', body => 'half whole', @who), 409, 'request_in_progress',
        'its key is claimed then';
    $client->send_raw('whole');
    my $first = $client->response;
    is_first $first, 201, 1, 'and it is answered when its body is whole';
    is app()->last_request('/streaming/a')->{length}, 10, 'which reaches the application';
    is_replay_of $nginx->request(path => '/streaming/a', key => 'stream', body => 'half other', @who), $first, 'its retry is replayed';
}

{
    my $client = $nginx->connect->send(path => '/limited/a', key => 'limited', body => 'x' x 2000, @who);
    is $client->response->status, 413, 'a body that is too large is a 413';
    $client = $nginx->connect->send(path => '/limited/a', key => 'limited', chunks => ['x' x 2000], @who);
    is $client->response->status, 413, 'in chunks too';
    is_first $nginx->request(path => '/limited/a', key => 'limited', body => 'x', @who), 201, 1, 'and has claimed nothing';
}

{
    my $client = $nginx->connect->send_raw(join('', map { "$_\r\n" } 'POST /bad HTTP/1.1', 'Host: localhost', 'X-API-Key: alice',
        'Idempotency-Key: bad', 'Transfer-Encoding: chunked', '', 'zz', ''), 'POST');
    is $client->response->status, 400, 'a body in ill-formed chunks is a 400';
    is_first $nginx->request(path => '/bad', key => 'bad', @who), 201, 1, 'and has claimed nothing';
}

$nginx->stop;
done_testing;
