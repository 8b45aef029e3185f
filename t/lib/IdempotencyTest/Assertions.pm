package IdempotencyTest::Assertions;

# Assertions about responses.

use strict;
use warnings;

use Exporter 'import';
use Test::More ();

our @EXPORT = qw(is_first is_problem is_replay_of);

# The response of the Nth execution.
sub is_first {
    my ($answer, $status, $n, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;

    return Test::More::ok(
        $answer->status == $status && $answer->body =~ /^#$n\b/ && !$answer->is_replay, $name)
        || Test::More::diag("expected $status, execution $n; got\n", shown($answer));
}

sub is_replay_of {
    my ($answer, $first, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;

    return Test::More::ok(
        $answer->status != 0 && $answer->is_replay && $answer->lasting eq $first->lasting, $name)
        || Test::More::diag("the first response\n", shown($first), "\nthe replay\n", shown($answer));
}

sub is_problem {
    my ($answer, $status, $code, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;

    return Test::More::ok($answer->status == $status && $answer->code eq $code, $name)
        || Test::More::diag("expected $status with the code $code; got\n", shown($answer));
}

sub shown {
    my ($answer) = @_;
    my $body = $answer->body;
    my $length = length $body;
    $body = substr($body, 0, 300) . "... ($length bytes)" if $length > 300;
    $body =~ s/([^\x20-\x7e\n])/sprintf '\\x%02x', ord $1/ge;
    return $answer->status == 0 ? $answer->status_line : $answer->head . $body;
}

1;
