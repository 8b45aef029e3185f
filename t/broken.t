# Exchanges with the application that end without a complete response.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::App;
use IdempotencyTest::Assertions;
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Leave qw(leave_listeners leave_ways);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await dead_port free_port);
use IdempotencyTest::Requests qw(@who);

my $app = IdempotencyTest::App->new(gateways => 1);
my $space = $app->space;
my @protocols = qw(proxy fastcgi grpc scgi uwsgi);
my $closed = "127.0.0.1:" . dead_port();

# The directives that pass a request to `to`.
sub pass_to {
    my ($protocol, $to) = @_;
    my $scheme = {proxy => 'http://', grpc => 'grpc://'}->{$protocol} // '';
    my $how = "${protocol}_pass $scheme$to; ${protocol}_read_timeout 200ms;";
    return "$how grpc_set_header App-Space $space;" if $protocol eq 'grpc';
    return $how if $protocol eq 'proxy';
    return join ' ', $how, map { "${protocol}_param $_;" } 'REQUEST_METHOD $request_method', 'REQUEST_URI $request_uri',
        'CONTENT_LENGTH $content_length', "HTTP_APP_SPACE $space";
}

sub location {
    my ($path, $protocol, $to, $more) = @_;
    my $pass = pass_to($protocol, $to);
    my @nested = map { "location $path$_/ { idempotency_unknown " . ($_ eq 'hold' ? 'hold 2s' : $_) . "; $more $pass }" } qw(hold release store);
    return "location $path { $more $pass @nested }";
}

my $nginx = IdempotencyTest::Nginx->new(application => $app);
my $leave = leave_listeners($nginx);
$nginx->set(http => <<"END", server => join "\n        ", $leave, 'idempotency main;', 'idempotency_lease 2s;',
    upstream none { server $closed down; server $closed down; }
    upstream refused { server $closed; server $closed; }
END
    'location /plain/ { idempotency off; proxy_pass http://app; }',
    (map { location("/$_/", $_, $_ eq 'proxy' ? 'app' : $app->gateway($_), '') } @protocols),
    (map { location("/$_-unbuffered/", $_, $_ eq 'proxy' ? 'app' : $app->gateway($_), "${_}_buffering off;") } grep { $_ ne 'grpc' } @protocols),
    (map { location("/refused-$_/", $_, 'refused', '') } @protocols),
    (map { location("/none-$_/", $_, 'none', '') } @protocols),
    'location /mended/ { proxy_pass http://app; }',
)->start;

my $n = 0;

# A server that can't be reached: the request was not executed.
for my $protocol (@protocols) {
    for my $why (qw(refused none)) {
        for my $policy ('', qw(hold/ release/ store/)) {
            my $path = "/$why-$protocol/${policy}x";
            for my $try (1, 2) {
                my $answer = $nginx->request(path => $path, key => $path, @who);
                ok $answer->status == 502 && !$answer->is_replay && $answer->code eq '',
                    "a server that can't be reached: the key stays free ($path, $try)" or diag $answer->head . $answer->body;
            }
        }
    }
}

# When the server is available again the request runs.
{
    my $port = free_port();
    my $own = IdempotencyTest::Nginx->new(application => $app);
    $own->set(server => "idempotency main; location / { proxy_pass http://127.0.0.1:$port; }")->start;
    is $own->request(path => '/mended', key => 'mended', @who)->status, 502, 'refused';
    my $second = IdempotencyTest::App->new(port => $port);
    is_first $own->request(path => '/mended', key => 'mended', @who), 201, 1, 'and run when the server is available';
    $own->stop;
}

# The request was sent, and no complete response came.
my %broken = (
    closed => ['abort=before', 502],
    reset => ['abort=reset', 502],
    nonsense => ['abort=garbage', 502],
    late => ['gate=never', 504],
    truncated => ['abort=mid&kind=binary&size=50000', 502],
    'truncated chunks' => ['abort=mid&kind=binary&size=50000&framing=chunked', 502],
    'ill-formed chunks' => ['abort=chunk&kind=binary&size=50000&framing=chunked', 502],
    'late in the middle' => ['middle=never&pieces=2&kind=binary&size=50000', 502],
);

