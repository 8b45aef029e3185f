# Other modules in the same location. They work as without this module, are called once for each execution, and do not cause a second
# execution. Their subrequests are never covered.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Requests qw(first_and_retry);

my @modules = IdempotencyTest::Nginx->available_modules(
    qw(ndk_http_module ngx_http_lua_module ngx_http_headers_more_filter_module ngx_http_echo_module ngx_http_js_module));
my %has = map { my $name = $_; $name => scalar grep { m{\bngx_http_${name}_module} } @modules } qw(lua headers_more_filter echo js);

my $space = app()->space;
# loaded after this module: the order of `load_module` must not matter
my $nginx = IdempotencyTest::Nginx->new(main => IdempotencyTest::Nginx->load(@modules), workers => 1, log_format => '$request_method $request_uri $status [$idempotency_status]');
my $directory = $nginx->directory;
mkdir "$directory/files" or die "mkdir: $!\n";
my $sliced = join '', map { "line $_\n" } 1 .. 1000;
$nginx->write_file('files/sliced.txt', $sliced);

my %http = (core => <<"END", lua => <<'END', js => 'js_import main from main.js;');
    proxy_cache_path $directory/cache keys_zone=cache:1m;
    limit_req_zone all zone=slow:1m rate=1000r/s;
    log_format backend '\$request_uri \$http_range';
    server {
        listen unix:$directory/backend.sock;
        access_log $directory/logs/backend.log backend;
        root $directory/files;
    }
    upstream backend { server unix:$directory/backend.sock; }
END
    lua_shared_dict executions 1m;
    init_by_lua_block {
        function execute(name)
            local n = ngx.shared.executions:incr(name or ngx.var.uri, 1, 0)
            return n
        end
    }
END

$nginx->write_file('main.js', <<'END') if $has{js};
function answer(r) {
    r.subrequest('/sub/js', {method: 'POST', body: 'sub', args: r.variables.args || ''}, reply => r.return(201, `js ${reply.responseText}`));
}
function redirect(r) { r.internalRedirect('@app'); }
function add_header(r) { r.headersOut['X-Js'] = (r.headersOut['X-Js'] || '') + 'js'; delete r.headersOut['Content-Length']; }
function add_body(r, data, flags) { r.sendBuffer(flags.last ? data + 'js' : data, flags); }
export default {answer, redirect, add_header, add_body};
END

