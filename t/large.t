# Responses that are larger than idempotency_max_body: they are complete, passed through, and recorded as not kept.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::App;
use IdempotencyTest::Assertions;
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Requests qw(@who await_outcome);

my $app = IdempotencyTest::App->new(gateways => 1);
my $space = $app->space;
my $nginx = IdempotencyTest::Nginx->new(application => $app, log_format => '$request_uri $status [$idempotency_status]');
my $h2 = $nginx->directory . '/h2.sock';
my $large = $nginx->write_file('large.txt', 'f' x 100_000);
my $root = $nginx->directory;
my $fastcgi = 'fastcgi_pass ' . $app->gateway('fastcgi') . ';' . join ' ', map { "fastcgi_param $_;" }
    'REQUEST_METHOD $request_method', 'REQUEST_URI $request_uri', 'CONTENT_LENGTH $content_length', "HTTP_APP_SPACE $space";

$nginx->set(server => <<"END")->start;
        listen unix:$h2 http2;
        idempotency main;
        idempotency_max_body 10k;
        location / { proxy_pass http://app; }
        location /unbuffered/ { proxy_buffering off; proxy_pass http://app; }
        location /fastcgi/ { $fastcgi }
        location /fastcgi-unbuffered/ { fastcgi_buffering off; $fastcgi }
        location /gzip/ { gzip on; gzip_types text/plain; gzip_min_length 1; proxy_pass http://app; }
        location /redirected/ { proxy_pass http://app; }
        location = /large.txt { internal; root $root; }
END

my $n = 0;
my @places = ('', 'unbuffered/', 'fastcgi/', 'fastcgi-unbuffered/');

# The client may have all of a response with a Content-Length before its outcome is recorded: a quick retry may get request_in_progress.
sub retry {
    my (%request) = @_;
    return await_outcome($nginx, delete @request{qw(path key)}, %request);
}

sub body { my ($size) = @_; return substr "#1\n" . join('', map { chr } 0 .. 255) x ($size / 256 + 1), 0, $size }

# At the limit, and one byte over it.
for my $where (@places) {
    for my $framing (qw(length chunked)) {
        for my $size (10 * 1024 - 1, 10 * 1024, 10 * 1024 + 1, 300_000) {
            my $path = "/${where}l" . ++$n;
            my $what = ($where || '/') . ", $framing, $size";
            my $uri = "$path?kind=binary&framing=$framing&size=$size";
            my $first = $nginx->request(path => $uri, key => $n, @who);
            ok $first->status == 201 && $first->body eq body($size), "a response is complete ($what)";
            my $retry = retry(path => $uri, key => $n, @who);

            if ($size <= 10 * 1024) {
                is_replay_of $retry, $first, "it is kept ($what)";
            }
            else {
                is_problem $retry, 409, 'response_not_kept', "it is not kept ($what)";
                is_problem retry(path => "$uri&other", key => $n, @who), 422, 'idempotency_key_reused', "without an effect on other requests ($what)";
            }
            is $app->count($path), 1, "the application executed the request once ($what)";
        }
    }
}

# Passed through: the rest waits until the client has the beginning.
for my $where (@places) {
    for my $framing (qw(length chunked)) {
        my $path = "/${where}l" . ++$n;
        my $what = ($where || '/') . ", $framing";
        my $uri = "$path?kind=binary&framing=$framing&size=40000&pieces=2&middle=$n";
        my $client = $nginx->send_request(path => $uri, key => $n, @who);
        ok $client->await_bytes, "the client gets the beginning before there is an end ($what)";
        is_problem retry(path => $uri, key => $n, @who), 409, 'response_not_kept', "a retry gets response_not_kept already ($what)";
        $app->open_gate($n);
        is $client->response->body, body(40000), "and then the rest ($what)";
        is $app->count($path), 1, "the application executed the request once ($what)";
    }
}

# A Content-Length is trusted: a response that is too large is not held. (With buffering nginx itself holds the head for a while.)
for my $where (grep { /unbuffered/ } @places) {
    my $path = "/${where}l" . ++$n;
    my $uri = "$path?kind=binary&size=15000&pieces=15000&middle=$n";
    my $client = $nginx->send_request(path => $uri, key => $n, @who);
    ok $client->await_bytes, 'a length that is too large is told with the header, ahead of the body (' . ($where || '/') . ')';
    $app->open_gate($n);
    is length $client->response(30)->body, 15000, 'the body follows (' . ($where || '/') . ')';
    is $app->count($path), 1, 'the application executed the request once';
}

# Retriable statuses still free the key.
for my $framing (qw(length chunked)) {
    my $path = '/l' . ++$n;
    my $uri = "$path?status=503,201&size=20000&framing=$framing";
    my $first = $nginx->request(path => $uri, key => $n, @who);
    ok $first->status == 503 && length $first->body == 20000, "a large 503 is delivered ($framing)";
    is_first retry(path => $uri, key => $n, @who), 201, 2, "and frees the key ($framing)";
}

# A response that breaks off after its beginning was passed through: the client sees that it is incomplete.
for my $where (@places) {
    for my $framing ($where =~ /fastcgi/ ? 'length' : qw(length chunked)) {
        my $path = "/${where}l" . ++$n;
        my $uri = "$path?kind=binary&size=40000&abort=mid&framing=$framing";
        my $first = $nginx->send_request(path => $uri, key => $n, @who)->response(3);
        isnt $first->status, 201, "the client sees that a large response is incomplete ($where$framing)";
        is_problem retry(path => $uri, key => $n, @who), 409, 'response_not_kept', "it is not kept ($where$framing)";
        is $app->count($path), 1, "the application executed the request once ($where$framing)";
    }
}

# The filters of nginx are applied.
{
    my $uri = '/gzip/a?size=50000&status=200';
    my $first = $nginx->request(path => $uri, key => 'gzip', headers => ['X-API-Key: alice', 'Accept-Encoding: gzip']);
    is $first->header('Content-Encoding'), 'gzip', 'a large response is compressed';
    is_problem retry(path => $uri, key => 'gzip', @who), 409, 'response_not_kept', 'and is not kept';

    $uri = '/redirected/a?header=X-Accel-Redirect:/large.txt';
    is $nginx->request(path => $uri, key => 'file', @who)->body, 'f' x 100_000, 'a large file is sent';
    is_problem retry(path => $uri, key => 'file', @who), 409, 'response_not_kept', 'and is not kept';
    is $app->count('/redirected/a'), 1, 'the application executed the request once';
}

# Over HTTP/2, with a client that reads.
for my $where (@places) {
    my $path = "/${where}h2";
    my @curl = ('curl', '-sS', '--http2-prior-knowledge', '--unix-socket', $h2, '-X', 'POST', '-H', 'X-API-Key: alice', '-H', "Idempotency-Key: h2$where",
        '-o', $nginx->directory . '/answer', '-w', '%{http_code}', "http://localhost$path?kind=binary&size=3000000&framing=chunked");
    my $code = sub { open my $in, '-|', @curl or die "curl: $!\n"; return scalar <$in> };
    is $code->(), 201, "a large response over HTTP/2 ($where)";
    ok slurp($nginx->directory . '/answer') eq body(3_000_000), "is complete ($where)";
    my $again;
    await(sub { $again = $code->(); slurp($nginx->directory . '/answer') !~ /request_in_progress/ });
    is $again, 409, "and not kept ($where)";
    is $app->count($path), 1, "the application executed the request once ($where)";
}

# The held memory is limited for responses of any size.
{
    my $own = IdempotencyTest::Nginx->new(application => $app, workers => 1);
    $own->set(server => 'idempotency main; location / { proxy_pass http://app; }')->start;
    my ($worker) = $own->workers;
    my $used = sub { slurp("/proc/$worker/status") =~ /VmHWM:\s+(\d+)/ ? $1 : 0 };
    $own->request(path => '/small', key => 'small', @who);
    my $before = $used->();
    my @answers = map { open my $in, '-|', 'curl', '-sS', '--unix-socket', $own->socket, '-X', 'POST', '-H', 'X-API-Key: alice',
        '-H', "Idempotency-Key: memory$_", '-o', '/dev/null', '-w', '%{size_download}',
        "http://localhost/memory$_?size=30000000&framing=chunked&pieces=30" or die "curl: $!\n"; $in } 1 .. 4;
    is scalar <$_>, 30_000_000, 'a very large response is complete' for @answers;
    my $grown = $used->() - $before;
    cmp_ok $grown, '<', 16 * 1024, "four responses of 30 MB increased the worker's memory by $grown KB";
    $own->stop;
}

ok $nginx->await_access_log(qr{^/l3\?.* 201 \[NEW\]}), 'the log says that this was the first execution';
$nginx->stop;
done_testing;
