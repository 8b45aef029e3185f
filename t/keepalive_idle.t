# idempotency_keepalive_idle: a covered request is not sent over an upstream connection that has been idle for too long.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Certificates;
use IdempotencyTest::Environment qw(store_mode);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::RawApp;
use IdempotencyTest::Requests qw(@who ask);
use Time::HiRes qw(sleep time);

plan skip_all => 'is about upstreams: run with the memory store alone' if store_mode() ne 'memory';

my $authority = IdempotencyTest::Certificates->new;
my $certificate = $authority->server;
my $plain = IdempotencyTest::RawApp->new;
my $tls = IdempotencyTest::RawApp->new(certificate => $certificate);
my @servers = map { "server 127.0.0.1:" . $_->port } $plain, $tls;
my $n = 0;

# Upstreams by name: the scheme, and the directives.
my %upstream = (
    'round robin' => ['http', "$servers[0];"],
    'two servers' => ['http', "$servers[0]; $servers[0];"],
    'least_conn' => ['http', "least_conn; $servers[0]; $servers[0];"],
    'ip_hash' => ['http', "ip_hash; $servers[0]; $servers[0];"],
    'hash' => ['http', "hash \$host consistent; $servers[0]; $servers[0];"],
    'random' => ['http', "random two least_conn; $servers[0]; $servers[0];"],
    'a zone' => ['http', "zone kept 64k; $servers[0]; $servers[0];"],
    # each connection that is not given back would use up a place
    'max_conns' => ['http', "$servers[0] max_conns=1;"],
    'max_conns and least_conn' => ['http', "least_conn; $servers[0] max_conns=1; $servers[0] max_conns=1;"],
    'max_fails' => ['http', "$servers[0] max_fails=1 fail_timeout=60s; $servers[0] max_fails=1 fail_timeout=60s;"],
    'backup' => ['http', "$servers[0]; $servers[0] backup;"],
    'TLS' => ['https', "$servers[1];"],
    'TLS and least_conn' => ['https', "least_conn; $servers[1]; $servers[1];"],
    'TLS without sessions' => ['https', "$servers[1];", 'proxy_ssl_session_reuse off;'],
    'unbuffered' => ['http', "$servers[0];", 'proxy_buffering off;'],
);

# nginx does not free the TLS sessions that it keeps for upstream servers when it ends: LeakSanitizer would report them.
if ($ENV{ASAN_OPTIONS}) {
    $_->[2] = 'proxy_ssl_session_reuse off;' for grep { $_->[0] eq 'https' } values %upstream;
}

my %name = map { $_ => s/\W+/_/gr } keys %upstream;

