# The response header X-Accel-Idempotency of the application, and $idempotency_token for it.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::App;
use IdempotencyTest::Assertions;
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Requests qw(@who);

my $app = IdempotencyTest::App->new(gateways => 1);
my $space = $app->space;
my $nginx = IdempotencyTest::Nginx->new(application => $app);
my $h2 = $nginx->directory . '/h2.sock';
my $token = 'proxy_set_header Idempotency-Token $idempotency_token; proxy_set_header Connection ""; proxy_set_header App-Space ' . "$space;";
my $cgi = join ' ', map { "PROTOCOL_param $_;" } 'REQUEST_METHOD $request_method', 'REQUEST_URI $request_uri', 'CONTENT_LENGTH $content_length',
    "HTTP_APP_SPACE $space";

$nginx->set(server => join "\n        ", "listen unix:$h2 http2;", 'idempotency main;', 'idempotency_lease 2s;', 'idempotency_unknown hold 2s;',
    "location / { $token proxy_pass http://app; }",
    'location /unbuffered/ { proxy_buffering off; proxy_pass http://app; }',
    "location /token-held { idempotency_unknown hold 1s; $token proxy_pass http://app; }",
    "location /plain/ { idempotency off; $token proxy_pass http://app; }",
    'location /uncovered/ { idempotency_methods PATCH; proxy_pass http://app; }',
    'location /grpc/ { grpc_pass grpc://' . $app->gateway('grpc') . "; grpc_set_header App-Space $space; }",
    map { my $p = $_; "location /$p/ { ${p}_pass " . $app->gateway($p) . '; ' . ($cgi =~ s/PROTOCOL/$p/gr) . ' }' } qw(fastcgi scgi uwsgi))->start;

my $n = 0;

sub ask { my ($path, $key, $query) = @_; return $nginx->request(path => "$path?$query", key => $key, @who) }

sub has_no_word {
    my ($answer, $what) = @_;
    ok !grep({ defined $answer->header($_) } 'X-Accel-Idempotency'), "the word does not go on ($what)" or diag $answer->head;
}

# What a retry gets after a response with a directive.
my @words = (
    # the fields, the outcome of the response, whether the directive is valid
    [['release'], 'released', 1],
    [['RELEASE'], 'released', 1],
    [[' release '], 'released', 1],
    [['no-store'], 'not kept', 1],
    [['No-Store'], 'not kept', 1],
    [['ttl=60'], 'kept', 1],
    [['ttl=60, no-store'], 'not kept', 1],
    [['ttl=60,release'], 'released', 1],
    [['no-store, release'], 'released', 1],
    [['ttl=60', 'no-store'], 'not kept', 1],
    [['no-store', 'release'], 'released', 1],
    [[',, no-store ,'], 'not kept', 1],
    [[''], 'kept', 1],
    [['nonsense'], 'kept', 0],
    [['nonsense, release'], 'released', 0],
    [['ttl=0'], 'kept', 0],
    [['ttl=-1'], 'kept', 0],
    [['ttl=1x'], 'kept', 0],
    [['ttl='], 'kept', 0],
    [['ttl=99999999999999999999'], 'kept', 0],
    [['release=1'], 'kept', 0],
    [['no-store; release'], 'kept', 0],
);

my $escape = sub { $_[0] =~ s/([^\w-])/sprintf '%%%02x', ord $1/ger };

for (@words) {
    my ($fields, $outcome, $understood) = @$_;
    my $query = join '&', map { 'header=X-Accel-Idempotency:' . $escape->($_) } @$fields;
    my $what = join ' | ', @$fields;
    my $path = '/w' . ++$n;
    my $warnings = () = $nginx->error_log =~ /\[(?:warn|info)\].*"X-Accel-Idempotency"/g;

    my $first = ask($path, $n, $query);
    is_first $first, 201, 1, "the response is delivered ($what)";
    has_no_word $first, $what;
    is scalar(() = $nginx->error_log =~ /\[(?:warn|info)\].*"X-Accel-Idempotency"/g) - $warnings, $understood ? 0 : 1, "the log names the invalid directive, and nothing else ($what)";

    my $retry = ask($path, $n, $query);
    is_first $retry, 201, 2, "the key is free again ($what)" if $outcome eq 'released';
    is_problem $retry, 409, 'response_not_kept', "the response is not kept ($what)" if $outcome eq 'not kept';
    is_replay_of $retry, $first, "the response is kept ($what)" if $outcome eq 'kept';
    has_no_word $retry, "retry, $what";
    is $app->count($path), $outcome eq 'released' ? 2 : 1, "the application has executed the request this often ($what)";
}

# The same with other upstream protocols, and for large responses.
for my $where (qw(/unbuffered /fastcgi /scgi /uwsgi /grpc)) {
    my $path = "$where/w" . ++$n;
    my $first = ask($path, $n, 'header=X-Accel-Idempotency:release');
    has_no_word $first, $where;
    ask($path, $n, 'header=X-Accel-Idempotency:release');
    is $app->count($path), 2, "release ($where)";

    $path = "$where/w" . ++$n;
    ask($path, $n, 'header=X-Accel-Idempotency:no-store');
    is_problem ask($path, $n, 'header=X-Accel-Idempotency:no-store'), 409, 'response_not_kept', "no-store ($where)";
    is $app->count($path), 1, "the application executed the request once ($where)";
}

