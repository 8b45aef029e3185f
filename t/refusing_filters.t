# A later filter refuses a response, the first one or a replay, and an `error_page` follows: no content handler gets the request a second
# time with its method and its body.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Nginx;

my @modules = IdempotencyTest::Nginx->available_modules('ndk_http_module', 'ngx_http_lua_module');
plan skip_all => 'nginx is here without Lua' if @modules < 2;

my $nginx = IdempotencyTest::Nginx->new(workers => 1, main => IdempotencyTest::Nginx->load(@modules));
my $relay = $nginx->directory . '/relay.sock';
my $refuse = 'header_filter_by_lua_block { ngx.exit(500) } error_page 500 =';

# `relay` gets a request as soon as nginx has connected
$nginx->set(http => <<"END", server => <<"END")->start;
    server {
        listen unix:$relay;
        location / { proxy_ignore_client_abort on; proxy_pass http://app; }
    }
END
        idempotency main;
        location /held/ { $refuse \@other; proxy_pass http://app; }
        location /stream/ { idempotency_stream text/plain; $refuse \@other; proxy_pass http://app; }
        location /large/ { idempotency_max_body 10; $refuse \@other; proxy_pass http://app; }
        location /page/ { header_filter_by_lua_block { if ngx.var.uri ~= '/error' then ngx.exit(500) end } error_page 500 /error; proxy_pass http://app; }
        location = /error { internal; proxy_pass http://unix:$relay; }
        location \@other { rewrite ^ /other break; proxy_pass http://unix:$relay; }
END

for my $kind (qw(held stream large page)) {
    my %request = (path => "/$kind/a?size=200&header=Content-Type:text/plain", key => $kind, body => 'body', headers => ['X-API-Key: alice']);

    is $nginx->request(%request)->status, 500, "$kind: the filter refuses the response" if $kind ne 'page';
    $nginx->request(%request) for 1 .. 2;
    is app()->count("/$kind/a"), 1, "$kind: the application runs once";
}

is app()->count('/other'), 0, 'the named location of the error page gets nothing, and neither do retries';
unlike $nginx->error_log, qr/\[alert\]/, 'no worker has died';
$nginx->stop;
done_testing;
