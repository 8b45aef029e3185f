# With every upstream protocol of nginx: an exchange continues after its client has disconnected, and the retry gets a replay.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::App;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(store_mode);
use IdempotencyTest::Leave qw(leave_listeners leave_ways);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Redis;

my $app = IdempotencyTest::App->new(gateways => 1);
my %pass = (
    proxy => 'proxy_pass http://app;',
    grpc => 'grpc_pass grpc://' . $app->gateway('grpc') . '; grpc_set_header App-Space ' . $app->space . ';',
    map { my $name = $_; $name => join "\n", "${name}_pass " . $app->gateway($name) . ';', map { "${name}_param $_;" }
        'REQUEST_METHOD $request_method', 'REQUEST_URI $request_uri', 'CONTENT_LENGTH $content_length',
        'HTTP_APP_SPACE ' . $app->space } qw(fastcgi scgi uwsgi),
);

# A separate Redis, because this test stalls it.
my $redis = store_mode() eq 'redis' ? IdempotencyTest::Redis->new : undef;
my $store = $redis ? 'redis unix:' . $redis->socket . '; timeout 10s;' : 'memory 256m;';

my $nginx = IdempotencyTest::Nginx->new(workers => 1, application => $app, stores => "idempotency_store main { $store }");
my @locations;

for my $protocol (sort keys %pass) {
    my @variants = $protocol eq 'grpc' ? '' : ('', "-unbuffered");
    for my $variant (@variants) {
        my $how = $pass{$protocol} . ($variant ? " ${protocol}_buffering off;" : '');
        push @locations, "location /$protocol$variant/ { $how location /$protocol$variant/small/ { idempotency_max_body 4k; $how } }";
    }
}

my $listeners = leave_listeners($nginx);
$nginx->set(server => join "\n        ", $listeners, 'idempotency main;', 'send_timeout 1s;', @locations,
    'location /plain/ { idempotency off; proxy_pass http://app; }')->start;

my @stalled;
my %who = ('X-API-Key' => 'alice');
my %way = leave_ways($nginx);
my $n = 0;

sub request { my ($path, $key) = @_; return $nginx->request(path => $path, key => $key, headers => ['X-API-Key: alice']) }

# The response to a retry when the exchange has ended.
sub retry {
    my ($path, $key) = @_;
    my $answer;
    await(sub { $answer = request($path, $key); $answer->code ne 'request_in_progress' });
    return $answer;
}

# nginx has handled all earlier events: it is one process.
sub nginx_has_seen_all { return $nginx->request(path => '/plain/seen', method => 'GET')->status == 201 }

sub size_of { my ($where, $answer) = @_; return length($answer->body) - ($where =~ /grpc/ ? 5 : 0) }

