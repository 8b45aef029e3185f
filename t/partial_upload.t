# An upload that streams to the application: the application may act on a part of the body, and before the client has ended its stream.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Select;
use IO::Socket::INET;
use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Leave qw(leave_listeners upload_ways);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Requests qw(@who ask await_outcome);

my $nginx = IdempotencyTest::Nginx->new;
my $leave = leave_listeners($nginx);
$nginx->set(server => "$leave\n" . <<'END')->start;
        idempotency main;
        idempotency_fingerprint $request_uri body=off;
        proxy_request_buffering off;
        client_body_timeout 1s;
        location / { proxy_pass http://app; }
END

my %way = upload_ways($nginx);
my $n = 0;

# The application executes the request when it has a part of the body, and closes. The client is still there.
for my $how ('abort=before', 'abort=reset', 'abort=garbage') {
    for my $way ('HTTP/1.1', 'HTTP/2, its stream reset') {
        for my $length (1000, undef) {
            my $what = "$how, $way, " . (defined $length ? 'length' : 'chunked');
            my $path = '/part' . ++$n;
            my $uri = "$path?part=10&$how";
            my $client = $way{$way}->($uri, $n, 'x' x 500, $length, 'X-API-Key' => 'alice');
            ok $nginx->await_access_log(qr{^POST \Q$uri\E 502}), "an application that breaks off ends the request ($what)"
                or diag join "\n", grep { /\Q$path?\E/ } $nginx->access_log;
            is_problem await_outcome($nginx, $uri, $n, body => 'x' x 1000), 409, 'outcome_unknown', "its outcome is unknown: the application may have acted ($what)";
            is app()->count($path), 1, "and the application executed it once ($what)";
            $client->leave;
        }
    }
}

# All bytes of Content-Length are sent. Over HTTP/2 the stream has not ended, so nginx still reads the body.
for my $way (sort keys %way) {
    for my $how ('leaves', 'stays') {
        my $what = "$way, $how";
        my $path = '/whole' . ++$n;
        my $uri = "$path?gate=whole$n";
        my $client = $way{$way}->($uri, $n, 'x' x 500, 500, 'X-API-Key' => 'alice');
        ok await(sub { app()->count($path) }), "the application gets the whole request ($what)";
        $client->leave if $how eq 'leaves';
        # longer than client_body_timeout
        sleep 2 if $how eq 'stays' && $way =~ m{HTTP/2};
        app()->open_gate("whole$n");
        my $retry = await_outcome($nginx, $uri, $n, body => 'x' x 500);
        ok $retry->is_replay || $retry->code eq 'outcome_unknown', "its retry does not run ($what)" or diag $retry->head;
        is app()->count($path), 1, "and the application executed the request once ($what)";
        $client->leave if $how eq 'stays';
    }
}

# The client leaves while nginx connects to an application that does not accept connections yet.
{
    my $full = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die "listen: $!\n";
    my $port = $full->sockport;
    my (@waiting, @paths);

    # the kernel drops connections once the queue is full
    for (1 .. 3) {
        my $waiting = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Blocking => 0);
        push @waiting, $waiting if $waiting;
    }

    $nginx->set(server => "$leave\n" . <<"END")->reload;
        idempotency main;
        idempotency_fingerprint \$request_uri body=off;
        proxy_request_buffering off;
        client_body_timeout 1h;
        send_timeout 1h;
        location / { proxy_connect_timeout 5s; proxy_read_timeout 1s; proxy_pass http://127.0.0.1:$port; }
END
    %way = upload_ways($nginx);

    for my $way (sort keys %way) {
        my $path = '/connecting' . ++$n;
        my $client = $way{$way}->($path, $n, 'x' x 500, 1000, 'X-API-Key' => 'alice');
        await(sub { ask($nginx, $path, $n, body => 'x')->code eq 'request_in_progress' });
        $client->leave;
        push @paths, $path;
    }

    my @accepted;
    my $select = IO::Select->new($full);
    my $ended = await(sub {
        push @accepted, scalar $full->accept if $select->can_read(0);
        my @log = $nginx->access_log;
        return !grep { my $path = $_; !grep { m{^POST \Q$path\E (?:400|499|504)} } @log } @paths;
    });
    ok $ended, 'a client that leaves while nginx connects: the request ends when the connection is there, or is given up' or diag join "\n", $nginx->access_log;
    isnt ask($nginx, $_, s/\D//gr, body => 'x')->code, 'request_in_progress', 'and its key is not in progress' for @paths;
}

$nginx->stop;
done_testing;
