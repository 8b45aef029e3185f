# What frames a response, and what the request says about it: a replay has the framing of the first response; headers that are meant for the
# module reach no client; a range, an expectation, and a client that leaves change nothing.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Uncompress::Gunzip ();
use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Http2;
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);

my @modules = IdempotencyTest::Nginx->available_modules(qw(ndk_http_module ngx_http_lua_module ngx_http_js_module));
my %has = map { my $name = $_; $name => scalar grep { m{\bngx_http_${name}_module} } @modules } qw(lua js);

my $nginx = IdempotencyTest::Nginx->new(modules => \@modules, workers => 1);
my $directory = $nginx->directory;
my $h2 = "$directory/h2.sock";
mkdir "$directory/files" or die "mkdir: $!\n";
$nginx->write_file('files/sliced.txt', '0123456789');
$nginx->write_file('main.js', <<'END') if $has{js};
function answer(r) { r.headersOut['Content-Length'] = '5'; r.headersOut['Content-Type'] = 'text/plain'; r.status = 201; r.sendHeader(); r.send('hello'); r.finish(); }
export default {answer};
END

my $js = $has{js} ? 'location /js/ { js_content main.answer; } location /gzip/js/ { gzip on; gzip_types *; gzip_min_length 1; js_content main.answer; }' : '';
my $lua = $has{lua} ? <<'END' : '';
        location /lua/ { content_by_lua_block { ngx.status = 201 ngx.header['Content-Length'] = 5 ngx.print('hello') } }
        location /gzip/lua/ { gzip on; gzip_types *; gzip_min_length 1; content_by_lua_block { ngx.status = 200 ngx.header['Content-Length'] = 5 ngx.print('hello') } }
        location /abort/ { lua_check_client_abort on; content_by_lua_block {
            ngx.shared.runs:incr(ngx.var.uri, 1, 0)
            while not ngx.shared.runs:get('open') do ngx.sleep(0.02) end
            ngx.status = 201 ngx.say('done')
        } }
        location /read/ { access_by_lua_block { if ngx.var.http_x_read then ngx.req.read_body() end } proxy_pass http://app; }
        location = /open { idempotency off; content_by_lua_block { ngx.shared.runs:set('open', true) ngx.say('open') } }
        location = /runs { idempotency off; content_by_lua_block { ngx.say(ngx.shared.runs:get(ngx.var.arg_of) or 0) } }
END
my $main = $has{lua} ? 'lua_shared_dict runs 1m;' : '';
$main .= 'js_import main from main.js;' if $has{js};

$nginx->set(http => <<"END", server => <<"END")->start;
    $main
    server { listen unix:$directory/backend.sock; root $directory/files; }
    upstream backend { server unix:$directory/backend.sock; }
    charset_map windows-1251 utf-8 { E0 D0B0; E4 D0B4; }
END
        listen unix:$h2 http2;
        idempotency main;
        location / { proxy_pass http://app; }
        location /charset/ { charset utf-8; source_charset utf-8; charset_types *; proxy_pass http://app; }
        location /sliced.txt { slice 2; proxy_set_header Range \$slice_range; proxy_method GET; proxy_set_body off; proxy_cache_convert_head off; proxy_http_version 1.1; proxy_pass http://backend; }
        location /bypass/ { idempotency_bypass 1; proxy_pass http://app; }
        location /stored/ { idempotency_ttl 1h; proxy_pass http://app; }
        location /off/ { idempotency off; proxy_pass http://app; }
        location /included/ {
            idempotency_fingerprint \$request_uri body=off; client_body_in_file_only on; addition_types *; add_after_body /after;
            proxy_pass http://app;
        }
        location /after { idempotency off; proxy_pass http://app/after?status=200; }
        location /unread/ { idempotency_fingerprint \$request_uri body=off; idempotency main required; proxy_request_buffering off; proxy_pass http://app; }
        $js
        $lua
END

my $n = 0;
sub ask { my ($path, $key, @headers) = @_; return $nginx->request(path => $path, key => $key, headers => ['X-API-Key: alice', @headers]) }

# A property of all responses: one framing, and the same in a replay.
sub framing { my ($answer) = @_; return join '|', map { my $name = $_; map { "$name: $_" } $answer->headers($name) } 'Content-Length', 'Transfer-Encoding' }

my @framed = map { ["/framed$_"] } '?status=200', '?status=204&kind=none', '?framing=chunked', '?framing=close', '?size=0', '?size=0&framing=chunked', '?status=304&kind=none', '?header=Content-Length:3&kind=none&size=3&status=200';
pop @framed;
push @framed, map { ["/$_/a"], ["/gzip/$_/a", 'Accept-Encoding: gzip'] } grep { $has{$_} } qw(lua js);

for my $case (@framed) {
    my ($path, @headers) = @$case;
    $n++;
    my ($first, $retry) = map { ask($path, "framed$n", @headers) } 1, 2;
    ok $retry->is_replay, "it is a replay ($path)" or diag $retry->head;
    is framing($retry), framing($first), "with the framing of the first response ($path)";
    my @fields = split /\|/, framing($retry);
    cmp_ok scalar(@fields), '<=', 1, "and one framing ($path)";
    is $retry->body, $first->body, "and its body ($path)";
}

# X-Accel-Charset
{
    my $path = '/charset/a?header=X-Accel-Charset:windows-1251&header=Content-Type:text/plain&text=%D0%B0%D0%B4';
    my ($first, $retry) = map { ask($path, 'charset') } 1, 2;
    like $_->body, qr/\xe0\xe4/, 'a response in the charset of X-Accel-Charset is converted' for $first, $retry;
    ok $retry->is_replay, 'and its replay is, too';
}

# A range does not change what slice sends.
{
    my $client = $nginx->connect;
    $client->send(path => '/sliced.txt', key => 'slice', headers => ['X-API-Key: alice', 'Range: bytes=5-']);
    my $answer = $client->response;
    is $answer->body, '0123456789', 'a sliced response is complete' or diag $answer->head;
    is $client->send(path => '/second', key => 'second', headers => ['X-API-Key: alice'])->response->status, 201, 'the connection is in step';
}

# Headers that are meant for the module.
my $forged = 'header=Idempotent-Replayed:true&header=X-Accel-Idempotency:ttl=5';

for my $case (['/bypass/a', 'key'], ['/a', undef], ['/a', 'covered']) {
    my ($path, $key) = @$case;
    my $answer = ask("$path?$forged", $key);
    ok !$answer->header('Idempotent-Replayed') && !$answer->header('X-Accel-Idempotency'), "they reach no client ($path, " . ($key // 'no key') . ')';
}
{
    my $answer = ask("/off/a?$forged", 'off');
    ok $answer->header('Idempotent-Replayed') && $answer->header('X-Accel-Idempotency'), 'they are not touched with idempotency off';
}

# A subrequest of a filter gets the request body that is in a file.
{
    my @request = (path => '/included/a?status=200', key => 'included', headers => ['X-API-Key: alice'], body => 'x' x 100_000);
    my $first = $nginx->request(@request);
    # nginx must not be discarding the body while it sends the part: docs/guarantees.md
    my $retry = $nginx->request(@request, body => 'x');
    like $first->body, qr{^#1 POST /included/a\S* .*^#1 \w+ /after}ms, 'a part that is added by a subrequest is whole' or diag $first->body;
    ok $retry->is_replay, 'the retry is a replay';
    like $retry->body, qr{^#1 POST /included/a\S* .*^#2 \w+ /after}ms, 'with its added part' or diag $retry->body;
}

# A client that waits for 100 (Continue) is not asked for a body that nobody needs.
sub expect_continue {
    my ($path, $key, @headers) = @_;
    return $nginx->connect->send_raw(join('', map { "$_\r\n" } "POST $path HTTP/1.1", 'Host: localhost', 'Content-Length: 20000000', 'Expect: 100-continue',
        ($key ? "Idempotency-Key: $key" : ()), @headers) . "\r\n", 'POST')->response;
}

is expect_continue('/unread/a', '', 'X-API-Key: alice')->status, 400, 'a request without a key is refused without 100 (Continue)';
ask('/unread/b', 'unread');
ok expect_continue('/unread/b', 'unread', 'X-API-Key: alice')->is_replay, 'a replay comes without 100 (Continue)';

# HTTP/2: a client that leaves before its body while nginx has not sent the request on, and after.
{
    my $client = IdempotencyTest::Http2->connect($h2);
    my $stream = $client->begin('/unread/half', 'x-api-key' => 'alice', 'idempotency-key' => 'half', 'content-length' => 100);
    app()->await_arrival('/unread/half');
    $client->reset($stream);
    ok await(sub { ask('/unread/half', 'half')->status == 201 }, 10), 'an HTTP/2 client that resets its stream before its body frees the key';
}

if ($has{lua}) {
    my $client = $nginx->send_request(path => '/abort/a', key => 'abort', headers => ['X-API-Key: alice']);
    await(sub { $nginx->request(method => 'GET', path => '/runs?of=/abort/a')->body == 1 });
    $client->close;
    is $nginx->request(method => 'GET', path => '/runs?of=/abort/a')->body + 0, 1, 'nginx has seen that the client has left';
    is ask('/abort/a', 'abort')->code, 'request_in_progress', 'lua_check_client_abort does not end a covered request';
    $nginx->request(method => 'GET', path => '/open');
    my $retry;
    await(sub { $retry = ask('/abort/a', 'abort'); $retry->code ne 'request_in_progress' });
    ok $retry->is_replay, 'its response is kept' or diag $retry->head;
}

# A body that Lua has read before is digested in steps, and gives the same fingerprint.
if ($has{lua}) {
    my $body = join '', map { pack 'N', $_ } 1 .. 1_400_000;
    my %request = (path => '/read/a', key => 'read', body => $body);
    my $first = $nginx->request(%request, headers => ['X-API-Key: alice']);
    is $first->status, 201, 'a large body';
    my @clients = map { $nginx->send_request(%request, headers => ['X-API-Key: alice', 'X-Read: 1']) } 1 .. 3;
    is_replay_of $_->response, $first, 'has the same fingerprint if Lua reads it' for @clients;
    substr($request{body}, -1) = 'x';
    is_problem $nginx->request(%request, headers => ['X-API-Key: alice', 'X-Read: 1']), 422, 'idempotency_key_reused', 'and another one if its last byte differs';
    my $left = $nginx->send_request(%request, key => 'left', headers => ['X-API-Key: alice', 'X-Read: 1']);
    $left->close;
    is $nginx->request(%request, key => 'after', headers => ['X-API-Key: alice', 'X-Read: 1'])->status, 201, 'a client may leave meanwhile';
}

$nginx->stop;
done_testing;