my %server = (core => <<"END", lua => <<'END', js => <<'END', echo => <<'END', headers_more_filter => <<'END');
        idempotency main;
        location / { proxy_pass http://app; }
        location \@app { proxy_pass http://app; }
        location /streamed/ {
            idempotency_fingerprint "\$request_method \$request_uri" body=off;
            proxy_request_buffering off;
            proxy_pass http://app;
        }
        location /sub/ { internal; idempotency_methods GET POST; proxy_pass http://app; }

        location /cached/ {
            proxy_cache cache; proxy_cache_methods POST; proxy_cache_key \$uri; proxy_cache_valid any 1h; proxy_cache_lock on;
            proxy_cache_use_stale error timeout http_500;
            add_header X-Cache \$upstream_cache_status;
            proxy_pass http://app;
        }
        location /mirrored/ { mirror /sub/mirror; proxy_pass http://app; }
        location /mirrored/streamed/ {
            idempotency_fingerprint "\$request_method \$request_uri" body=off; mirror /sub/mirror-streamed; proxy_pass http://app;
        }
        location /followed/ { post_action \@followed; proxy_pass http://app; }
        location \@followed { rewrite ^ /followed-by? break; proxy_pass http://app; }
        location /limited/ { limit_rate 1m; limit_rate_after 64k; proxy_pass http://app; }
        location /limited/upstream/ { proxy_buffering on; proxy_limit_rate 1m; proxy_pass http://app; }
        location /sliced/ { idempotency_methods GET; slice 1k; proxy_set_header Range \$slice_range; proxy_pass http://backend/; }
        location /sliced/app/ {
            idempotency_methods GET; slice 1k; proxy_set_header Range \$slice_range; proxy_set_header App-Space $space; proxy_pass http://app;
        }
END
        location = /executions { idempotency off; content_by_lua_block { ngx.print(ngx.shared.executions:get(ngx.var.arg_name) or 0) } }
        location /lua/say {
            content_by_lua_block {
                local n = execute()
                ngx.status = 201
                ngx.header["X-Lua"] = {"a", "b"}
                ngx.say("#", n)
                ngx.flush(true)
                ngx.sleep(0.01)
                ngx.say("more")
            }
        }
        location /lua/eof { content_by_lua_block { ngx.say("#", execute()); ngx.eof(); ngx.sleep(0.05); execute("/lua/after-eof") } }
        location /lua/silent { content_by_lua_block { execute(); ngx.exit(204) } }
        location /lua/busy { content_by_lua_block { execute(); ngx.exit(503) } }
        location /lua/error { content_by_lua_block { execute(); error("on purpose") } }
        location /lua/exec { content_by_lua_block { execute(); ngx.exec("@app") } }
        location /lua/exec-file { content_by_lua_block { execute(); ngx.exec("/lua/say") } }
        location /lua/capture {
            content_by_lua_block {
                local reply = ngx.location.capture("/sub/lua", {method = ngx.HTTP_POST, body = "sub", args = ngx.var.args})
                ngx.status = reply.status
                ngx.print("#", execute(), " ", reply.body)
            }
        }
        location /lua/body {
            rewrite_by_lua_block { ngx.req.read_body() }
            proxy_pass http://app;
        }
        location /lua/access {
            access_by_lua_block { if ngx.var.http_x_token ~= "good" then ngx.exit(403) end }
            proxy_pass http://app;
        }
        location /lua/key {
            rewrite_by_lua_block { ngx.req.set_header("Idempotency-Key", ngx.var.arg_key) }
            proxy_pass http://app;
        }
        location /lua/filter {
            header_filter_by_lua_block { ngx.header["X-Lua"] = (ngx.header["X-Lua"] or "") .. "lua"; ngx.header.content_length = nil }
            body_filter_by_lua_block { if ngx.arg[2] then ngx.arg[1] = ngx.arg[1] .. "lua" end }
            log_by_lua_block { execute("/lua/log/" .. ngx.var.idempotency_status) }
            proxy_pass http://app;
        }
        location /lua/redirected/ { proxy_pass http://app; }
END
        location /js/content { js_content main.answer; }
        location /js/redirect { js_content main.redirect; }
        location /js/filter { js_header_filter main.add_header; js_body_filter main.add_body; proxy_pass http://app; }
END
        location /echo/lines { echo first; echo_flush; echo_sleep 0.01; echo second; }
        location /echo/sub { echo begin; echo_location /sub/echo; echo middle; echo_location_async /sub/echo2; echo end; }
        location /echo/left { echo_location /sub/echo-left $args; echo end; }
        location /echo/exec { echo_exec @app; }
        location /echo/body { echo_read_request_body; echo_request_body; }
        location /echo/around { echo_before_body before; echo_after_body after; proxy_pass http://app; }
        location /echo/redirected/ { proxy_pass http://app; }
END
        location /more/ {
            more_set_headers 'X-More: $request_id' 'X-Replaced: more';
            more_clear_headers X-Cleared;
            proxy_pass http://app;
        }
        location /more/key { more_set_input_headers 'Idempotency-Key: $arg_key'; proxy_pass http://app; }
END

my @present = ('core', grep { $has{$_} } keys %has);
$nginx->set(http => join("\n", map { $http{$_} // () } @present), server => join("\n", map { $server{$_} } @present))->start;

my $keys = 0;

sub ask {
    my ($path, $key, %request) = @_;
    $request{headers} = ['X-API-Key: alice', @{$request{headers} || []}];
    return $nginx->request(path => $path, key => $key, %request);
}

sub pair {
    my ($path, %request) = @_;
    return first_and_retry($nginx, $path, 'key-' . ++$keys, %request, headers => ['X-API-Key: alice', @{$request{headers} || []}]);
}

# A client disconnects while the Nth execution of the subrequest runs. Returns the final response to its retry.
sub leave {
    my ($path, $sub, $n) = @_;
    my $key = 'left-' . ++$keys;
    my $client = $nginx->send_request(path => "$path?gate=$key", key => $key, headers => ['X-API-Key: alice']);
    app()->await_arrival($sub, $n);
    $client->close;
    # the only worker has handled that when it responds to another request
    $nginx->request(path => '/plain');
    app()->open_gate($key);
    my $retry;
    await(sub { $retry = ask("$path?gate=$key", $key); $retry->code ne 'request_in_progress' });
    return $retry;
}

sub ran {
    my ($path, $n, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is app()->count($path), $n, $name;
}

# proxy_cache

{
    my ($first, $retry) = pair('/cached/a');
    is_first $first, 201, 1, 'a response that is cached';
    is $first->header('X-Cache'), 'MISS', 'from an empty cache';
    ok $retry->is_replay && $retry->body eq $first->body, 'its retry gets a replay';
    my ($hit, $again) = pair('/cached/a');
    is $hit->header('X-Cache'), 'HIT', 'another key gets the cached response';
    is $hit->body, $first->body, 'the cached response is the first one';
    ok $again->is_replay && $again->body eq $hit->body, 'and its retry gets the same response';
    ran '/cached/a', 1, 'the application ran once';
    is $again->header('X-Cache'), undef, 'the cache is not used for a replay';

    my $client = $nginx->send_request(path => '/cached/left?gate=cached', key => 'cached', headers => ['X-API-Key: alice']);
    app()->await_arrival('/cached/left');
    my $other = $nginx->send_request(path => '/cached/left?gate=cached', key => 'cached-other', headers => ['X-API-Key: alice']);
    $client->close;
    app()->open_gate('cached');
    is $other->response->status, 201, 'a request that waits for the cache gets the response';
    my $retried;
    await(sub { $retried = ask('/cached/left?gate=cached', 'cached'); $retried->code ne 'request_in_progress' });
    ok $retried->is_replay, 'a retry of the disconnected client gets a replay';
    ran '/cached/left', 1, 'of the only execution';
}

# mirror

for my $case (['/mirrored/a', '/sub/mirror'], ['/mirrored/streamed/a', '/sub/mirror-streamed']) {
    my ($path, $mirror) = @$case;
    my ($first, $retry) = pair($path, body => 'the body');
    my $other = ask("$path?other", "key-$keys", body => 'another');
    is_first $first, 201, 1, "a request is mirrored ($path)";
    is_replay_of $retry, $first, "and replayed ($path)";
    is_problem $other, 422, 'idempotency_key_reused', "another request is refused ($path)";
    app()->await_answer($mirror);
    # the end of another mirror subrequest shows that no more will come
    ask("$path-last", "$path-last", body => 'last');
    app()->await_answer($mirror, 2);
    ran $mirror, 2, "neither a replay nor a refusal is mirrored ($path)";
    ran $path, 1, "the application ran once ($path)";
    is app()->last_request($mirror)->{length}, 4, "with its body ($path)";
}

# post_action runs for each request, as without this module

{
    my ($first, $retry) = pair('/followed/a');
    is_first $first, 201, 1, 'a request with a post_action';
    is_replay_of $retry, $first, 'its retry gets a replay';
    app()->await_answer('/followed-by', 2);
    ran '/followed-by', 2, 'the post_action runs after both, and is not covered though it has the key';
    ran '/followed/a', 1, 'the application ran once';
    is_replay_of ask('/followed/a', "key-$keys"), $first, 'and the kept response is not changed';
}

# limit_rate

for my $path ('/limited/a', '/limited/upstream/a') {
    my ($first, $retry) = pair("$path?kind=binary&size=300000");
    is length $first->body, 300_000, "a response with a limited rate is complete ($path)";
    is_replay_of $retry, $first, "and so is its replay ($path)";
    ran $path, 1, "the application ran once ($path)";
}

# slice: a response that is made of several subrequests can't be kept

sub backend_log { return scalar split /\n/, slurp("$directory/logs/backend.log") }

{
    my ($first, $retry) = pair('/sliced/sliced.txt', method => 'GET');
    is $first->status, 200, 'a sliced response is delivered';
    ok $first->body eq $sliced, 'whole';
    ok await(sub { backend_log() >= int(length($sliced) / 1024) + 1 }), 'it was requested in slices';
    my $asked = backend_log();
    is_problem $retry, 409, 'response_not_kept', 'its retry gets response_not_kept';
    is ask('/sliced/sliced.txt', 'other', method => 'GET')->body, $sliced, 'another key gets the response';
    ok await(sub { backend_log() == 2 * $asked }), 'from the application, which did not get the retry';

    ($first, $retry) = pair('/sliced/app/a', method => 'GET');
    is_first $first, 201, 1, 'the response of an application without ranges';
    is_replay_of $retry, $first, 'is replayed with and without slices';
    ran '/sliced/app/a', 1, 'the application ran once';
}

# Lua

sub lua_ran {
    my ($name, $n, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is $nginx->request(method => 'GET', path => "/executions?name=$name")->body, $n, $what;
}

# The first request gets this status, its retry is a replay, and the handler ran once.
sub lua_is_kept {
    my ($path, $status, $what) = @_;
    my ($first, $retry) = pair($path);
    is $first->status, $status, $what;
    is_replay_of $retry, $first, 'its retry gets a replay';
    lua_ran $path, 1, 'it was executed once';
}

SKIP: {
    skip 'no Lua module for this nginx', 1 if !$has{lua};

    my ($first, $retry) = pair('/lua/say');
    is $first->status . $first->body, "201#1\nmore\n", 'content_by_lua sends a response';
    is join(',', $retry->headers('X-Lua')), 'a,b', 'the replay has its fields';
    is_replay_of $retry, $first, 'and its retry gets a replay';
    lua_ran '/lua/say', 1, 'it was executed once';

    ($first, $retry) = pair('/lua/eof');
    is $first->body, "#1\n", 'content_by_lua continues after its response';
    ok await(sub { ask('/lua/eof', "key-$keys")->is_replay }), 'the response is kept';
    ok await(sub { $nginx->request(method => 'GET', path => '/executions?name=/lua/after-eof')->body == 1 }), 'the handler runs to its end';
    lua_ran '/lua/eof', 1, 'it was executed once';

    lua_is_kept '/lua/silent', 204, 'content_by_lua without a body';

    pair('/lua/busy');
    lua_ran '/lua/busy', 2, 'a 503 of content_by_lua frees the key';

    lua_is_kept '/lua/error', 500, 'content_by_lua with an error';

    ($first, $retry) = pair('/lua/exec');
    is_first $first, 201, 1, 'ngx.exec';
    is_replay_of $retry, $first, 'its retry gets a replay';
    lua_ran '/lua/exec', 1, 'it was executed once';
    ran '/lua/exec', 1, 'and so did the application';

    lua_is_kept '/lua/exec-file', 201, 'ngx.exec to another content_by_lua';

    # the upstream before the redirect has ended; a flush is not the end of this response
    ($first, $retry) = pair('/lua/redirected/a?header=X-Accel-Redirect:/lua/say');
    like $first->body, qr/^#\d\nmore\n$/, 'X-Accel-Redirect to content_by_lua that flushes';
    is_replay_of $retry, $first, 'its retry gets a replay';
    ran '/lua/redirected/a', 1, 'the application ran once';

    ($first, $retry) = pair('/lua/capture');
    is $first->body, "#1 #1 POST /sub/lua a1d4b5a3af09\n" =~ s/ \w+\n$//r . $first->body =~ s/.*( \w+\n)$/$1/sr, 'ngx.location.capture';
    is_replay_of $retry, $first, 'its retry gets a replay';
    lua_ran '/lua/capture', 1, 'it was executed once';
    ran '/sub/lua', 1, 'and so did the application';
    my ($other) = pair('/lua/capture');
    ran '/sub/lua', 2, 'the subrequest is not covered';

    ($first, $retry) = pair('/lua/body', body => 'x' x 200_000);
    is_first $first, 201, 1, 'a body that Lua has read';
    is_replay_of $retry, $first, 'its retry gets a replay';
    is_problem ask('/lua/body', "key-$keys", body => 'y' x 200_000), 422, 'idempotency_key_reused', 'and is part of the fingerprint';
    ran '/lua/body', 1, 'the application ran once';

    my @answers = map { ask('/lua/access', 'access', headers => ["X-Token: $_"]) } qw(bad good bad good);
    is join(',', map { $_->status } @answers), '403,201,403,201', 'access_by_lua refuses';
    ok !$answers[2]->is_replay && $answers[3]->is_replay, 'before anything is replayed';
    ran '/lua/access', 1, 'or claimed';

    @answers = map { $nginx->request(path => "/lua/key?key=$_", headers => ['X-API-Key: alice']) } qw(a a b);
    is join(',', map { $_->is_replay ? 1 : 0 } @answers), '0,1,0', 'a key may come from Lua';
    ran '/lua/key', 2, 'the application ran once for each';

    ($first, $retry) = pair('/lua/filter?header=X-Lua:app');
    is $first->header('X-Lua'), 'applua', 'header_filter_by_lua';
    is $first->body, "#1 POST /lua/filter?header=X-Lua:app -\nlua", 'and body_filter_by_lua';
    is_replay_of $retry, $first, 'are applied once to a replay';
    ran '/lua/filter', 1, 'the application ran once';
    ok await(sub { $nginx->request(method => 'GET', path => '/executions?name=/lua/log/REPLAYED')->body == 1 }), 'log_by_lua has the status';

    ok leave('/lua/capture', '/sub/lua', 3)->is_replay, 'content_by_lua continues after its client has disconnected';
    ran '/sub/lua', 3, 'and it runs once';
}

# njs

SKIP: {
    skip 'no njs module for this nginx', 1 if !$has{js};

    my ($first, $retry) = pair('/js/content', body => 'main');
    like $first->body, qr{^js #1 POST /sub/js}, 'js_content with a subrequest';
    is_replay_of $retry, $first, 'its retry gets a replay';
    ran '/sub/js', 1, 'the application ran once';
    pair('/js/content', body => 'main');
    ran '/sub/js', 2, 'and is not covered as a subrequest';
    ok leave('/js/content', '/sub/js', 3)->is_replay, 'js_content continues after its client has disconnected';
    ran '/sub/js', 3, 'and it runs once';

    ($first, $retry) = pair('/js/redirect', body => 'main');
    is_first $first, 201, 1, 'r.internalRedirect';
    is_replay_of $retry, $first, 'its retry gets a replay';
    ran '/js/redirect', 1, 'the application ran once';

    ($first, $retry) = pair('/js/filter?header=X-Js:app');
    is $first->header('X-Js'), 'appjs', 'js_header_filter';
    like $first->body, qr/js$/, 'and js_body_filter';
    is_replay_of $retry, $first, 'are applied once to a replay';
    ran '/js/filter', 1, 'the application ran once';
}

# echo

SKIP: {
    skip 'no echo module for this nginx', 1 if !$has{echo};

    my ($first, $retry) = pair('/echo/lines');
    is $first->body, "first\nsecond\n", 'echo sends a response';
    is_replay_of $retry, $first, 'and its retry gets a replay';

    ($first, $retry) = pair('/echo/redirected/a?header=X-Accel-Redirect:/echo/lines');
    is $first->body, "first\nsecond\n", 'X-Accel-Redirect to echo_flush';
    is_replay_of $retry, $first, 'its retry gets a replay';
    ran '/echo/redirected/a', 1, 'the application ran once';

    ($first, $retry) = pair('/echo/sub');
    is $first->body, "begin\n#1 GET /sub/echo -\nmiddle\n#1 GET /sub/echo2 -\nend\n", 'echo_location sends its parts in order';
    is_problem $retry, 409, 'response_not_kept', 'its parts cannot be captured, so the response is not kept';
    ran $_, 1, "the application ran once ($_)" for qw(/sub/echo /sub/echo2);
    pair('/echo/sub');
    ran $_, 2, "and is not covered as a subrequest ($_)" for qw(/sub/echo /sub/echo2);
    is_problem leave('/echo/left', '/sub/echo-left', 1), 409, 'response_not_kept', 'echo_location continues after its client has disconnected';
    ran '/sub/echo-left', 1, 'and it runs once';

    ($first, $retry) = pair('/echo/exec');
    is_first $first, 201, 1, 'echo_exec';
    is_replay_of $retry, $first, 'its retry gets a replay';
    ran '/echo/exec', 1, 'the application ran once';

    ($first, $retry) = pair('/echo/body', body => 'the body');
    like $first->body, qr/^the body/, 'echo_request_body';
    is_replay_of $retry, $first, 'its retry gets a replay';

    ($first, $retry) = pair('/echo/around');
    like $first->body, qr{^before\n#1 POST /echo/around -\nafter\n$}, 'echo_before_body and echo_after_body';
    is_replay_of $retry, $first, 'are applied once to a replay';
    ran '/echo/around', 1, 'the application ran once';
}

# headers-more

SKIP: {
    skip 'no headers-more module for this nginx', 1 if !$has{headers_more_filter};

    my ($first, $retry) = pair('/more/a?header=X-Cleared:1&header=X-Replaced:app&header=X-Kept:1');
    ok $retry->is_replay, 'a response with more_set_headers is replayed';
    is join(',', map { join '|', $_->headers('X-Replaced'), $_->headers('X-Kept'), $_->headers('X-Cleared') } $first, $retry), 'more|1,more|1',
        'its fields are set and cleared, once';
    isnt $retry->header('X-More'), $first->header('X-More'), 'and its fields are added again';
    ran '/more/a', 1, 'the application ran once';

    my @answers = map { $nginx->request(path => "/more/key?key=$_", headers => ['X-API-Key: alice']) } qw(more more most);
    is join(',', map { $_->is_replay ? 1 : 0 } @answers), '0,1,0', 'a key may come from more_set_input_headers';
    ran '/more/key', 2, 'the application ran once for each';
}

# The connection is usable after a response of every kind

{
    my $busy = $nginx->send_request(path => '/busy?gate=busy', key => 'busy', headers => ['X-API-Key: alice'], body => 'busy');
    app()->await_arrival('/busy');
    my $large = 'large' x 40_000;

    for my $where ('', 'streamed/') {
        my $path = "/${where}alive";
        my @requests = (
            [201, $path, 'alive', 'body'], [201, $path, 'alive', 'body'],
            [422, "$path?other", 'alive', 'body'], [422, "$path?other", 'alive', $large],
            [409, '/busy?gate=busy', 'busy', 'busy'], [400, $path, 'not a key', 'body'], [400, $path, 'not a key', $large],
            [201, "$path/large", 'large', $large], [201, "$path/large", 'large', $large],
            [404, "$path/404?status=404", '404', 'body'], [404, "$path/404?status=404", '404', 'body'],
            [502, "$path/broken?abort=before", 'broken', 'body'], [409, "$path/broken?abort=before", 'broken', 'body'], [201, "$path/end", 'end', ''],
        );
        @$_[2] = "$where$_->[2]" for grep { $_->[2] !~ /busy|not/ } @requests;

        for my $chunked (0, 1) {
            my $client = $nginx->connect;
            my $bytes = '';
            my @statuses;

            for my $request (@requests) {
                my ($status, $uri, $key, $body) = @$request;
                my %body = $chunked ? (chunks => [unpack '(a50000)*', $body]) : (body => $body);
                push @statuses, $client->send(path => $uri, key => $key, headers => ['X-API-Key: alice'], %body)->response->status;
                $bytes .= join "\r\n", "POST $uri HTTP/1.1", 'Host: localhost', 'X-API-Key: alice', "Idempotency-Key: $key",
                    'Content-Length: ' . length $body, '', $body;
            }

            my @expected = map { $_->[0] } @requests;
            $expected[11] = 409 if $chunked;    # it has broken off before
            is "@statuses", "@expected", "one request after the other ($path, " . ($chunked ? 'chunked' : 'with a length') . ')';

            # with large responses the writer would wait for the reader
            $client->send_raw($bytes, ('POST') x @requests);
            @statuses = map { $client->response->status } @requests;
            $expected[11] = 409;
            is "@statuses", "@expected", "and all at once ($path)";
        }

        ran $path, 1, "the application ran once ($path)";
        ran "$path/$_", 1, "and once for $_ ($path)" for qw(large 404 broken end);
    }

    app()->open_gate('busy');
    is_first $busy->response, 201, 1, 'the request that ran during all of this ends';
}

# The same filters, loaded before this module

{
    my @case = (
        ['/lua/filter?header=X-Lua:app', 'lua', 'X-Lua', 'applua', qr/\nlua$/],
        ['/js/filter?header=X-Js:app', 'js', 'X-Js', 'appjs', qr/js$/],
        ['/echo/around', 'echo', 'X-None', undef, qr/^before\n#\d POST[^\n]*\nafter\n$/],
        ['/more/a?header=X-Replaced:app', 'headers_more_filter', 'X-Replaced', 'more', qr/^#/],
    );
    $nginx->stop(allowed => qr{: on purpose});
    $nginx->set(main => '', modules => \@modules)->start;

    for my $case (grep { $has{$_->[1]} } @case) {
        my ($path, $module, $field, $value, $body) = @$case;
        my ($first, $retry) = pair($path);
        is $first->header($field), $value, "a filter of $module that is loaded first";
        like $first->body, $body, 'changes the response';
        ok $retry->is_replay, 'its retry gets a replay';
        is $retry->header($field), $value, 'and changes the replay once';
        is $retry->body, $first->body, 'also its body';
    }
}

$nginx->stop(allowed => qr{: on purpose});
done_testing;
