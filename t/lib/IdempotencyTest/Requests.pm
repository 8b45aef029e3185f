package IdempotencyTest::Requests;

# Requests of one client, alice, to an nginx of a test.

use strict;
use warnings;

use Exporter 'import';
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Process qw(await);
use Time::HiRes qw(sleep time);

our @EXPORT_OK = qw(@who ask await_outcome await_status begin first_and_retry other_outcomes);

# How a request shows that it is from alice. A test may change it for itself.
our @who = (headers => ['X-API-Key: alice']);

sub ask {
    my ($nginx, $path, $key, %request) = @_;
    return $nginx->request(path => $path, key => $key, @who, %request);
}

# Begins a request that runs until the gate with the name of its key opens. Returns once its Nth execution has arrived.
sub begin {
    my ($nginx, $path, $key, $n) = @_;
    my $running = $nginx->send_request(path => "$path?gate=$key", key => $key, @who);
    app()->await_arrival($path, $n // 1);
    return $running;
}

# Retries a request until its response says something else than that the request is in progress; this response.
sub await_outcome {
    my ($nginx, $path, $key, %request) = @_;
    my $response;
    await(sub { $response = ask($nginx, $path, $key, %request); $response->code ne 'request_in_progress' });
    return $response;
}

# A request and its retry: the response to the first request, and the response that await_outcome returns. A response that is passed
# through may be complete before its outcome is recorded in the store.
sub first_and_retry {
    my (@request) = @_;
    my $first = ask(@request);
    return $first, await_outcome(@request);
}

# Retries a request until its response has this status; the last response.
sub await_status {
    my ($nginx, $path, $key, $status) = @_;
    my $response;
    await(sub { $response = ask($nginx, $path, $key); $response->status == $status });
    return $response;
}

# Retries a request for so many seconds; the status lines of all responses, without those that say that it is in progress.
sub other_outcomes {
    my ($nginx, $path, $key, $seconds) = @_;
    my $until = time + $seconds;
    my @other;

    while (time < $until) {
        my $response = ask($nginx, $path, $key);
        push @other, $response->status_line if $response->code ne 'request_in_progress';
        sleep 0.05;
    }

    return @other;
}

1;
