# A client and an application of gRPC that use gRPC's own library: first calls, replays, refusals, streams, deadlines, cancelled calls.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await temporary_directory);
use IdempotencyTest::Python qw(start_python_server);
use IdempotencyTest::StreamClient;

my $directory = temporary_directory();
my ($application, $port) = start_python_server(name => 'grpc_server', output => "$directory/output");
my $nginx = IdempotencyTest::Nginx->new(workers => 1);
my $h2 = $nginx->directory . '/h2.sock';

$nginx->set(server => <<"END")->start;
        listen unix:$h2 http2;
        idempotency main required;
        location / { grpc_pass grpc://127.0.0.1:$port; }
END

my $client = IdempotencyTest::StreamClient->run('grpc_client.py', '--socket', $h2, '--port', $port);

sub begin { my ($method, $key, %arguments) = @_; return $client->tell(call => $method, $key, {name => $key, %arguments}, undef) }
sub response { return $client->tell(response => @_) }
sub call { return response(begin(@_)) }
sub ask { return $client->tell(ask => @_) }

sub retry {
    my (@call) = @_;
    my $response;
    await(sub { $response = call(@call); $response->{status} ne 'ABORTED' });
    return $response;
}

sub is_replay {
    my ($replay, $first, $key, $name) = @_;
    is_deeply [@$replay{qw(status detail messages trailers)}], [@$first{qw(status detail messages trailers)}], "$name: the same response";
    is $replay->{headers}{'idempotent-replayed'} // $replay->{trailers}{'idempotent-replayed'}, 'true', "$name: a replay"
        or diag explain $replay;
    is ask(Count => $key), 1, "$name: the application ran once";
}

for my $method (qw(Unary Stream)) {
    my $n = lc $method;
    my $first = call($method, "first-$n");
    is $first->{status}, 'OK', "$method: a call";
    is scalar @{$first->{messages}}, $method eq 'Unary' ? 1 : 3, "$method: its messages";
    is $first->{headers}{'x-execution'}, 1, "$method: its headers";
    is $first->{trailers}{'x-trailer'}, 'told', "$method: its trailers";
    is_replay retry($method, "first-$n"), $first, "first-$n", $method;
    my $reused = call($method, "first-$n", more => 1);
    is $reused->{status}, 'FAILED_PRECONDITION', "$method: another message with the same key";
    like $reused->{detail}, qr/\w/, "$method: the detail";
    is call($method, 'x' x 256)->{status}, 'INVALID_ARGUMENT', "$method: a key that is too long";

    # an error of the application
    my $error = call($method, "error-$n", status => 'ALREADY_EXISTS');
    is "$error->{status} $error->{detail}", 'ALREADY_EXISTS on purpose', "$method: an error";
    my $again = retry($method, "error-$n", status => 'ALREADY_EXISTS');
    is_deeply [@$again{qw(status detail messages)}], [@$error{qw(status detail messages)}], "$method: is kept";
    is ask(Count => "error-$n"), 1, "$method: and does not run again";

    if ($method eq 'Unary') {
        is call($method, "busy-$n", status => 'UNAVAILABLE')->{status}, 'UNAVAILABLE', "$method: an application that has not acted" for 1, 2;
        is ask(Count => "busy-$n"), 2, "$method: gets the call again";
    }

    # its outcome is not known
    for my $status (qw(CANCELLED DEADLINE_EXCEEDED)) {
        my $key = lc "$status-$n";
        is call($method, $key, status => $status)->{status}, $status, "$method: $status of the application";
        is retry($method, $key, status => $status)->{status}, 'FAILED_PRECONDITION', "$method: a retry of it is refused";
        is ask(Count => $key), 1, "$method: and does not run";
    }

    # directives of the application in its trailers
    {
        my $call = call($method, "word-$n", word => 'no-store');
        is $call->{status}, 'OK', "$method: a call with X-Accel-Idempotency in its trailers";
        is $call->{trailers}{'x-trailer'}, 'told', "$method: its other trailers";
        ok !exists $call->{trailers}{'x-accel-idempotency'}, "$method: does not show it";
        is retry($method, "word-$n", word => 'no-store')->{status}, 'FAILED_PRECONDITION', "$method: its response is not kept";
        is ask(Count => "word-$n"), 1, "$method: and it does not run again";
    }

    # a duplicate beside the first, whose client goes away or waits no longer
    for my $way (qw(cancel deadline)) {
        my $key = "$way-$n";
        my @call = ($method, $key, {name => $key, gate => $key});
        my $running = $client->tell(call => @call, $way eq 'deadline' ? 3 : undef);
        is ask(Arrived => $key), 'yes', "$method: a call is running ($way)";
        is call($method, $key, gate => $key)->{status}, 'ABORTED', "$method: a duplicate is refused ($way)";
        $client->tell(cancel => $running) if $way eq 'cancel';
        is response($running)->{status}, $way eq 'cancel' ? 'CANCELLED' : 'DEADLINE_EXCEEDED', "$method: its client gives up ($way)";
        ask(Open => $key);
        my $replay = retry($method, $key, gate => $key);
        is $replay->{status}, 'OK', "$method: the call has run to its end ($way)" or diag explain $replay;
        is $replay->{headers}{'idempotent-replayed'}, 'true', "$method: its response is replayed ($way)";
        is ask(Count => $key), 1, "$method: it ran once ($way)";
        is $replay->{headers}{'x-deadline'}, 'none', "$method: the application did not get the deadline of the client ($way)";
        is ask(Cancelled => $key), 'no', "$method: the application was not told that the client has gone ($way)";
    }
}

# A stream is delivered as it comes.
{
    my $running = begin('Stream', 'comes', gate => 'comes', messages => 3);
    is ask(Arrived => 'comes'), 'yes', 'a stream is running';
    ask(Open => 'comes');
    like $client->tell(message => $running), qr/^#1 0 /, 'its first message';
    my $first = response($running);
    is scalar @{$first->{messages}}, 3, 'and the rest';
    is_replay retry('Stream', 'comes', gate => 'comes', messages => 3), $first, 'comes', 'the stream';
}

undef $client;
$nginx->stop;
$application->stop;
done_testing;
