# limit_req and limit_conn: a request over a limit gets no replay, and claims nothing.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);

# X-Who is the client that is counted
my $nginx = IdempotencyTest::Nginx->start(workers => 1, http => <<'END', server => <<'END');
    limit_req_zone $http_x_who zone=requests:1m rate=1r/m;
    limit_req_zone $http_x_who zone=delayed:1m rate=10r/s;
    limit_conn_zone $http_x_who zone=connections:1m;
    limit_req_status 429;
    limit_conn_status 429;
END
        idempotency main;
        idempotency_scope off;
        location /requests/ { limit_req zone=requests; proxy_pass http://app; }
        location /delayed/ { limit_req zone=delayed burst=10; proxy_pass http://app; }
        location /connections/ { limit_conn connections 1; proxy_pass http://app; }
        location /waiting/ { limit_conn connections 1; idempotency_conflict wait 10s; proxy_pass http://app; }
        location /counted { limit_conn connections 1; empty_gif; }
        location /error/ { error_page 429 = @app; limit_req zone=requests; proxy_pass http://app; }
        location @app { proxy_pass http://app; }
END

sub send_as {
    my ($who, $path, $key) = @_;
    return $nginx->send_request(path => $path, headers => ["X-Who: $who"], defined $key ? (key => $key) : ());
}

sub ask { return send_as(@_)->response }

# limit_req

is ask('alice', '/requests/used')->status, 201, 'alice has used up her limit';
is ask('alice', '/requests/a', 'a')->status, 429, 'over the limit a request with a key is refused';
my $first = ask('bob', '/requests/a', 'a');
is_first $first, 201, 1, 'and has claimed nothing';
is ask($_, '/requests/a', 'a')->status, 429, 'over the limit there is no replay either' for qw(alice bob);
is_replay_of ask('carol', '/requests/a', 'a'), $first, 'while a client within its limit gets a replay';
is ask('carol', '/requests/a', 'a')->status, 429, 'this replay is counted';
is app()->count('/requests/a'), 1, 'the application ran once';

my @answers = map { send_as('dave', '/delayed/a', 'delayed') } 1 .. 4;
@answers = map { $_->response } @answers;
is scalar(grep { $_->status == 201 && !$_->is_replay } @answers), 1, 'one of several delayed requests runs';
is scalar(grep { $_->is_replay || $_->code eq 'request_in_progress' } @answers), 3, 'and the other ones get a replay or request_in_progress after their delay';
is app()->count('/delayed/a'), 1, 'the application ran once';

# limit_conn

my $running = send_as('alice', '/connections/a?gate=a', 'b');
app()->await_arrival('/connections/a');
is ask('alice', '/connections/a?gate=a', 'b')->status, 429, 'over a limit of connections a retry is refused, without request_in_progress';
is ask('alice', '/connections/b', 'c')->status, 429, 'and so is another key';
is_problem ask('bob', '/connections/a?gate=a', 'b'), 409, 'request_in_progress', 'within the limit it gets request_in_progress';
is_first ask('bob', '/connections/b', 'c'), 201, 1, 'and the other key was not claimed';
app()->open_gate('a');
$first = $running->response;
is_first $first, 201, 1, 'the one that ran ends';

my $other = send_as('alice', '/connections/c?gate=c', 'd');
app()->await_arrival('/connections/c');
is ask('alice', '/connections/a?gate=a', 'b')->status, 429, 'a kept response is not given over the limit';
is_replay_of ask('bob', '/connections/a?gate=a', 'b'), $first, 'but within it';
app()->open_gate('c');
is_first $other->response, 201, 1, 'the other one ends';
ok await(sub { ask('alice', '/connections/a?gate=a', 'b')->is_replay }), 'and frees the limit';
is app()->count("/connections/$_"), 1, "the application ran once (/connections/$_)" for qw(a b c);

# a request that is held counts as a connection too
$running = send_as('erin', '/waiting/a?gate=waiting', 'e');
app()->await_arrival('/waiting/a');
my $waiting = send_as('frank', '/waiting/a?gate=waiting', 'e');
# this request gets its response at once, and so never causes the refusal of the other
ok await(sub { $nginx->request(path => '/counted', method => 'GET', headers => ['X-Who: frank'])->status == 429 }), 'a held request is counted';
app()->open_gate('waiting');
$first = $running->response;
is_replay_of $waiting->response, $first, 'and gets the response';
ok await(sub { ask('frank', '/waiting/c')->status == 201 }), 'and is counted no more';
is app()->count('/waiting/a'), 1, 'the application ran once';

# a refused request is not covered on its way to its error page
is ask('grace', '/error/used')->status, 201, 'grace has used up her limit';
is_first ask('grace', '/error/a', 'f'), 201, 1, 'an error page in place of a refusal gets the request';
is_first ask('grace', '/error/a', 'f'), 201, 2, 'and what it responds is not kept';

$nginx->stop;
done_testing;
