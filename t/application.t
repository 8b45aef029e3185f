# Directives in the application's response, variables for the application, and several upstream servers.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::App;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await dead_port);

my $other = IdempotencyTest::App->new;
$other->{space} = app()->space;
my ($dead, $here, $there) = (dead_port(), app()->port, $other->port);

my $nginx = IdempotencyTest::Nginx->start(
    http => <<"END",
    upstream dead_first { server 127.0.0.1:$dead; server 127.0.0.1:$here backup; }
    upstream two { server 127.0.0.1:$here max_fails=0; server 127.0.0.1:$there backup; }
END
    server => <<'END' =~ s/SPACE/app()->space/er);
        idempotency main;
        location / { proxy_pass http://app; }
        location /token/ {
            idempotency_retriable 503;
            proxy_set_header Connection "";
            proxy_set_header App-Space SPACE;
            proxy_set_header Idempotency-Token $idempotency_token;
            proxy_pass http://app;
        }
        location /dead-first/ { proxy_pass http://dead_first; }
        location /two/ { proxy_next_upstream error timeout invalid_header http_500 http_502 http_503 non_idempotent; proxy_pass http://two; }
        location /uncovered/ { idempotency off; proxy_next_upstream error timeout non_idempotent; proxy_pass http://two; }
        location /release/ { idempotency_unknown release; proxy_pass http://app; }
END

my $keys = 0;

sub ask {
    my ($path, $key) = @_;
    return $nginx->request(path => $path, key => $key, headers => ['X-API-Key: alice']);
}

sub pair {
    my ($path) = @_;
    my $key = 'key-' . ++$keys;
    return map { ask($path, $key) } 1, 2;
}

# The response header X-Accel-Idempotency.

{
    my ($first, $retry) = pair('/word/release?header=X-Accel-Idempotency:release');
    is_first $first, 201, 1, 'a response with `release` is delivered';
    is $first->header('X-Accel-Idempotency'), undef, 'without the header X-Accel-Idempotency';
    is_first $retry, 201, 2, 'and its key is free again';

    ($first, $retry) = pair('/word/no-store?header=X-Accel-Idempotency:no-store');
    is_first $first, 201, 1, 'a response with `no-store` is delivered';
    is_problem $retry, 409, 'response_not_kept', 'and its retry gets response_not_kept';
    is app()->count('/word/no-store'), 1, 'and does not run';

    ($first, $retry) = pair('/word/none?header=X-Accel-Idempotency:');
    is_replay_of $retry, $first, 'a response with an empty X-Accel-Idempotency is kept';
}

{
    my $path = '/word/ttl?header=X-Accel-Idempotency:ttl=1&header=X-Other:1';
    my ($first, $retry) = pair($path);
    is_replay_of $retry, $first, 'a response with `ttl=1` is kept';
    my $next;
    await(sub { $next = ask($path, "key-$keys"); !$next->is_replay });
    is_first $next, 201, 2, 'for one second';
}

{
    my ($first, $retry) = pair('/word/both?header=X-Accel-Idempotency:ttl=100,%20no-store');
    is_problem $retry, 409, 'response_not_kept', 'several directives are separated by commas';
}

# What the application gets from the module.

{
    my @tokens = map {
        ask('/token/a?status=503', 'token');
        my %headers = map { @$_ } @{app()->last_request('/token/a')->{headers}};
        $headers{'Idempotency-Token'};
    } 1 .. 5;
    is scalar(grep { /^[1-9]\d*$/ } @tokens), 5, 'each claim has a token' or diag explain \@tokens;
    is scalar(grep { $tokens[$_] > $tokens[$_ - 1] } 1 .. 4), 4, 'which grows with each new claim of a key' or diag "@tokens";
}

# nginx's own retry.

{
    my ($first, $retry) = pair('/dead-first/a');
    is_first $first, 201, 1, 'a server that cannot be reached is skipped';
    is_replay_of $retry, $first, 'and the response of the next server is kept';
}

for my $case (['abort=before', 502], ['abort=mid&size=1000', 502]) {
    my ($query, $status) = @$case;
    my $path = "/two/" . ++$keys;
    my $first = ask("$path?$query", "two-$keys");
    is $first->status, $status, "after a server that may have executed the request and does not respond ($query) no other is tried";
    is app()->count($path), 1, "this server got the request once ($query)";
    is $other->count($path), 0, "no other server got it ($query)";
    is_problem ask("$path?$query", "two-$keys"), 409, 'outcome_unknown', "a retry gets outcome_unknown ($query)";
}

{
    my $path = '/two/b';
    is ask("$path?status=500", 'two-500')->status, 500, 'an error of the application is its response';
    is $other->count($path), 0, 'and no other server gets the request';

    ask('/uncovered/a?abort=before', 'uncovered');
    is $other->count('/uncovered/a'), 1, 'a request that is not covered goes to the next server as configured';
}

# Unknown outcomes.

{
    my ($first, $retry) = pair('/release/a?abort=before,no');
    is $first->status, 502, 'a missing response gives a 502';
    is_first $retry, 201, 2, 'with `idempotency_unknown release` a retry runs';
}

$nginx->stop;
done_testing;