sub broken_names {
    my ($protocol) = @_;
    # with these protocols a response without a length ends with its connection; and not every test has to wait
    return grep { !(/chunks/ && $protocol !~ /proxy/ || /late/ && $protocol =~ /cgi-unbuffered/) } sort keys %broken;
}

# The 502 and 504 of nginx, and the problem responses of this module.
sub has_own_page { return $_[0] !~ /truncated|middle|chunks/ }

my @held;
for my $where (@protocols, map { "$_-unbuffered" } grep { $_ ne 'grpc' } @protocols) {
    for my $name (broken_names($where)) {
        my ($query, $status) = @{$broken{$name}};
        my $what = "$name, $where";

        {
            my $path = "/$where/hold/b" . ++$n;
            my $answer = $nginx->request(path => "$path?$query", key => $path, @who);
            is $answer->status, $status, "the client is told ($what)" or diag $answer->status_line;
            ok !$answer->is_replay, "and it is the first execution ($what)";
            my $retry = $nginx->request(path => "$path?$query", key => $path, @who);
            is_problem $retry, 409, 'outcome_unknown', "hold: its outcome is unknown ($what)";
            like $retry->header('Retry-After') // '', qr/^[123]$/, "Retry-After is the rest of the hold ($what)";
            is $app->count($path), 1, "hold: the application executed the request once ($what)";
            push @held, [$path, $query, $status, $what];
        }

        {
            my $path = "/$where/release/b" . ++$n;
            for my $try (1, 2) {
                my $answer = $nginx->request(path => "$path?$query", key => $path, @who);
                ok $answer->status == $status && !$answer->is_replay, "release: told, and free again ($what, $try)" or diag $answer->head;
                is $app->count($path), $try, "release: executed ($what, $try)";
            }
        }

        {
            my $path = "/$where/store/b" . ++$n;
            my $answer = $nginx->request(path => "$path?$query", key => $path, @who);
            my $retry = $nginx->request(path => "$path?$query", key => $path, @who);
            is $answer->status, $status, "store: the client gets a 502 or 504 ($what)";
            has_own_page($name) ? is_replay_of $retry, $answer, "store: an error page is kept and replayed ($what)"
                : is_problem $retry, 409, 'outcome_unknown', "store: without an error page there is no response to keep ($what)";
            is $app->count($path), 1, "store: the application executed the request once ($what)";
        }
    }
}

# All holds end.
for (@held) {
    my ($path, $query, $status, $what) = @$_;
    my $answer;
    await(sub { $answer = $nginx->request(path => "$path?$query", key => $path, @who); $answer->code ne 'outcome_unknown' || $answer->status != 409 });
    is $answer->status, $status, "hold: run again when its hold has ended ($what)";
    is $app->count($path), 2, "by the application ($what)";
}

# Over HTTP/2, and when the client has disconnected.
{
    my %way = leave_ways($nginx);
    for my $way (sort keys %way) {
        for my $query ('abort=before&gate=left', 'abort=mid&size=50000&gate=left', 'abort=garbage&gate=left') {
            my $path = '/proxy/hold/left' . ++$n;
            my $client = $way{$way}->("$path?$query", $path, 'X-API-Key' => 'alice');
            $app->await_arrival($path);
            $client->leave;
        }
    }

    my $out = $nginx->directory . '/answer';
    for my $abort (qw(before mid reset garbage)) {
        my @curl = ('curl', '-sS', '--http2-prior-knowledge', '--unix-socket', $nginx->directory . '/h2.sock', '-X', 'POST', '-H', 'X-API-Key: alice',
            '-H', "Idempotency-Key: h2$abort", '-o', $out, '-w', '%{http_code}', "http://localhost/proxy/hold/h2$abort?abort=$abort&size=50000");
        my @answers = map { open my $in, '-|', @curl or die "curl: $!\n"; scalar <$in> } 1, 2;
        is "@answers", '502 409', "over HTTP/2 a broken exchange gives a problem response too ($abort)";
        like slurp($out), qr/"outcome_unknown"/, "its retry gets outcome_unknown ($abort)";
        is $app->count("/proxy/hold/h2$abort"), 1, "the application executed the request once ($abort)";
    }
}

$nginx->stop;
done_testing;
