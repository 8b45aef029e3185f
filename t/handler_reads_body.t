# With `body=off` a content handler reads the body itself (Lua, njs). Over HTTP/2 all of it may be there before the handler begins.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Requests qw(@who);
use IdempotencyTest::StreamClient;

# Each handler has an nginx of its own: LeakSanitizer of gcc 12 fails where both are used.
my %modules = map { $_ => [IdempotencyTest::Nginx->available_modules($_ eq 'lua' ? 'ndk_http_module' : (), "ngx_http_${_}_module")] } qw(lua js);
my @handlers = grep { my $name = $_; grep { m{\bngx_http_${name}_module} } @{$modules{$name}} } qw(lua js);
plan skip_all => 'nginx is here without Lua and njs' if !@handlers;

my $space = app()->space;
my $body_off = 'idempotency_fingerprint "$request_method $uri" body=off;';
my %locations = (js => "location /js/ { auth_request /check; $body_off js_content body.echo; }", lua => <<"END");
        location /lua/ { auth_request /check; $body_off content_by_lua_block { ngx.req.read_body() ngx.status = 201 ngx.print(ngx.req.get_body_data()) } }
        location /leaves/ {
            lua_check_client_abort on;
            $body_off
            content_by_lua_block {
                if ngx.var.uri == '/leaves/socket' then
                    ngx.req.socket():receive(8)
                else
                    ngx.req.discard_body()
                end
                ngx.shared.said:set(ngx.var.uri, true)
                while not ngx.shared.said:get('go on') do ngx.sleep(0.02) end
                ngx.status = 201 ngx.say('done')
            }
        }
        location = /said { idempotency off; content_by_lua_block { ngx.say(ngx.shared.said:get(ngx.var.arg_what) and 'yes' or 'no') } }
        location = /go_on { idempotency off; content_by_lua_block { ngx.shared.said:set('go on', true) ngx.say('yes') } }
END
my $nginx;

for my $handler (@handlers) {
    $nginx = IdempotencyTest::Nginx->new(workers => 1, modules => $modules{$handler});
    my $directory = $nginx->directory;
    $nginx->write_file('body.js', "export default { echo };\nfunction echo(r) { r.return(201, r.requestText); }\n");
    my $http = $handler eq 'js' ? "js_path $directory; js_import body from body.js;" : 'lua_shared_dict said 1m;';
    $nginx->set(http => $http, server => <<"END")->start;
        listen unix:$directory/h2.sock http2;
        idempotency main;
        $locations{$handler}
        location = /check { internal; proxy_method GET; proxy_pass_request_body off; proxy_set_header Content-Length ""; proxy_set_header App-Space $space; proxy_pass http://app/check\$request_uri; }
END

    my $client = IdempotencyTest::StreamClient->connect_http2("$directory/h2.sock");
    # the access check takes until the body is there
    my $stream = $client->send(path => "/$handler/?gate=$handler", key => $handler, body => 'the body', @who);
    app()->await_arrival("/check/$handler/");
    app()->open_gate($handler);
    my $first = $nginx->request(path => "/$handler/?gate=$handler", key => "$handler-1", body => 'the body', @who);
    is $first->body, 'the body', "$handler: a body over HTTP/1.1";

    # a stream that hangs would never end
    my $status = eval { local $SIG{ALRM} = sub { die "hangs\n" }; alarm 60; $client->await_bytes($stream) };
    alarm 0;
    is $status, 201, "$handler: and one over HTTP/2 that has arrived before the handler" or diag $@;
    ok $nginx->request(path => "/$handler/?gate=$handler", key => $handler, body => 'the body', @who)->is_replay, "$handler: its retry gets a replay";
    undef $client;
    leave() if $handler eq 'lua';
    $nginx->stop;
}

done_testing;

# nginx reads no more of a body that Lua takes from the connection, or that it has discarded.
sub leave {
    my %body = ('/leaves/socket' => [body => 'the body'], '/leaves/discarded' => [chunks => ['the body']]);
    my $said = sub { $nginx->request(method => 'GET', path => "/said?what=$_[0]")->body =~ /yes/ };

    for my $path (sort keys %body) {
        my $client = $nginx->send_request(path => $path, key => $path, @{$body{$path}}, @who);
        await(sub { $said->($path) });
        $client->close;
        ok $said->($path), "$path: nginx has seen that the client has left";
        is $nginx->request(path => $path, key => $path, @{$body{$path}}, @who)->code, 'request_in_progress', "$path: lua_check_client_abort does not end the request";
    }

    $nginx->request(method => 'GET', path => '/go_on');
    ok await(sub { $nginx->request(path => $_, key => $_, @{$body{$_}}, @who)->is_replay }), "$_: its response is kept" for sort keys %body;
}
