# How the status of a gRPC response counts, what the module itself responds to a gRPC request, and the deadline of the client.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();
use Test::More;
use IdempotencyTest::App;
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Python qw(python_command);

my $app = IdempotencyTest::App->new(gateways => 1);
my $space = $app->space;
my $nginx = IdempotencyTest::Nginx->new(application => $app);
my $h2 = $nginx->directory . '/h2.sock';
my $grpc = 'grpc_pass grpc://' . $app->gateway('grpc') . "; grpc_set_header App-Space $space;";

$nginx->set(server => <<"END")->start;
        listen unix:$h2 http2;
        idempotency main required;
        location / { $grpc }
        location /none/ { idempotency_retriable none; $grpc }
        location /cancelled/ { idempotency_retriable CANCELLED; $grpc }
        location /release/ { idempotency_unknown release; $grpc }
        location /store/ { idempotency_unknown store; $grpc }
        location /deadline/ { $grpc grpc_set_header grpc-timeout \$http_grpc_timeout; }
        location /page/ { error_page 409 \@page; $grpc }
        location \@page { return 200 "a page\\n"; }
        location /plain/ { idempotency off; $grpc }
        location /web/ { proxy_pass http://app; }
END

my $n = 0;

sub message { my ($bytes) = @_; return pack 'CNa*', 0, length $bytes, $bytes }

sub call {
    my ($uri, @headers) = @_;
    my $body = $nginx->write_file('call', message('request'));
    open my $in, '-|', python_command('grpc_call.py', $h2, $uri, $body, 'x-api-key:alice', @headers) or die "python3: $!\n";
    my $answer = JSON::PP::decode_json(join '', <$in>);
    my %field = map { @$_ } @{$answer->{headers}}, @{$answer->{trailers}};
    $field{fields} = [map { @$_ } @{$answer->{headers}}];
    $field{body} = $answer->{body};
    return \%field;
}

# Two calls, the second once the first is no longer in progress.
sub pair {
    my ($uri, @headers) = @_;
    my $first = call($uri, "idempotency-key:$n", @headers);
    my $retry;
    await(sub { $retry = call($uri, "idempotency-key:$n", @headers); ($retry->{'grpc-status'} // '') ne '10' });
    return $first, $retry;
}

my @cases = (
    # the query, where, how often it is executed, the status of the retry
    ['a status that is retriable', '/', 'kind=none&trailer=grpc-status:14', 2, 14],
    ['PERMISSION_DENIED', '/', 'kind=none&trailer=grpc-status:7', 2, 7],
    ['a status that is not', '/', 'kind=none&trailer=grpc-status:3', 1, 3],
    ['a retriable status after a message', '/', 'trailer=grpc-status:14', 1, 14],
    ['a retriable status without a message in trailers', '/', 'size=0&kind=none&trailer=grpc-status:8', 2, 8],
    ['retriable none', '/none/', 'kind=none&trailer=grpc-status:14', 1, 14],
    ['CANCELLED', '/', 'kind=none&trailer=grpc-status:1', 1, 9],
    ['DEADLINE_EXCEEDED', '/', 'kind=none&trailer=grpc-status:4', 1, 9],
    ['DEADLINE_EXCEEDED after a message', '/', 'trailer=grpc-status:4', 1, 9],
    ['DEADLINE_EXCEEDED, release', '/release/', 'kind=none&trailer=grpc-status:4', 2, 4],
    ['DEADLINE_EXCEEDED, store', '/store/', 'kind=none&trailer=grpc-status:4', 1, 4],
    ['CANCELLED that is retriable', '/cancelled/', 'kind=none&trailer=grpc-status:1', 2, 1],
    ['no-store in the trailers', '/', 'trailer=X-Accel-Idempotency:no-store', 1, 9],
    ['release in the trailers', '/', 'trailer=X-Accel-Idempotency:release', 2, 0],
    ['release in the trailers of a stream', '/', 'size=100&pieces=3&trailer=X-Accel-Idempotency:release', 2, 0],
);

for my $case (@cases) {
    my ($name, $where, $query, $executions, $status) = @$case;
    my $path = "${where}status" . ++$n;
    my ($first, $retry) = pair("$path?$query");
    is $app->count($path), $executions, "executions ($name)" or diag explain [$first, $retry];
    is $retry->{'grpc-status'}, $status, "the status that the retry gets ($name)";
    ok !exists $_->{'x-accel-idempotency'}, "X-Accel-Idempotency reaches no client ($name)" for $first, $retry;
}

# The module's own responses are trailers only.
sub is_own {
    my ($answer, $status, $message, $name) = @_;
    is $answer->{':status'}, 200, "HTTP status ($name)";
    is $answer->{'content-type'}, 'application/grpc', "media type ($name)";
    is $answer->{'grpc-status'}, $status, "gRPC status ($name)";
    like $answer->{'grpc-message'}, $message, "gRPC message ($name)";
    is $answer->{body}, '', "no body ($name)";
}

is_own call('/own?x'), 3, qr/needs an Idempotency-Key/, 'no key';
is_own call('/own?x', 'idempotency-key:' . 'x' x 300), 3, qr/exactly one Idempotency-Key/, 'a bad key';
call('/own?kind=none', 'idempotency-key:reused');
is_own call('/own?other', 'idempotency-key:reused'), 9, qr/Another request was sent/, 'another request';
is_own +(pair('/own?abort=reset'))[1], 9, qr/no complete response/, 'unknown outcome';
call('/own?trailer=X-Accel-Idempotency:no-store', 'idempotency-key:store');
is_own call('/own?trailer=X-Accel-Idempotency:no-store', 'idempotency-key:store'), 9, qr/not kept/, 'not kept';
{
    call('/page/a?trailer=X-Accel-Idempotency:no-store', 'idempotency-key:page');
    my $answer = call('/page/a?trailer=X-Accel-Idempotency:no-store', 'idempotency-key:page');
    is pack('H*', $answer->{body}), "a page\n", 'error_page takes precedence';
}

# gRPC-Web over HTTP/1.1
for my $type ('application/grpc-web+proto', 'application/grpc-web-text') {
    my $answer = $nginx->connect->send(path => '/web/own', body => 'x', headers => ['X-API-Key: alice', "Content-Type: $type"])->response;
    is $answer->status, 200, "HTTP status ($type)";
    is $answer->header('Content-Type'), $type, "media type ($type)";
    is $answer->header('grpc-status'), 3, "gRPC status ($type)";
    is $answer->header('Content-Length'), 0, "no body ($type)";
}

# The deadline of the client.
sub deadline_of { my ($path) = @_; my %field = map { lc $_->[0] => $_->[1] } @{$app->last_request($path)->{headers}}; return $field{'grpc-timeout'} }

for my $case (['/', undef], ['/deadline/', '7S'], ['/plain/', '7S']) {
    my ($where, $expected) = @$case;
    call("${where}call?kind=none", "idempotency-key:deadline$where", 'grpc-timeout:7S');
    is deadline_of("${where}call"), $expected, "the application gets the deadline only where grpc_set_header sets it ($where)";
}

$nginx->stop;
done_testing;