sub locations {
    my ($name) = @_;
    my ($scheme, undef, $more) = @{$upstream{$name}};
    my $pass = ($more // '') . " proxy_pass $scheme://$name{$name};";
    return <<"END";
        location /$name{$name}/ { $pass }
        location /$name{$name}/off/ { idempotency off; $pass }
        location /$name{$name}/long/ { idempotency_keepalive_idle 1h; $pass }
END
}

sub start_nginx {
    my (%options) = @_;
    return IdempotencyTest::Nginx->start(
        workers => 1, application => $plain,
        http => join('', map { "upstream $name{$_} { $upstream{$_}[1] keepalive 8; }\n" } sort keys %upstream),
        server => join('', "idempotency main; idempotency_keepalive_idle 1s;\n", map { locations($_) } sort keys %upstream), %options);
}

# The number of the connection over which the application got a new request.
sub connection_of {
    my ($nginx, $path) = @_;
    my $response = ask($nginx, $path, 'key-' . ++$n);
    return $response->status == 201 && $response->body =~ /^#\d+ (\d+)$/ ? $1 : 'none: ' . $response->status_line;
}

my $nginx = start_nginx();

# Each upstream waits for the same pauses.
my (%first, %at_once, %uncovered, %long, %covered, %again, %pause);
my @names = sort keys %upstream;

for my $name (@names) {
    $first{$name} = connection_of($nginx, "/$name{$name}/x");
    # once more, so that each server of an upstream has a connection; with two servers each has its own
    my %seen = map { connection_of($nginx, "/$name{$name}/x") => 1 } 1 .. 6;
    $at_once{$name} = join ' ', sort keys %seen;
}
sleep 1.5;
$uncovered{$_} = connection_of($nginx, "/$name{$_}/off/x") for @names;
sleep 1.5;
$long{$_} = connection_of($nginx, "/$name{$_}/long/x") for @names;
sleep 1.5;
for my $name (@names) {
    $covered{$name} = connection_of($nginx, "/$name{$name}/x");
    my $start = time;
    $again{$name} = connection_of($nginx, "/$name{$name}/x");
    $pause{$name} = time - $start;
}

for my $name (@names) {
    my %known = map { $_ => 1 } $first{$name}, split / /, $at_once{$name};
    cmp_ok scalar(keys %known), '<=', 2, "covered requests share connections that were just used ($name)" or diag join ' ', sort keys %known;
    is scalar(grep { !/^\d+$/ } keys %known), 0, "all are connections ($name)" or diag join ' ', sort keys %known;
    ok $known{$uncovered{$name}}, "an uncovered request uses a connection that was idle for longer ($name)" or diag $uncovered{$name};
    ok $known{$long{$name}}, "so does a covered request with a longer idempotency_keepalive_idle ($name)" or diag $long{$name};
    like $covered{$name}, qr/^\d+$/, "a covered request runs ($name)";
    ok !$known{$covered{$name}}, "over a connection of its own ($name)" or diag $covered{$name};
    like $again{$name}, qr/^\d+$/, "the next one runs, too ($name)";
    # on a busy machine the connection may have been idle for too long by then
    ok $again{$name} == $covered{$name} || $pause{$name} >= 0.9 || $name !~ /^(?:round robin|TLS|unbuffered|max_conns|backup|TLS without sessions|ip_hash|hash)$/,
        "over the same connection ($name)" or diag $again{$name};
}

# What was closed has not been counted as in use, or as a failure.
for my $round (1 .. 3) {
    sleep 1.2;
    for my $name (@names) {
        my @wrong = grep { !/^\d+$/ } map { connection_of($nginx, "/$name{$name}/x") } 1 .. 3;
        is "@wrong", '', "requests run after each pause ($name, $round)";
    }
}

is $nginx->request(method => 'GET', path => "/$name{$_}/x")->status, 201, "a GET runs ($_)" for @names;
$nginx->reload;
sleep 1.2;
like connection_of($nginx, "/$name{$_}/x"), qr/^\d+$/, "requests run after a reload ($_)" for @names;
$nginx->stop;

# An application that closes connections which have been idle for one second, and needs a while to do so: a request that arrives
# meanwhile is lost. Each of the upstreams has one connection, and gets a request about once a second.
subtest 'An application that closes idle connections' => sub {
    my $brief = IdempotencyTest::RawApp->new(idle => 1, closing => 0.1);
    my $number = 25;
    my $upstreams = join '', map { "upstream brief$_ { server 127.0.0.1:" . $brief->port . "; keepalive 1; }\n" } 1 .. $number;
    my $locations = join '', map { "location /brief$_/ { proxy_pass http://brief$_; }\n" } 1 .. $number;

    my $run = sub {
        my ($idle, $rounds) = @_;
        my $nginx = IdempotencyTest::Nginx->start(workers => 1, application => $brief, http => $upstreams,
            server => "idempotency main; idempotency_keepalive_idle $idle; $locations");
        my %status;
        connection_of($nginx, "/brief$_/first") for 1 .. $number;
        my @last = (time) x ($number + 1);

        for my $round (1 .. $rounds) {
            for my $i (1 .. $number) {
                # between 0.85 and 1.1 seconds after the last one
                my $wait = $last[$i] + 0.85 + 0.01 * $i - time;
                sleep $wait if $wait > 0;
                my $response = ask($nginx, "/brief$i/x", 'key-' . ++$n);
                $status{$response->status}++;
                $last[$i] = time;
            }
        }

        $nginx->stop;
        return join ' ', map { "$_: $status{$_}" } sort keys %status;
    };

    is $run->('500ms', 8), '201: 200', 'no request meets a connection that is being closed';
    like $run->('1h', 3), qr/502/, 'with a limit that is too long some do';
};

# Each server has a connection that was idle for too long. A covered request still goes to the server that the balancer has chosen.
subtest 'Several servers' => sub {
    my $second = IdempotencyTest::RawApp->new;
    my ($one, $two) = map { '127.0.0.1:' . $_->port } $plain, $second;
    my %upstream = (
        round_robin => "server $one; server $two;",
        least_conn => "least_conn; server $one; server $two;",
        random => "random; server $one; server $two;",
        hash => "hash \$arg_client consistent; server $one; server $two;",
        ip_hash => "ip_hash; server $one; server $two;",
        backup => "server $one; server $two backup;",
    );
    my $nginx = IdempotencyTest::Nginx->start(workers => 1, application => $plain,
        http => join('', map { "upstream $_ { $upstream{$_} keepalive 8; }\n" } sort keys %upstream),
        server => join('', "idempotency main; idempotency_keepalive_idle 500ms; add_header X-Server \$upstream_addr always;\n",
            map { "location /$_/ { proxy_pass http://$_; }\n" } sort keys %upstream));

    # The servers that requests of several clients reach, or their statuses.
    my $servers = sub {
        my ($name) = @_;
        return map { my $response = ask($nginx, "/$name/x?client=$_", 'key-' . ++$n); $response->status == 201 ? $response->header('X-Server') : $response->status } 'a' .. 'l';
    };

    my %before = map { $_ => [$servers->($_)] } sort keys %upstream;
    sleep 0.8;

    for my $name (sort keys %upstream) {
        my @after = $servers->($name);
        my @primary = $name eq 'backup' ? $one : ($one, $two);
        my @wrong = grep { my $server = $_; !grep { $_ eq $server } @primary } @after;
        is "@wrong", '', "covered requests reach a server of the primary group ($name)";
        is "@after", "@{$before{$name}}", "the same as before ($name)" if $name =~ /hash|backup/;
    }

    $nginx->stop;
};

done_testing;
