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
    is_replay_of $nginx->request(path => '/chunks', key => 'chunks', body => $body, @who), $first, 'the refusal changes nothing';
    is app()->count('/chunks'), 1, 'and the application executed the request once';
}

{
    my $body = join '', map { chr } map { $_ % 256 } 1 .. 3_000_000;
    my $first = $nginx->request(path => '/large', key => 'large', body => $body, @who);
    is_first $first, 201, 1, 'a body of 3 MB reaches the application';
    is app()->last_request('/large')->{length}, 3_000_000, 'and is complete';
    is_replay_of $nginx->request(path => '/large', key => 'large', body => $body, @who), $first, 'its retry gets a replay';
}

{
    my $client = $nginx->connect->send_raw(join('', map { "$_\r\n" } 'POST /expect HTTP/1.1', 'Host: localhost', 'X-API-Key: alice',
        'Idempotency-Key: expect', 'Expect: 100-continue', 'Content-Length: 4', ''), 'POST');
    is $client->response->status, 100, 'a client that expects 100 Continue gets it';
    $client->send_raw('body');
    is_first $client->response, 201, 1, 'and then its response';
}

# A body that is not complete yet.

sub begin {
    my ($path, $key) = @_;
    return $nginx->connect->send_raw(join('', map { "$_\r\n" } "POST $path HTTP/1.1", 'Host: localhost', 'X-API-Key: alice',
        "Idempotency-Key: $key", 'Content-Length: 10', '') . 'half ', 'POST');
}

{
    my $client = begin('/slow', 'slow');
    ok $client->is_silent_for(0.3), 'a request with an incomplete body waits';
    is app()->count('/slow'), 0, 'and the application did not get it';
    my $other = $nginx->request(path => '/slow', key => 'slow', body => 'half whole', @who);
    is_first $other, 201, 1, 'it has claimed nothing yet: the same request runs';
    $client->send_raw('whole');
    is_replay_of $client->response, $other, 'and its response is the replay for the slow request';
}

{
    my $client = begin('/left', 'left');
    $client->close;
    my $next = $nginx->request(path => '/left', key => 'left', body => 'half whole', @who);
    is_first $next, 201, 1, 'a client that disconnected during its body has claimed nothing';
    is app()->count('/left'), 1, 'and its request never ran';
}

# If a client disconnects during its body a claim of its key is released.
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
                # nginx logs 500 if it can't read more of a body, as over HTTP/2 when the connection is closed
                ok $nginx->await_access_log(qr{^POST \Q$path\E (?:499|400|500)}), "a client that disconnects within its body ends its request ($what)"
                    or diag join "\n", grep { /\Q$path\E / } $nginx->access_log;
                is app()->count($path), 0, "and the application did not execute the request ($what)";
                my $same;
                # the end may be recorded in the store a little later than in the log
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
    is_first $first, 201, 1, 'and it gets a response when its body is complete';
    is app()->last_request('/streaming/a')->{length}, 10, 'the application gets the body';
    is_replay_of $nginx->request(path => '/streaming/a', key => 'stream', body => 'half other', @who), $first, 'its retry gets a replay';
}

{
    my $client = $nginx->connect->send(path => '/limited/a', key => 'limited', body => 'x' x 2000, @who);
    is $client->response->status, 413, 'a body that is too large gives a 413';
    $client = $nginx->connect->send(path => '/limited/a', key => 'limited', chunks => ['x' x 2000], @who);
    is $client->response->status, 413, 'a chunked body that is too large gives a 413 too';
    is_first $nginx->request(path => '/limited/a', key => 'limited', body => 'x', @who), 201, 1, 'and has claimed nothing';
}

{
    my $client = $nginx->connect->send_raw(join('', map { "$_\r\n" } 'POST /bad HTTP/1.1', 'Host: localhost', 'X-API-Key: alice',
        'Idempotency-Key: bad', 'Transfer-Encoding: chunked', '', 'zz', ''), 'POST');
    is $client->response->status, 400, 'a body with malformed chunks gives a 400';
    is_first $nginx->request(path => '/bad', key => 'bad', @who), 201, 1, 'and has claimed nothing';
}

$nginx->stop;
done_testing;
