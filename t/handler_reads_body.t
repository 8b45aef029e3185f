# With `body=off` a content handler reads the body itself (Lua, njs). Over HTTP/2 all of it may be there before the handler begins.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Nginx;
use IdempotencyTest::Requests qw(@who);
use IdempotencyTest::StreamClient;

my @names = qw(ndk_http_module ngx_http_lua_module ngx_http_js_module);
my @modules = IdempotencyTest::Nginx->available_modules(@names);
plan skip_all => 'nginx is here without Lua or njs' if @modules < @names;

my $nginx = IdempotencyTest::Nginx->new(workers => 1, modules => \@modules);
my $directory = $nginx->directory;
my $space = app()->space;
my $body_off = 'idempotency_fingerprint "$request_method $uri" body=off;';
$nginx->write_file('body.js', "export default { echo };\nfunction echo(r) { r.return(201, r.requestText); }\n");
$nginx->set(http => "js_path $directory;", server => <<"END")->start;
        listen unix:$directory/h2.sock http2;
        idempotency main;
        js_import body from body.js;
        location /lua/ { auth_request /check; $body_off content_by_lua_block { ngx.req.read_body() ngx.status = 201 ngx.print(ngx.req.get_body_data()) } }
        location /njs/ { auth_request /check; $body_off js_content body.echo; }
        location = /check { internal; proxy_method GET; proxy_pass_request_body off; proxy_set_header Content-Length ""; proxy_set_header App-Space $space; proxy_pass http://app/check\$request_uri; }
END

for my $handler (qw(lua njs)) {
    my $client = IdempotencyTest::StreamClient->connect_http2("$directory/h2.sock");
    # the access check takes until the body is there
    my $stream = $client->send(path => "/$handler/?gate=$handler", key => $handler, body => 'the body', @who);
    app()->await_arrival("/check/$handler/");
    app()->open_gate($handler);
    my $first = $nginx->request(path => "/$handler/?gate=$handler", key => "$handler-1", body => 'the body', @who);
    is $first->body, 'the body', "$handler: a body over HTTP/1.1";

    # a stream that hangs would never end
    my $status = eval { local $SIG{ALRM} = sub { die "hangs\n" }; alarm 20; my $status = $client->await_bytes($stream); alarm 0; $status };
    is $status, 201, "$handler: and one over HTTP/2 that has arrived before the handler" or diag $@;
    ok $nginx->request(path => "/$handler/?gate=$handler", key => $handler, body => 'the body', @who)->is_replay, "$handler: its retry gets a replay";
}

$nginx->stop;
done_testing;
