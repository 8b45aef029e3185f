# Each socket call of a request fails in turn, on the sides of the client, the application and Redis: no crash, only
# the correct response or an error, no hang, and no key that is blocked for longer than lease and hold.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Time::HiRes qw(sleep time);
use IdempotencyTest::Certificates;
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Faults;
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Redis;
use IdempotencyTest::Requests qw(@who);

my $faults = IdempotencyTest::Faults->new('failing_sockets');
my $redis = store_mode() eq 'redis' ? IdempotencyTest::Redis->new : undef;
my $other_redis = $redis ? IdempotencyTest::Redis->new : undef;
my $certificates = $redis ? IdempotencyTest::Certificates->new : undef;
my $tls_redis = $redis ? IdempotencyTest::Redis->new(tls => $certificates->server) : undef;

# The longest time after a worker has lost its Redis, or Redis does not reply, on this machine.
my $longest = 5;
# The connection to Redis is lost twice at most, and nginx waits up to a second after each.
my $lease = 5;

my %is_failure = map { $_ => 1 } 0, 500, 502, 503;
my @cases;

sub case {
    my ($name, %case) = @_;
    push @cases, {name => $name, %case};
}

# Another key for each run.
case 'a first request';
case 'a replay', before => sub { $_[0]{earlier} = send_one($_[0])->response };
case 'a duplicate that waits', path => '/wait', gated => 1, before => \&hold, during => \&go_on;
case 'a duplicate', gated => 1, status => 409, before => \&hold, after => \&go_on;
case 'a large answer', query => 'kind=binary&size=200000&pieces=3';
case 'a large answer that is not buffered', path => '/unbuffered', query => 'kind=binary&size=200000&framing=chunked&pieces=3';
case 'a chunked body', request => {chunks => ['some', 'b' x 40_000, 'body'], body => undef};

# The result is kept with a connection that is made while the request runs. The first calls are those of a first request.
case 'a request whose connection to Redis breaks', gated => 1, skip => 3, redis => $other_redis,
    during => sub { lose_redis($other_redis); sleep 0.05; go_on(@_) } if $redis;

case 'a large answer that goes over TLS to Redis', query => 'kind=binary&size=200000&pieces=3', redis => $tls_redis if $redis;
case 'a request whose TLS to Redis breaks', gated => 1, skip => 3, redis => $tls_redis,
    during => sub { lose_redis($tls_redis); sleep 0.05; go_on(@_) } if $redis;

sub send_one { my ($one) = @_; return $one->{nginx}->send_request(%{$one->{request}}) }

sub hold {
    my ($one) = @_;
    $one->{held} = send_one($one);
    app()->await_arrival($one->{path});
}

sub go_on { app()->open_gate($_[0]{name}) }
sub lose_redis { $_[0]->command('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes') }

