# idempotency_quota: how many new keys a client may have.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);

# The rates are so low that no test lasts until the next new key is allowed.
my $nginx = IdempotencyTest::Nginx->start(workers => 2, server => <<'END', log_format => '$request_uri $status [$idempotency_status]');
        idempotency main;
        idempotency_scope off;
        add_header X-Status $idempotency_status always;
        idempotency_quota $http_x_who 1r/m burst=2;
        location / { proxy_pass http://app; }
        location /same/ { idempotency_quota $http_x_who 1r/m burst=2; proxy_pass http://app; }
        location /other/ { idempotency_quota $http_x_who 1r/m burst=3; proxy_pass http://app; }
        location /off/ { idempotency_quota off; proxy_pass http://app; }
        location /wait/ { idempotency_quota $http_x_who 1r/m burst=1; idempotency_conflict wait 20s; proxy_pass http://app; }
        location /second/ { idempotency_quota $http_x_who 1r/s; proxy_pass http://app; }
        location = /status { idempotency off; idempotency_status; }
END

sub send_as {
    my ($who, $path, $key, @headers) = @_;
    return $nginx->send_request(path => $path, key => $key, headers => [defined $who ? "X-Who: $who" : (), @headers]);
}

sub ask { return send_as(@_)->response }

sub is_over {
    my ($answer, $name) = @_;
    is_problem $answer, 429, 'idempotency_quota_exceeded', $name;
    is $answer->header('X-Status'), 'QUOTA', "$name: its status";
    my $after = $answer->header('Retry-After') // '';
    ok $after =~ /^\d+$/ && $after > 1 && $after <= 60, "$name: it says when to retry" or diag $after;
}

my @first = map { ask('alice', '/a', "a$_") } 1 .. 3;
is_first $first[$_ - 1], 201, $_, "new key $_ of alice is within the quota" for 1 .. 3;
is_over ask('alice', '/a', 'a4'), 'the next one is over it';
is app()->count('/a'), 3, 'its request was not executed';

is_replay_of ask('alice', '/a', 'a1'), $first[0], 'a response that is there is replayed over the quota';
is_problem $nginx->request(path => '/a', key => 'a1', headers => ['X-Who: alice'], body => 'another'), 422, 'idempotency_key_reused', 'and another request with this key is refused';
is_first ask('bob', '/a', 'a4'), 201, 4, 'what was over the quota of alice has claimed nothing';
is_over ask('alice', '/same/a', 's'), 'a directive that is equal shares the count';
is ask('alice', '/other/a', 'o')->status, 201, 'another directive does not';
is ask('alice', '/off/a', "off$_")->status, 201, 'without a quota' for 1 .. 5;
is ask(undef, '/a', "none$_")->status, 201, 'an empty value is not limited' for 1 .. 5;

# Replays, and requests that are refused, use nothing up.
is ask('carol', '/c', 'c1')->status, 201, 'carol has a key';
ask('carol', '/c', 'c1') for 1 .. 20;
is ask('carol', '/c', "c$_")->status, 201, 'after replays she may have the rest of the quota' for 2, 3;
is_over ask('carol', '/c', 'c4'), 'but not more';

# A running request is found over the quota.
my $running = send_as('dave', '/d?gate=d', 'd1');
app()->await_arrival('/d');
is ask('dave', '/d2', "d$_")->status, 201, 'dave uses up his quota' for 2, 3;
is_over ask('dave', '/d2', 'd4'), 'dave is over his quota';
is_problem ask('dave', '/d?gate=d', 'd1'), 409, 'request_in_progress', 'his running request is in progress';
app()->open_gate('d');
my $first = $running->response;
is_first $first, 201, 1, 'and ends';
is_replay_of ask('dave', '/d?gate=d', 'd1'), $first, 'and is replayed';

# So is one for which a duplicate waits.
$running = send_as('erin', '/wait/e?gate=e', 'e1');
app()->await_arrival('/wait/e');
is ask('erin', '/wait/e2', 'e2')->status, 201, 'erin uses up her quota';
my $waiting = send_as('erin', '/wait/e?gate=e', 'e1');
is_over ask('erin', '/wait/e2', 'e3'), 'erin is over her quota';
app()->open_gate('e');
is_replay_of $waiting->response, $running->response, 'a duplicate that waits over the quota gets the response';

# Time gives new keys.
is ask('fred', '/second/f', 'f1')->status, 201, 'fred has one key';
ok await(sub { ask('fred', '/second/f', 'f2')->status == 201 }), 'and after a second another one';

# The counts are those of the host, over workers and reloads.
$nginx->reload;
is_over ask('alice', '/a', 'a5'), 'after a reload';

my $page = $nginx->request(method => 'GET', path => '/status')->body;
like $page, qr/"quota":\s*\d/, 'the metrics count them';

# The store keeps nothing for a crowd of new keys.
if (store_mode() eq 'memory') {
    my ($keys) = $page =~ /"memory_keys":\s*(\d+)/;
    ask('alice', '/a', "crowd$_") for 1 .. 50;
    my ($after) = $nginx->request(method => 'GET', path => '/status')->body =~ /"memory_keys":\s*(\d+)/;
    is $after, $keys, 'over the quota the store gets no new key';
}

$nginx->stop;
done_testing;