for my $where (map { m{^location /([a-z-]+)/ } ? $1 : () } @locations) {
    for my $way (sort keys %way) {
        my $what = "$where, $way";

        # before the response
        for my $size (100, 300_000) {
            my $path = "/$where/before" . ++$n;
            my $query = "kind=binary&size=$size&gate=$n";
            my $client = $way{$way}->("$path?$query", $n, %who);
            $app->await_arrival($path);
            $client->leave;
            nginx_has_seen_all();
            is_problem request("$path?$query", $n), 409, 'request_in_progress', "an exchange continues after its client has disconnected ($what, $size)";
            $app->open_gate($n);
            $app->await_answer($path);

            my $retry = retry("$path?$query", $n);
            ok $retry->is_replay, "and its retry is replayed ($what, $size)" or diag $retry->head;
            is size_of($where, $retry), $size, "the replay is complete ($what, $size)";
            is $app->count($path), 1, "the application executed the request once ($what, $size)";
        }

        # during a response that is held
        {
            my $path = "/$where/middle" . ++$n;
            # a call of gRPC with several messages would be a stream
            my $query = 'kind=binary&size=300000&framing=chunked' . ($where eq 'grpc' ? '' : "&pieces=3&middle=$n");
            my $client = $way{$way}->("$path?$query", $n, %who);
            $app->await_arrival($path);
            $client->leave;
            nginx_has_seen_all();
            $app->open_gate($n);
            $app->await_answer($path);

            my $retry = retry("$path?$query", $n);
            ok $retry->is_replay && size_of($where, $retry) == 300_000, "left in the middle of a response ($what)" or diag $retry->head;
            is $app->count($path), 1, "the application executed the request once ($what)";
        }

        # during a response that is too large
        {
            my $path = "/$where/small/passing" . ++$n;
            my $query = "kind=binary&size=3000000&framing=chunked&pieces=2&middle=$n";
            my $client = $way{$way}->("$path?$query", $n, %who);
            ok $client->await_bytes, "a response that is too large is passed through before its end ($what)";
            $client->leave;
            nginx_has_seen_all();
            $app->open_gate($n);
            is_problem retry("$path?$query", $n), 409, 'response_not_kept', "the client disconnects during a large response ($what)";
            is $app->count($path), 1, "the application executed the request once ($what)";
        }

        # while the response is being kept
        if ($redis) {
            my $path = "/$where/keeping" . ++$n;
            my $query = "gate=$n";
            my $client = $way{$way}->("$path?$query", $n, %who);
            $app->await_arrival($path);
            $redis->stall;
            $app->open_gate($n);
            $app->await_answer($path);
            nginx_has_seen_all();
            $client->leave;
            nginx_has_seen_all();
            $redis->resume;
            ok retry("$path?$query", $n)->is_replay, "the client disconnects while its response is being kept ($what)";
            is $app->count($path), 1, "the application executed the request once ($what)";
        }
    }
}

# A client that stops reading for longer than send_timeout.
for my $where (map { m{^location /([a-z-]+)/ } ? $1 : () } @locations) {
    for my $protocol ('HTTP/1.1', 'HTTP/2, its stream reset') {
        my $what = "$where, $protocol";
        my %request = (
            kept => ["/$where/stalled" . ++$n, 'kind=binary&size=900000'],
            passed => ["/$where/small/stalled$n", "kind=binary&size=20000000&framing=chunked&pieces=20"],
        );
        for my $name (sort keys %request) {
            my ($path, $query) = @{$request{$name}};
            push @stalled, [$name, $path, "$path?$query", "$what, $name", $way{$protocol}->("$path?$query", $path, %who)];
        }
    }
}

for (@stalled) {
    my ($name, $path, $uri, $what, $client) = @$_;
    $app->await_answer($path) if $name eq 'kept';
    my $retry = retry($uri, $path);
    $name eq 'kept' ? ok $retry->is_replay, "a client does not read its response: it is kept ($what)"
        : is_problem $retry, 409, 'response_not_kept', "a client does not read its large response ($what)";
    is $app->count($path), 1, "the application executed the request once ($what)";
}

# no request waited longer than this
ok $nginx->await_access_log(qr{^POST \Q$_->[2]\E }), "and its connection is closed ($_->[3])" for @stalled;

# A worker that gets QUIT finishes its exchanges after their clients have disconnected.
for my $where (map { m{^location /([a-z-]+)/ } ? $1 : () } @locations) {
    my @path = map { "/$where/quit" . ++$n } 1 .. keys %way;
    my $i = 0;
    for my $way (sort keys %way) {
        my $path = $path[$i++];
        my $client = $way{$way}->("$path?kind=binary&size=100000&gate=$where-quit", $path, %who);
        $app->await_arrival($path);
        $client->leave;
    }
    my @old = $nginx->workers;
    $nginx->reload(requests_run => 1);
    $app->open_gate("$where-quit");
    $app->await_answer($_) for @path;
    for my $path (@path) {
        my $retry = retry("$path?kind=binary&size=100000&gate=$where-quit", $path);
        ok $retry->is_replay && size_of($where, $retry) == 100_000, "kept by a worker that quits ($path)" or diag $retry->head;
        is $app->count($path), 1, "the application executed the request once ($path)";
    }
    ok await(sub { !grep { kill 0 => $_ } @old }), "and then it ends ($where)";
}

$nginx->stop;
done_testing;
