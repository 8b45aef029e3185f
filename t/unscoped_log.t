# A request with a key, but with an empty scope, is logged: at most one line per second in each worker.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use Time::HiRes qw(sleep time);

my $nginx = IdempotencyTest::Nginx->start(workers => 1, server => <<'END');
        idempotency main;
        location / { proxy_pass http://app; }
        location /all/ { idempotency_scope $http_x_tenant $http_x_user $http_x_device; proxy_pass http://app; }
        location /required/ { idempotency main required; proxy_pass http://app; }
        location /off/ { idempotency_scope off; proxy_pass http://app; }
        location /bypass/ { idempotency_bypass 1; proxy_pass http://app; }
END

sub lines { return grep { /idempotency_scope/ } split /\n/, $nginx->error_log }

my $sent = 0;

# Sends a request whose scope is empty.
sub ask {
    $sent++;
    return $nginx->request(key => 'secret-key', @_);
}

# Sends one when a line may be logged again. Returns its line and the status.
sub ask_and_read_line {
    my (%request) = @_;
    my $before = lines();

    sleep 1.1;
    my $status = ask(%request)->status;
    await(sub { lines() > $before });
    my @lines = lines();
    is scalar(@lines), $before + 1, 'one line is logged';
    return $lines[-1] // '', $status;
}

# All requests so far are in a line, or in the count of a later line.
sub is_complete {
    my ($name) = @_;
    my @lines = lines();
    my $counted = 0;
    $counted += 1 + (/\((\d+) more such requests since the last message\)/)[0] for @lines;
    is $counted, $sent, $name;
}

# What is not logged.
$nginx->request(path => '/a', headers => ['X-API-Key: alice'], key => 'secret-key');
$nginx->request(path => '/a');
$nginx->request(path => '/a', method => 'GET', key => 'secret-key');
$nginx->request(path => "/$_/a", key => 'secret-key') for qw(off bypass);
$nginx->request(path => '/required/a', headers => ['X-API-Key: alice']);
is scalar(lines()), 0, 'nothing is logged for a request with a scope, without a key, with another method, with "off" or with a bypass';

my ($line, $status) = ask_and_read_line(path => '/a');
is $status, 201, 'a request with an empty scope is passed';
like $line, qr/\[warn\].*idempotency: the scope is empty: no value for \$http_authorization \$http_x_api_key in "idempotency_scope"/,
    'a warning names the empty variables';
like $line, qr/a request with an idempotency key was passed without protection;/, 'and what happened';
like $line, qr/set "idempotency_scope" to a variable that identifies the client in each such request, or to "off"/, 'and what to do';
is_complete 'and counts no other request';

my $start = time;
ask(path => '/a') for 1 .. 50;
my $seconds = time - $start;
cmp_ok lines() - 1, '<=', $seconds, 'no more than one line is logged per second' or diag $nginx->error_log;

($line, $status) = ask_and_read_line(path => '/required/a');
is $status, 400, 'a location with "required" refuses the request';
like $line, qr/a request with an idempotency key was refused;/, 'which is logged';
is_complete 'with the number of the requests that were not logged';

($line) = ask_and_read_line(path => '/all/a', headers => ['X-User: secret-user']);
like $line, qr/no value for \$http_x_tenant \$http_x_device in "idempotency_scope"/, 'of several values the empty ones are named';
like $line, qr/\(0 more such requests since the last message\)/, 'and the count begins anew';

unlike $nginx->error_log, qr/secret/, 'neither a key nor a value of the scope is logged';

$nginx->stop;
done_testing;
