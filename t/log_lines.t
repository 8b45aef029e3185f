# The lines of the error log: what they name, that none of them has a key or a credential, and how often they come.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app redis store_mode);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Relay;
use IdempotencyTest::Requests qw(ask begin);

my $is_redis = store_mode() eq 'redis';
my $relay = $is_redis ? IdempotencyTest::Relay->new(to => redis()->socket) : undef;
my $secret = 'secret-' . $$;

@IdempotencyTest::Requests::who = (headers => ["Authorization: Bearer $secret", "X-API-Key: $secret"]);

my $nginx = IdempotencyTest::Nginx->start(
    workers => 1,
    short_leases => 1,
    $is_redis ? (redis => $relay->url) : (),
    server => <<'END');
        add_header X-Id $idempotency_key_id always;
        add_header X-Token $idempotency_token always;
        idempotency main;
        idempotency_lease 1s;
        location / { proxy_pass http://app; }
        location /short/ { idempotency_unknown hold 1s; proxy_pass http://app; }
        location /ttl/ { idempotency_ttl $arg_ttl; proxy_pass http://app; }
END

sub lines { my ($pattern) = @_; return grep { /$pattern/ } split /\n/, $nginx->error_log }

# A line names the key by its id, the store and the token.
sub claim { my ($id, $token) = @_; return qr/\[error\].*idempotency: key $id in store "main", token $token: / }

subtest 'A broken exchange' => sub {
    my $response = ask($nginx, '/broken?abort=reset', "$secret-broken");
    my $claim = claim($response->header('X-Id'), $response->header('X-Token'));
    my $line = $nginx->await_error_log(qr/${claim}the outcome is unknown: the request was sent/) // '';
    like $line, qr/client: "?unix:.*request(?:_line)?: "POST \/broken\?abort=reset HTTP\/1\.1"/, 'with the context of the request';
    like $line, qr/"idempotency settle"/, 'and with what to do';
};

subtest 'A worker that is killed' => sub {
    my $start = int time;
    my ($worker) = $nginx->workers;
    my $running = begin($nginx, '/killed', "$secret-killed");
    kill KILL => $worker;
    await(sub { (grep { $_ != $worker } $nginx->workers) == 1 });
    my $response;
    await(sub { $response = ask($nginx, '/killed?gate=' . "$secret-killed", "$secret-killed"); $response->code eq 'outcome_unknown' });
    my $line = $nginx->await_error_log(qr/the lease has expired/) // '';
    like $line, claim($response->header('X-Id'), '\d+'), 'the line names the claim';
    like $line, qr/worker $worker of host "\S+"/, 'and the worker';
    ask($nginx, '/killed?gate=' . "$secret-killed", "$secret-killed") for 1 .. 3;
    my @all = lines(qr/the lease has expired/);
    ok @all >= 4 && 2 > grep({ /\[error\]/ } @all) - int(time - $start), 'the line comes once in a second as an error';
    app()->open_gate("$secret-killed");
};

subtest 'A line that each request may cause' => sub {
    my $start = int time;
    my $warned = qr/\[warn\].*invalid value of "\$arg_ttl"/;
    my $informed = qr/\[info\].*invalid value of "\$arg_ttl"/;

    ask($nginx, "/ttl/$_?ttl=x", "ttl-$_") for 1 .. 5;
    cmp_ok scalar(lines($warned)), '<', 2 + time - $start, 'comes once in a second';
    is lines($warned) + lines($informed), 5, 'the others have the level info';

    my $n = lines($warned);
    ok await(sub { ask($nginx, '/ttl/' . rand . '?ttl=x', 'ttl-' . rand); lines($warned) > $n }), 'the next line comes later';
    my $counted = 0;
    $counted += (/\((\d+) more such requests/)[0] for lines($warned);
    is $counted, scalar(lines($informed)), 'and counts the others';
};

if ($is_redis) {
    subtest 'An outcome that is not recorded before the request ends' => sub {
        my $key = "$secret-down";
        my $running = $nginx->send_request(path => "/short/down?gate=$key&token=$secret", key => $key, @IdempotencyTest::Requests::who);
        app()->await_arrival('/short/down');
        $relay->do('refuse');
        app()->open_gate($key);
        my $response = $running->response;
        is $response->status, 201, 'the response is delivered';
        my $claim = claim($response->header('X-Id'), $response->header('X-Token'));
        ok lines(qr/${claim}the store is unavailable: the outcome of the request is not recorded yet/), 'a line says that it is not recorded';
        my $line = $nginx->await_error_log(qr/${claim}the outcome of the request was not recorded/) // '';
        like $line, qr/client: "?unix:"?, request(?:_line)?: "POST \/short\/down HTTP\/1\.1"$/, 'a later line has the request without its arguments';
        like $line, qr/"idempotency settle" when the lease has ended/, 'and what to do';
        is scalar(lines(qr/was not recorded.*$secret/)), 0, 'and no secret';
        $relay->do('accept');
        ok $nginx->await_error_log(qr/\[warn\].*redis "\S+" of store "main" is available again/), 'a server that is available again is a warning';
    };

    is join("\n", grep { !/of store "main"/ } lines(qr/idempotency: .*redis "/)), '', 'each line about a server names its store';
}

my $own = qr/idempotency: (.*?)(?=, client: |$)/;
is join("\n", grep { /$own/ && $1 =~ /secret/ } split /\n/, $nginx->error_log), '', 'no line of the module has a key or a credential';

$nginx->stop(allowed => qr/exited on signal 9/, seconds => 20);
done_testing;
