# How long a response is kept: by its status, and by a variable.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(store_mode);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Redis;
use IdempotencyTest::Requests qw(ask await_outcome);

my $http = <<'END';
    map $upstream_http_x_keep $keep { default $upstream_http_x_keep; once 2s; }
END

my $server = <<'END';
        add_header X-Id $idempotency_key_id always;
        idempotency main;
        idempotency_retriable none;
        idempotency_max_body 1k;
        location / { idempotency_ttl 1h 4xx=30m 404=2s 5xx=10m; proxy_pass http://app; }
        location /inherited/ { location /inherited/other { idempotency_ttl 20m; proxy_pass http://app; } location /inherited/ { proxy_pass http://app; } idempotency_ttl 50m 500=40m; }
        location /variable/ { idempotency_ttl $keep 5xx=10m; proxy_pass http://app; }
END

my $redis = store_mode() eq 'redis' ? IdempotencyTest::Redis->new : undef;
my $nginx = IdempotencyTest::Nginx->start(http => $http, server => $server, $redis ? (redis => 'unix:' . $redis->socket) : ());
my $number = 0;

# A new request and its response. With Redis: the response is kept for about so many seconds.
sub is_kept_for {
    my ($query, $seconds, $name) = @_;
    my $first = ask($nginx, $query, 'k' . ++$number);
    return if !$redis;

    # a client may have all of a response that is too large before this is recorded
    await_outcome($nginx, $query, "k$number");
    my $left = $redis->command('PTTL', $nginx->{prefix} . $first->header('X-Id')) / 1000;
    ok $left > $seconds - 30 && $left <= $seconds, $name or diag "$left seconds are left";
}

SKIP: {
    skip 'only Redis shows what is left of a lifetime', 11 if !$redis;
    is_kept_for '/orders', 3600, 'a status without a TIME of its own';
    is_kept_for '/orders?status=409', 1800, 'a class';
    is_kept_for '/orders?status=502', 600, 'another class';
    is_kept_for '/orders?status=502&header=X-Accel-Idempotency:ttl=100', 100, 'the application knows better';
    is_kept_for '/orders?status=502&size=2000', 600, 'a response that is not kept is remembered as long';
    is_kept_for '/inherited/a?status=500', 2400, 'all TIMEs are inherited';
    is_kept_for '/inherited/other?status=500', 1200, 'all TIMEs are replaced';
    is_kept_for '/variable/?header=X-Keep:300s', 300, 'a variable of the response';
    is_kept_for '/variable/?header=X-Keep:300s&status=503', 600, 'a TIME for the status counts more';
    is_kept_for '/variable/', 86400, 'an empty variable: the default';
    is_kept_for '/variable/?header=X-Keep:never', 86400, 'an invalid value: the default';
}

# A response that is kept for two seconds is replayed, and then the request is executed again.
sub is_kept_briefly {
    my ($path, $status, $name) = @_;
    my $key = 'k' . ++$number;
    my ($first, $next) = (ask($nginx, $path, $key));

    is $first->status, $status, "$name: the first request is executed";
    is_replay_of ask($nginx, $path, $key), $first, "$name: its response is kept";
    await(sub { $next = ask($nginx, $path, $key); !$next->is_replay });
    is_first $next, $status, 2, "$name: the response expires";
}

is_kept_briefly '/brief?status=404', 404, 'a status that has a TIME beside its class';
is_kept_briefly '/variable/brief?header=X-Keep:once', 201, 'a variable';

ask($nginx, '/variable/invalid?header=X-Keep:forever', 'invalid');
ok $nginx->await_error_log(qr/\[warn\].*invalid value of "\$keep" in "idempotency_ttl": it must be a time/), 'an invalid value is logged';

$nginx->stop;
done_testing;
