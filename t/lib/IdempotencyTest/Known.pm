package IdempotencyTest::Known;

# Requests with kept responses, and whether their retries get replays.

use strict;
use warnings;

use Exporter 'import';
use List::Util qw(min);
use Test::More;
use IdempotencyTest::Client qw(finish);
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Requests qw(@who);

our @EXPORT_OK = qw(prepare are_replayed);

# The limit of open sockets.
use constant AT_ONCE => 200;

# Answers of an nginx to requests that are known by `path`, of the application, `query` and `key`.
sub answers {
    my ($nginx, @known) = @_;
    my @answers;
    push @answers, finish(map { $nginx->send_request(path => $_->{path} . ($_->{query} // ''), key => $_->{key}, @who) }
        @known[$_ * AT_ONCE .. min(($_ + 1) * AT_ONCE, scalar @known) - 1]) for 0 .. $#known / AT_ONCE;
    return @answers;
}

# First requests at the same time; each has its response in `first`.
sub prepare {
    my ($nginx, $name, $n, %request) = @_;
    my @known = map { {path => "/$name/$_", key => "$name-$_", %request} } 1 .. $n // 24;
    my @answers = answers($nginx, @known);
    $known[$_]{first} = $answers[$_] for 0 .. $#known;
    is scalar(grep { $_->status == 201 && !$_->is_replay } @answers), scalar @known, "$name: requests run";
    return @known;
}

sub are_replayed {
    my ($nginx, $name, @known) = @_;
    my @answers = answers($nginx, @known);
    my @wrong = grep { !$answers[$_]->is_replay || $answers[$_]->lasting ne $known[$_]{first}->lasting } 0 .. $#known;
    is join(', ', map { "$known[$_]{path}: " . $answers[$_]->status_line } @wrong), '', "$name: each key has its own answer";
    my @again = grep { app()->count($_->{path}) != 1 } @known;
    is join(', ', map { $_->{path} } @again), '', "$name: each request has run once";
}

1;
