# Streams are passed through and recorded as not kept; calls of gRPC with one response message are kept with their trailers.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();
use Test::More;
use IdempotencyTest::App;
use IdempotencyTest::Assertions;
use IdempotencyTest::Http2;
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Python qw(python_command);
use IdempotencyTest::Requests qw(@who);

my $app = IdempotencyTest::App->new(gateways => 1);
my $space = $app->space;
my $nginx = IdempotencyTest::Nginx->new(application => $app);
my $h2 = $nginx->directory . '/h2.sock';
my $fastcgi = 'fastcgi_pass ' . $app->gateway('fastcgi') . ';' . join ' ', map { "fastcgi_param $_;" }
    'REQUEST_METHOD $request_method', 'REQUEST_URI $request_uri', 'CONTENT_LENGTH $content_length', "HTTP_APP_SPACE $space";
my $grpc = 'grpc_pass grpc://' . $app->gateway('grpc') . "; grpc_set_header App-Space $space;";

$nginx->set(server => <<"END")->start;
        listen unix:$h2 http2;
        idempotency main;
        location / { proxy_buffering off; proxy_pass http://app; }
        location /fastcgi/ { fastcgi_buffering off; $fastcgi }
        location /grpc/ { $grpc }
        location /streaming/ { idempotency_fingerprint \$request_uri body=off; $grpc }
        location /small/ { idempotency_max_body 1k; $grpc }
        location /plain/ { idempotency off; $grpc }
END

my $n = 0;
my $events = 'header=Content-Type:text/event-stream';

# A response is passed through while its outcome is recorded in the store: a quick retry may get request_in_progress.
sub retry {
    my (%request) = @_;
    my $answer;
    await(sub { $answer = $nginx->request(%request); $answer->code ne 'request_in_progress' });
    return $answer;
}

# Server-sent events: each arrives before the next is sent.
for my $where ('', 'fastcgi/') {
    for my $type ('text/event-stream', 'text/event-stream%3Bcharset%3Dutf-8', 'TEXT/Event-Stream') {
        my $path = "/${where}events" . ++$n;
        my $uri = "$path?header=Content-Type:$type&framing=chunked&size=200&pieces=2&middle=$n";
        my $client = $nginx->send_request(path => $uri, key => $n, @who);
        ok $client->await_text(qr/#1 /), "the first event comes before the last ($where$type)";
        is_problem retry(path => $uri, key => $n, @who), 409, 'response_not_kept', "a retry gets response_not_kept while the stream runs ($where$type)";
        $app->open_gate($n);
        is length $client->response->body, 200, "then the rest arrives ($where$type)";
        is_problem retry(path => $uri, key => $n, @who), 409, 'response_not_kept', "and after the stream, too ($where$type)";
        is $app->count($path), 1, "the application executed the request once ($where$type)";
    }
}

{
    my $uri = "/busy?$events&status=503,201";
    is $nginx->request(path => $uri, key => 'busy', @who)->status, 503, 'a 503 with the type of a stream';
    is retry(path => $uri, key => 'busy', @who)->status, 201, 'still frees the key';
    my $other = $nginx->request(path => '/other?header=Content-Type:text/event-source', key => 'other', @who);
    is_replay_of $nginx->request(path => '/other?header=Content-Type:text/event-source', key => 'other', @who), $other, 'a response of another type is kept';
}

# gRPC over HTTP/2: head, messages, trailers.

sub message { my ($bytes) = @_; return pack 'CNa*', 0, length $bytes, $bytes }

sub call {
    my ($path, $key, @messages) = @_;
    my $body = $nginx->write_file('call', join '', map { message($_) } @messages);
    open my $in, '-|', python_command('grpc_call.py', $h2, $path, $body, 'x-api-key:alice', "idempotency-key:$key") or die "python3: $!\n";
    my $answer = JSON::PP::decode_json(join '', <$in>);
    my $text = sub { join "\n", map { "$_->[0]: $_->[1]" } grep { $_->[0] !~ /^(?:date|idempotent-replayed)$/ } @{$_[0]} };
    return {
        status => $answer->{headers}[0][1] // 0,
        replay => scalar(grep { $_->[0] eq 'idempotent-replayed' } @{$answer->{headers}}),
        head => $text->($answer->{headers}),
        trailers => $text->($answer->{trailers}),
        body => pack('H*', $answer->{body}),
    };
}

sub is_same_call {
    my ($retry, $first, $what) = @_;
    ok $retry->{replay}, "it is replayed ($what)";
    is $retry->{$_}, $first->{$_}, "its $_ is the same ($what)" for qw(head trailers);
    ok $retry->{body} eq $first->{body}, "its message is the same ($what)";
}

my %unary = (
    'a call' => '',
    'with trailers of its own' => '&trailer=Grpc-Message:fine&trailer=X-Trace:a&trailer=X-Trace:b&trailer=Details-Bin:AAEC',
    'large' => '&size=300000&kind=binary',
    'with an empty message' => '&size=0',
);

for my $where (qw(grpc streaming)) {
    for my $name (sort keys %unary) {
        my $path = "/$where/call" . ++$n;
        my $first = call("$path?x=1$unary{$name}", $n, 'request');
        is $first->{status}, 200, "a response of gRPC ($name, $where)";
        like $first->{trailers}, qr/^grpc-status: 0/m, "ends with its status ($name, $where)" or diag explain $first;
        like $first->{trailers}, qr/^x-trace: a\nx-trace: b/m, "and all other trailers ($name, $where)" if $name =~ /trailers/;
        is_same_call call("$path?x=1$unary{$name}", $n, 'request'), $first, "$name, $where";
        is $app->count($path), 1, "the application executed the request once ($name, $where)";
    }

    # trailers alone: an error
    my $path = "/$where/error" . ++$n;
    my $first = call("$path?kind=none&trailer=Grpc-Message:denied", $n, 'request');
    like $first->{head}, qr/^grpc-message: denied/mi, "a response with trailers only ($where)";
    is $first->{body}, '', "has no message ($where)";
    is_same_call call("$path?kind=none&trailer=Grpc-Message:denied", $n, 'request'), $first, "trailers alone, $where";
    is $app->count($path), 1, "the application executed the request once (trailers alone, $where)";
}


# Two and more messages are passed through.
for my $where (qw(grpc streaming small)) {
    my $path = "/$where/stream" . ++$n;
    my $uri = "$path?kind=binary&size=600&pieces=3";
    my $first = call($uri, $n, 'request');
    is length $first->{body}, 615, "a stream of three messages is complete ($where)";
    like $first->{trailers}, qr/^grpc-status: 0/m, "with its status ($where)";
    my $retry;
    await(sub { $retry = call($uri, $n, 'request'); $retry->{body} !~ /request_in_progress/ });
    is $retry->{status}, 409, "it is not kept ($where)";
    like $retry->{body}, qr/"response_not_kept"/, "the retry says so ($where)";
    is $app->count($path), 1, "the application executed the request once ($where)";
}

# A stream that waits for its client after a message, or after two.
for my $where (qw(grpc streaming)) {
    for my $pieces (2, 3) {
        my $path = "/$where/paused" . ++$n;
        my $client = IdempotencyTest::Http2->connect($h2);
        my $stream = $client->begin("$path?size=600&pieces=$pieces&middle=$n", 'x-api-key' => 'alice', 'idempotency-key' => $n,
            'content-type' => 'application/grpc', 'te' => 'trailers');
        $client->send_data($stream, message('request'), 1);
        ok $client->await_bytes, "a stream's first message does not wait for the next ($where, $pieces)";
        $app->open_gate($n);
        $app->await_answer($path);
        is $app->count($path), 1, "the application executed the request once ($where, $pieces)";
    }
}

# A bidirectional call: the client sends more after it has received a message.
{
    my $path = '/streaming/talk' . ++$n;
    my $client = IdempotencyTest::Http2->connect($h2);
    my $stream = $client->begin("$path?early=1&size=100", 'x-api-key' => 'alice', 'idempotency-key' => 'talk', 'content-type' => 'application/grpc', 'te' => 'trailers');
    $client->send_data($stream, message('hello'));
    ok $client->await_bytes, 'the messages of a bidirectional call are not held';
    is $app->count($path), 1, 'the application executed the request once';
    my $retry;
    await(sub { $retry = call("$path?early=1&size=100", 'talk', 'hello'); $retry->{body} !~ /request_in_progress/ });
    like $retry->{body}, qr/"response_not_kept"/, 'it is not kept';
}

# A call whose client has disconnected.
{
    my $path = '/grpc/left';
    my $client = IdempotencyTest::Http2->connect($h2);
    my $stream = $client->begin("$path?gate=left&trailer=X-A:b", 'x-api-key' => 'alice', 'idempotency-key' => 'left', 'content-type' => 'application/grpc', 'te' => 'trailers');
    $client->send_data($stream, message('request'), 1);
    $app->await_arrival($path);
    $client->reset($stream);
    $app->open_gate('left');
    $app->await_answer($path);
    my $retry;
    await(sub { $retry = call("$path?gate=left&trailer=X-A:b", 'left', 'request'); $retry->{body} !~ /request_in_progress/ });
    ok $retry->{replay}, 'a call whose client left is replayed' or diag explain $retry;
    like $retry->{trailers}, qr/^x-a: b/m, 'with its trailers';
    is $app->count($path), 1, 'the application executed the request once';
}

# Without directives of the module: as nginx does it.
like call('/plain/a?trailer=X-A:b', 'plain', 'request')->{trailers}, qr/^x-a: b/m, 'a call that is not covered has its trailers';

$nginx->stop;
done_testing;
