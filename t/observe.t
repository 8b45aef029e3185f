# `observe`: the log and the metrics say what the module would have done, and no request waits, is refused or gets a replay.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Socket::UNIX;
use Test::More;
use Time::HiRes qw(time);
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await dead_port);
use IdempotencyTest::Redis;

my %common = (workers => 1, log_level => 'info',
    log_format => '$http_x_n $status [$idempotency_status] [$idempotency_outcome] [$idempotency_code] [$idempotency_token]');

my $locations = <<'END';
        idempotency_scope $http_x_api_key;
        location / { proxy_pass http://app; }
        location /required/ { idempotency main required observe; proxy_pass http://app; }
        location /nobody/ { idempotency_fingerprint $request_uri body=off; proxy_pass http://app; }
        location /streaming/ { proxy_request_buffering off; proxy_pass http://app; }
        location /traced/ { idempotency_fingerprint $uri; proxy_pass http://app; }
        location /hidden/ { idempotency_fingerprint $uri; idempotency_hide_header X-Trace; proxy_pass http://app; }
        location /small/ { idempotency_max_body 100; proxy_pass http://app; }
        location /quota/ { idempotency_quota $http_x_api_key 1r/m burst=1; proxy_pass http://app; }
        location /many/ { idempotency_key $request_id; idempotency_methods GET; keepalive_requests 10000; empty_gif; }
        location /bypass/ { idempotency_bypass $arg_nocache; proxy_pass http://app; }
        location = /status { idempotency off; idempotency_status; }
END

my $nginx = IdempotencyTest::Nginx->start(%common, server => "idempotency main observe;\n$locations");
my $n = 0;

# The response, and what the access log says about the request. Where Redis has replied after the response of the application, the access
# log says nothing, but the metrics and the error log do.
sub ask {
    my (%request) = @_;
    my $number = ++$n;
    my $unobserved = delete $request{unobserved};
    my $before = figures();
    my $response = $nginx->request(%request, headers => ["X-N: n$number", @{$request{headers} // ['X-API-Key: alice']}]);
    my $line = $nginx->await_access_log(qr/^n$number /) || '';
    my ($status, $outcome, $code, $token) = $line =~ /\[([^]]*)\]/g;
    my $asked = {response => $response, status => $status, outcome => $outcome, code => $code, token => $token};

    if ($status eq '-' && !$unobserved && store_mode() eq 'redis') {
        my $moved;
        await(sub { ($moved = moved($before)) =~ /requests/ && ($moved !~ /requests.new/ || $moved =~ /outcomes/) });
        $asked->{late} = 1;
        $asked->{status} = uc(($moved =~ /requests\.(\w+)=1/)[0]);
        $asked->{outcome} = ($moved =~ /outcomes\.(\w+)=1/)[0] // '-';
    }

    return $asked;
}

sub figures { return $nginx->request(method => 'GET', path => '/status')->json->{stores}{main} }

# What has moved in the observed metrics, such as requests.new=1.
sub moved {
    my ($before) = @_;
    my $after = figures();
    my @moved;

    for my $family (grep { /^observed_/ } sort keys %$after) {
        push @moved, map { my $by = $after->{$family}{$_} - $before->{$family}{$_}; $by ? "$family.$_=$by" : () } sort keys %{$after->{$family}};
    }

    return join ' ', map { s/^observed_//r } @moved;
}

# Requests with keys of their own, over one connection. Returns how many got a response.
sub ask_at_once {
    my ($count) = @_;
    my $socket = IO::Socket::UNIX->new(Peer => $nginx->socket) or die "connect: $!\n";
    my $request = "GET /many/ HTTP/1.1\r\nHost: localhost\r\nX-API-Key: alice\r\n\r\n";
    my ($responses, $seen) = ('', 0);

    for my $sent (map { $_ * 100 } 1 .. $count / 100) {
        $socket->syswrite($request x 100);

        while ($seen < $sent) {
            $socket->sysread($responses, 65536, length $responses) or return 'the connection is closed';
            $seen++ while $responses =~ s/^.*?GIF89a//s;
        }
    }

    return $seen;
}

# What a piece of code moves.
sub moves {
    my ($code, $expected, $name) = @_;
    my $before = figures();
    $code->();
    my $moved;
    await(sub { ($moved = moved($before)) eq $expected });
    is $moved, $expected, $name;
}

sub is_executed {
    my ($asked, $expected, $name) = @_;
    my $said = "$asked->{status} $asked->{outcome} " . ($asked->{late} ? (split / /, $expected)[2] : $asked->{code});
    is $said, $expected, $name;
    unlike $asked->{response}->head, qr/Idempotent-Replayed/i, "$name: no replay";
    is $asked->{token}, '-', "$name: no token";
}

sub is_logged {
    my ($pattern, $name) = @_;
    ok $nginx->await_error_log($pattern), $name;
}

# A first request, and the same one again.
my ($first, $second);
moves(sub { $first = ask(path => '/a', key => 'a', body => 'one') }, 'outcomes.kept=1 requests.new=1', 'a new key is counted');
is_executed $first, 'NEW kept -', 'a new key';
moves(sub { $second = ask(path => '/a', key => 'a', body => 'one') },
    'differences.body=1 replays.different=1 requests.replayed=1', 'a replay that would have differed is counted');
is_executed $second, 'REPLAYED - -', 'the same request again';
is app()->count('/a'), 2, 'the application has got both';
ok $nginx->await_error_log(qr/observe: key [0-9a-f]{64} in store "main": a replay would have differed from the response of the application: body \(\d+ more/),
    'and the log says what differs';

moves(sub { ask(path => '/a', key => 'a', body => 'two') }, 'requests.reused=1', 'another body with the key');
my $reused = ask(path => '/a', key => 'a', body => 'two');
is_executed $reused, 'REUSED - idempotency_key_reused', 'another request with the key';
is $reused->{response}->status, 201, 'it is not refused';
is_logged qr/observe: key [0-9a-f]{64} in store "main": this request would have been refused with 422 idempotency_key_reused /, 'and the log says that it would have been';

# What is compared.
my $same = '/b?kind=none&status=204';
ask(path => $same, key => 'b');
moves(sub { ask(path => $same, key => 'b') }, 'replays.equal=1 requests.replayed=1', 'an equal response: Date and Server do not count');
moves(sub { ask(path => '/c?status=201,409', key => 'c') for 1, 2 },
    'differences.body=1 differences.status=1 outcomes.kept=1 replays.different=1 requests.new=1 requests.replayed=1', 'another status');
is_logged qr/response of the application: status \(201, now 409\), body \(/, 'the log has both';

# Header fields: the second response has other values, and the fingerprint does not see its URI.
my $fields = 'kind=none&status=204&header=X-Same:1&header=X-Trace';
ask(path => "/traced/?$fields:1&header=X-Two:1&header=X-Two:2", key => 't');
moves(sub { ask(path => "/traced/?$fields:2&header=X-Two:1&header=X-New:1", key => 't') },
    'differences.fields=1 replays.different=1 requests.replayed=1', 'other header fields');
is_logged qr/response of the application: header fields \(X-Trace, X-Two, X-New\) \(/, 'the log names them';
ask(path => "/hidden/?$fields:1", key => 't2');
moves(sub { ask(path => "/hidden/?$fields:2", key => 't2') }, 'replays.equal=1 requests.replayed=1', 'a hidden field does not count');

# What would have been refused before the store is asked.
is_executed ask(path => '/required/a'), 'MISSING - idempotency_key_missing', 'no key';
is_executed ask(path => '/a', key => "a b"), 'INVALID - idempotency_key_invalid', 'an ill-formed key';
is_executed ask(path => '/a', key => 'a', headers => ['X-Other: 1']), 'UNSCOPED - -', 'an empty scope';
is_executed ask(path => '/required/a', key => 'a', headers => ['X-Other: 1']), 'UNSCOPED - idempotency_scope_missing', 'an empty scope where a key is required';
is_executed ask(path => '/bypass/a?nocache=1', key => 'a'), 'BYPASS - -', 'bypass';
moves(sub { ask(path => '/required/a') }, 'requests.missing=1', 'they are counted');
is ask(path => '/none', unobserved => 1)->{status}, '-', 'a request without a key is not observed';
is ask(method => 'GET', path => '/none', key => 'get', unobserved => 1)->{status}, '-', 'nor is one whose method is not covered';

# The quota, with counts of its own.
is ask(path => '/quota/a', key => "q$_")->{status}, 'NEW', "quota: key $_" for 1, 2;
is_executed ask(path => '/quota/a', key => 'q3'), 'QUOTA - idempotency_quota_exceeded', 'over the quota';
is ask(path => '/quota/a', key => 'q1')->{status}, 'REPLAYED', 'what is there is found over the quota';

# What would have become of the claim.
is_executed ask(path => '/small/a?size=200', key => 's'), 'NEW not_kept_size -', 'too large';
is_executed ask(path => '/small/a?size=200', key => 's'), 'NOT_KEPT - response_not_kept', 'its retry';
is_executed ask(path => '/e?status=503', key => 'e'), 'NEW released -', 'a retriable response';
is_executed ask(path => '/e?status=503', key => 'e'), 'NEW released -', 'its retry';
is_executed ask(path => '/f?abort=before', key => 'f'), 'NEW unknown -', 'an application that breaks off';
is_executed ask(path => '/f?abort=no', key => 'f2'), 'NEW kept -', 'one that does not';
is_executed ask(path => '/f?abort=before', key => 'f'), 'UNKNOWN - outcome_unknown', 'a retry of the first';
is_executed ask(path => '/g?header=X-Accel-Idempotency:no-store', key => 'g'), 'NEW not_kept_word -', 'no-store';
like ask(path => '/g?header=X-Accel-Idempotency:release', key => 'g2')->{response}->head, qr/X-Accel-Idempotency: release/, 'its header is not removed';
is_executed ask(path => '/h?abort=mid', key => 'h'), 'NEW unknown -', 'a body that breaks off';

# A running request.
my $before_conflict = figures();
my $running = $nginx->send_request(path => '/i?gate=i', key => 'i', headers => ['X-API-Key: alice']);
app()->await_arrival('/i');
my $conflict = $nginx->send_request(path => '/i?gate=i', key => 'i', headers => ['X-API-Key: alice', 'X-N: conflict']);
app()->await_arrival('/i', 2);
ok await(sub { moved($before_conflict) =~ /in_progress=1/ }), 'a duplicate is counted while the first request runs';
app()->open_gate('i');
is $running->response->status, 201, 'the first request runs';
is $conflict->response->status, 201, 'and so does a duplicate';
like $nginx->await_access_log(qr/^conflict /), qr/\[IN_PROGRESS\] \[-\] \[request_in_progress\]/, 'which would have been refused';

# Bodies: not read first, and digested all the same.
for my $path ('/nobody/a', '/streaming/a') {
    my %request = (path => $path, key => "body$path", chunks => ['x' x 10_000, 'y' x 50_000]);
    is ask(%request)->{status}, 'NEW', "$path: an upload";
    is ask(%request)->{status}, 'REPLAYED', "$path: and again";
    is ask(%request, chunks => ['z'])->{status}, $path =~ /nobody/ ? 'REPLAYED' : 'REUSED', "$path: another body";
}

my %large = (path => '/large', key => 'large', body => 'x' x 300_000);
is ask(%large)->{status}, 'NEW', 'a body in a file';
is ask(%large)->{status}, 'REPLAYED', 'and again';

# The client leaves.
my $before = figures();
my $leaving = $nginx->send_request(path => '/j?gate=j', key => 'j', headers => ['X-API-Key: alice', 'X-N: leaves']);
app()->await_arrival('/j');
await(sub { moved($before) =~ /new=1/ });
moves(sub { $leaving->close; $nginx->await_access_log(qr/^leaves 499/); await(sub { figures()->{observed_outcomes}{unseen} }) }, 'outcomes.unseen=1',
    'a client that leaves ends its request, as without the module');
app()->open_gate('j');
moves(sub { is ask(path => '/j?gate=j', key => 'j')->{status}, 'REPLAYED', 'its retry would have been replayed' },
    'replays.not_compared=1 requests.replayed=1', 'and is not compared with anything');

# Without `observe` nothing that was observed is replayed.
my $observed = ask(path => '/k', key => 'k');
$nginx->set(server => "idempotency main;\n$locations")->reload;
my $earnest = ask(path => '/k', key => 'k');
is $earnest->{status}, 'NEW', 'a key that was observed is new without `observe`';
is app()->count('/k'), 2, 'and its request is executed';
is ask(path => '/k', key => 'k')->{response}->is_replay, 1, 'from now on it is replayed';

my ($quota) = map { $_->{response}->status } ask(path => '/quota/a', key => 'earnest');
is $quota, 201, 'what was observed has used nothing of the quota';

$nginx->stop;

# A store that is unavailable, or stalls, delays nothing.
SKIP: {
    skip 'the memory store is always available', 15 if store_mode() eq 'memory';

    my $redis = IdempotencyTest::Redis->new;
    $nginx = IdempotencyTest::Nginx->start(%common, redis => 'unix:' . $redis->socket, store => 'timeout 20s;',
        server => "idempotency main observe;\n$locations");
    is ask(path => '/l', key => 'l')->{status}, 'NEW', 'Redis works';
    $redis->stall;
    my $stalled = ask(path => '/l', key => 'l2', unobserved => 1);
    is $stalled->{response}->status, 201, 'Redis stalls: the request does not wait';
    is $stalled->{status}, '-', 'what would have been is not known in time';
    is ask(path => '/l', key => 'l', body => 'another', unobserved => 1)->{status}, '-', 'nor is it for another request with a used key';
    my $many = 4500;
    is ask_at_once($many), $many, 'nor do very many';
    cmp_ok figures()->{observed_requests}{undecided}, '>=', $many - 4096, 'those that are too many are not observed: the memory for them is bounded';
    $redis->resume;
    ok await(sub { my $seen = figures()->{observed_requests}; $seen->{new} + $seen->{undecided} == 2 + $many && $seen->{reused} == 1 }), 'the others are counted later';
    is_logged qr/this request would have been refused with 422 idempotency_key_reused /, 'and the log says which would have been refused';
    ok await(sub { ask(path => '/l', key => 'later-' . ++$n)->{status} eq 'NEW' }), 'and from then on all are observed again';
    $redis->kill;
    await(sub { ask(path => '/l', key => 'l3')->{status} eq 'STORE_ERROR' });
    my $down = ask(path => '/l', key => 'l4');
    is_executed $down, 'STORE_ERROR - store_unavailable', 'Redis is down';
    is $down->{response}->status, 201, 'and the request goes on';
    $nginx->stop;
}

done_testing;