for my $word (qw(release no-store)) {
    my $path = '/w' . ++$n;
    my $query = "header=X-Accel-Idempotency:$word&size=2000000&kind=binary&framing=chunked";
    my $first = ask($path, $n, $query);
    ok $first->status == 201 && length $first->body == 2_000_000, "too large, and $word: delivered";
    has_no_word $first, "too large, $word";
    my $retry;
    await(sub { $retry = ask($path, $n, $query); $retry->code ne 'request_in_progress' });
    $word eq 'release' ? ok(length $retry->body == 2_000_000, 'too large, and released: run again') : is_problem $retry, 409, 'response_not_kept', 'too large, no-store';
}

# Directives against the meaning of the status.
is ask('/busy', 'busy', 'status=503,201&header=X-Accel-Idempotency:no-store')->status, 503, 'a 503 with a directive to keep it';
is_problem ask('/busy', 'busy', 'status=503,201&header=X-Accel-Idempotency:no-store'), 409, 'response_not_kept', 'is not run again';
is ask('/fine', 'fine', 'status=200&header=X-Accel-Idempotency:release')->status, 200, 'a 200 with a directive to release the key';
is_first ask('/fine', 'fine', 'status=200&header=X-Accel-Idempotency:release'), 200, 2, 'is run again';

# How long a response is kept.
{
    is_first ask('/ttl', 'ttl', 'header=X-Accel-Idempotency:ttl%3D1'), 201, 1, 'a response that is kept for a second';
    ok ask('/ttl', 'ttl', 'header=X-Accel-Idempotency:ttl%3D1')->is_replay, 'is replayed within this second';
    my $answer;
    ok await(sub { $answer = ask('/ttl', 'ttl', 'header=X-Accel-Idempotency:ttl%3D1'); !$answer->is_replay }), 'and not later';
    is_first $answer, 201, 2, 'then the request runs again';

    is_first ask('/short', 'short', 'header=X-Accel-Idempotency:no-store,ttl%3D1'), 201, 1, 'a response that is recorded as not kept for a second';
    is_problem ask('/short', 'short', 'header=X-Accel-Idempotency:no-store,ttl%3D1'), 409, 'response_not_kept', 'is known for this second';
    ok await(sub { $answer = ask('/short', 'short', 'header=X-Accel-Idempotency:no-store,ttl%3D1'); $answer->status == 201 }), 'and not longer';
}

# An application can't make a response look like a replay.
ok !ask('/claims', 'claims', 'header=Idempotent-Replayed:true')->is_replay, 'only a replay has the mark of a replay';

# HTTP/2: the header is removed as well.
{
    open my $in, '-|', 'curl', '-sSi', '--http2-prior-knowledge', '--unix-socket', $h2, '-X', 'POST', '-H', 'X-API-Key: alice', '-H', 'Idempotency-Key: h2',
        'http://localhost/h2?header=X-Accel-Idempotency:release' or die "curl: $!\n";
    my $answer = join '', <$in>;
    like $answer, qr/^HTTP\/2 201/, 'the response comes over HTTP/2';
    unlike $answer, qr/^x-accel/mi, 'X-Accel-Idempotency is not passed on either';
}

# It is removed wherever `idempotency` is on, also from the response to a request that is not covered.
is ask('/uncovered/a', 'plain', 'header=X-Accel-Idempotency:release')->header('X-Accel-Idempotency'), undef, 'from the response to a request that is not covered';
is ask('/plain/a', 'plain', 'header=X-Accel-Idempotency:release')->header('X-Accel-Idempotency'), 'release', 'with idempotency off it is not removed';

# $idempotency_token grows with each claim of a key.
{
    my $token_of = sub { my ($path) = @_; return +{map { lc $_->[0] => $_->[1] } @{$app->last_request($path)->{headers}}}->{'idempotency-token'} };
    my $last = 0;

    for my $try (1 .. 5) {
        ask('/token', 'token', 'header=X-Accel-Idempotency:release');
        my $value = $token_of->('/token');
        like $value, qr/^\d+$/, 'the application gets a number as token';
        cmp_ok $value, '>', $last, 'it is greater than that of the claim before';
        $last = $value;
    }

    ask('/token-kept', 'token-kept', '');
    my $kept = $token_of->('/token-kept');
    ask('/token-kept', 'token-kept', '');
    is $token_of->('/token-kept'), $kept, 'the application gets no token for a replay';

    # a claim whose outcome was unknown
    ask('/token-held', 'held', 'abort=before,no');
    my $first = $token_of->('/token-held');
    ok await(sub { ask('/token-held', 'held', 'abort=before,no')->status == 201 }), 'a claim after a claim that was held';
    cmp_ok $token_of->('/token-held'), '>', $first, 'has a greater token';

    ask('/plain/token', 'none', '');
    is $token_of->('/plain/token'), undef, 'a request that is not covered has no token';
}

$nginx->stop;
done_testing;