# An nginx for each case.
sub start_nginx {
    my ($case) = @_;
    my $server = $case->{redis} || $redis;
    my $url = !$server ? '' : $server->{tls} ? 'rediss://127.0.0.1:' . $server->tls_port : 'redis://127.0.0.1:' . $server->port;
    my $trusted = $server && $server->{tls} ? 'ssl_trusted_certificate ' . $certificates->authority . ';' : '';
    my $store = $server ? "redis $url; timeout 1s; connect_timeout 1s; $trusted" : 'memory 32m;';
    my $nginx = IdempotencyTest::Nginx->new(workers => 1, stores => "idempotency_store main { $store }", server => <<"END");
        idempotency main;
        idempotency_lease ${lease}s;
        idempotency_unknown hold 1s;
        location / { proxy_pass http://app; }
        location /unbuffered/ { proxy_buffering off; proxy_pass http://app; }
        location /wait/ { idempotency_conflict wait 5s; proxy_pass http://app; }
        location /probe { idempotency_lease 60s; proxy_pass http://app; }
END
    $faults->preloaded(sub { $nginx->start });
    ($case->{worker}) = $nginx->workers;
    return $case->{nginx} = $nginx;
}

# Waits until the stores are available and all outcomes are recorded: recording is tried again each
# eighth of a lease, and must not overlap with the next fault.
sub await_stores {
    my $outcomes = 0;

    for my $case (@_) {
        my $nginx = $case->{nginx};
        await(sub { $nginx->request(path => '/probe', key => 'probe', body => 'body', @who)->status == 201 });
        my $failed = () = $nginx->error_log =~ /the outcome of the request is not recorded yet/g;
        $outcomes += $failed - ($case->{outcomes} // 0);
        $case->{outcomes} = $failed;
    }

    sleep $lease / 8 + 0.2 if $outcomes > 0;
}

my $n = 0;

# The request of a case, whose Nth call fails.
sub run_one {
    my ($case, $nth) = @_;
    my $nginx = $case->{nginx};
    my $name = 'socket' . ++$n;
    my $path = ($case->{path} // '') . "/$name";
    my $query = $case->{gated} ? "gate=$name" : $case->{query} // '';
    my $one = {nginx => $nginx, nth => $nth, name => $name, path => $path,
        request => {path => "$path?$query", key => $name, body => 'body', @who, %{$case->{request} || {}}}};

    $case->{before}->($one) if $case->{before};
    $faults->arm($case->{worker}, $nth);
    my $client = send_one($one);
    if ($case->{during}) {
        sleep 0.01;
        $case->{during}->($one);
    }
    $one->{answer} = $client->response($longest);
    # the calls after a response, too
    sleep 0.002;
    $one->{error} = $faults->has_failed;
    $faults->disarm;
    $case->{after}->($one) if $case->{after};
    $one->{held} = $one->{held}->response($longest) if $one->{held};

    push @{$case->{all}}, $one;
    my ($status, $code) = ($one->{answer}->status, $one->{answer}->code);
    # the first request may be the one that fails
    my $right = $status == ($case->{status} // 201) || $one->{error} && $case->{during} && $code =~ /^(?:outcome_unknown|response_not_kept)$/;
    # on a busy machine the connection to Redis breaks before the claim is granted
    $right ||= $case->{redis} && $case->{during} && $status == 503 && $code eq 'store_unavailable';
    push @{$case->{wrong}}, describe($one) if !$right && !($one->{error} && $is_failure{$status})
        || grep { defined && $_->status_line eq 'no response in time' } @$one{qw(answer held)};
    return $one->{error} && ($nginx->workers)[0] == $case->{worker};
}

# a connection may be closed at any time
local $SIG{PIPE} = 'IGNORE';

start_nginx($_) for @cases;
my @left = @cases;

# in turn, so that each Redis has time to become available again
for my $nth (1 .. 100) {
    await_stores(@left);
    @left = grep { run_one($_, $nth + ($_->{skip} // 0)) } @left or last;
}

await_stores(@cases);

for my $case (@cases) {
    my $count = @{$case->{all}};
    is join("\n", @{$case->{wrong} || []}), '', "$case->{name}: the response is correct or an error, whichever of $count calls fails";
    cmp_ok $count, '>', 4, "$case->{name}: there are calls";
    ok !$case->{all}[-1]{error}, "$case->{name}: and all have failed once";
}

sub describe {
    my ($one) = @_;
    local $! = $one->{error};
    return "call $one->{nth} ($!): " . join ', ', map { "$_ " . $one->{$_}->status_line . ' ' . $one->{$_}->code } grep { $one->{$_} } qw(earlier held answer retry);
}

# leases and holds end
sleep $lease + 1.3;

for my $case (@cases) {
    my $nginx = $case->{nginx};
    my @wrong;

    for my $one (@{$case->{all}}) {
        app()->open_gate($one->{name});
        $one->{retry} = send_one($one)->response;
        my $count = app()->count($one->{path});
        # a request that was executed without a response may be executed again; a request with a response never
        my @delivered = grep { defined && $_->status == 201 } @$one{qw(earlier held answer)};
        my $works = $one->{retry}->status == 201 || $one->{retry}->code eq 'response_not_kept';
        my $others = grep { $_->lasting ne $one->{retry}->lasting } $one->{retry}->status == 201 ? @delivered : ();

        push @wrong, describe($one) . ", $count executions" . ($others ? ', and answers that differ' : '')
            if !$works || $others || $count < 1 || $count > (@delivered ? 1 : 2);
    }

    is join("\n", @wrong), '', "$case->{name}: when lease and hold have ended the key works, and no request with a response is executed again";
    is join(' ', $nginx->workers), $case->{worker}, "$case->{name}: nginx still runs";
    # of epoll_ctl(), ioctl() and calls that do not fail in other cases
    $nginx->stop(allowed => qr/\[(?:alert|crit)\] .*(?:epoll_ctl|ioctl|accept4|setsockopt|getsockopt|socket|connect)\(.*failed/);
}

done_testing;
