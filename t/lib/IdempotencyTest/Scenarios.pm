package IdempotencyTest::Scenarios;

# What several test files check with stores of different kinds.

use strict;
use warnings;

use Exporter 'import';
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Requests qw(ask begin);
use Test::More;

our @EXPORT_OK = qw(is_kept_over_a_reload is_refused_at_once);

# A result and a claim survive a reload. Returns the two responses.
sub is_kept_over_a_reload {
    my ($nginx) = @_;
    my $path = '/reload?gate=two';
    my $first = ask($nginx, '/reload', 'one');
    my $running = begin($nginx, '/reload', 'two', 2);

    $nginx->reload(requests_run => 1);
    is_replay_of ask($nginx, '/reload', 'one'), $first, 'a result is replayed after a reload';
    is_problem ask($nginx, $path, 'two'), 409, 'request_in_progress', 'a request of an old worker is still in progress';

    app()->open_gate('two');
    my $second = $running->response;
    is_first $second, 201, 2, 'the old worker sends its response';
    is_replay_of ask($nginx, $path, 'two'), $second, 'the new workers replay this response';
    return $first, $second;
}

# Requests are refused without waiting for a store that no server provides. `pattern` is of the line in the error log.
sub is_refused_at_once {
    my ($nginx, $pattern, $seconds) = @_;
    ok $nginx->await_error_log($pattern), 'the error log has a line about it';

    for (1 .. 3) {
        my $response = ask($nginx, '/nobody', 'nobody');
        is_problem $response, 503, 'store_unavailable', 'requests are refused';
        cmp_ok $response->elapsed, '<', $seconds, 'at once';
    }
}

1;
