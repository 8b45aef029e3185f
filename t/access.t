# A replay is for those alone whom the access checks let in, and a refused request claims nothing.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use IdempotencyTest 'no_plan';

run_tests();

__DATA__

=== TEST 1: auth_basic refuses before anything is replayed or claimed
--- config
location / {
    idempotency main;
    idempotency_scope off;
    auth_basic realm;
    auth_basic_user_file ../html/users;
    proxy_pass http://app;
}
--- user_files
>>> users
alice:{PLAIN}right
--- more_headers eval
[map { "Authorization: Basic $_\nIdempotency-Key: k" } "YWxpY2U6d3Jvbmc=", "YWxpY2U6cmlnaHQ=", "YWxpY2U6d3Jvbmc=", "YWxpY2U6cmlnaHQ="]
--- request eval
[("POST /orders") x 4]
--- error_code eval
[401, 201, 401, 201]
--- response_body eval
[qr/401 Authorization Required/, echo(1, "POST /orders"), qr/401 Authorization Required/, echo(1, "POST /orders")]
--- response_headers eval
[("!Idempotent-Replayed") x 3, "Idempotent-Replayed: true"]



=== TEST 2: a missing password is asked for, whatever the key
--- config
location / {
    idempotency main;
    idempotency_scope off;
    auth_basic realm;
    auth_basic_user_file ../html/users;
    proxy_pass http://app;
}
--- user_files
>>> users
alice:{PLAIN}right
--- more_headers eval
["Authorization: Basic YWxpY2U6cmlnaHQ=\nIdempotency-Key: k", "Idempotency-Key: k", "Idempotency-Key: a b"]
--- request eval
[("POST /orders") x 3]
--- error_code eval
[201, 401, 401]



=== TEST 3: allow and deny refuse before anything is replayed or claimed
--- config
set_real_ip_from 127.0.0.1;
real_ip_header X-Real-IP;
location / {
    idempotency main;
    allow 10.0.0.1;
    deny all;
    proxy_pass http://app;
}
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k\nX-Real-IP: 10.0.0.$_" } 2, 1, 2, 1]
--- request eval
[("POST /orders") x 4]
--- error_code eval
[403, 201, 403, 201]
--- response_body eval
[qr/403 Forbidden/, echo(1, "POST /orders"), qr/403 Forbidden/, echo(1, "POST /orders")]
--- response_headers eval
[("!Idempotent-Replayed") x 3, "Idempotent-Replayed: true"]



=== TEST 4: auth_request refuses before anything is replayed or claimed
--- config
location / {
    idempotency main;
    auth_request /auth;
    proxy_pass http://app;
}
location = /auth {
    internal;
    if ($http_x_token != good) { return 403; }
    return 204;
}
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k\nX-Token: $_" } qw(bad good bad good)]
--- request eval
[("POST /orders\nbody") x 4]
--- error_code eval
[403, 201, 403, 201]
--- response_body eval
[qr/403 Forbidden/, echo(1, "POST /orders", "body"), qr/403 Forbidden/, echo(1, "POST /orders", "body")]
--- response_headers eval
[("!Idempotent-Replayed") x 3, "Idempotent-Replayed: true"]



=== TEST 5: auth_request asks a covered location, which is not covered as a subrequest
--- config
location / {
    idempotency main;
    auth_request /auth;
    proxy_pass http://app;
}
location = /auth {
    internal;
    idempotency main;
    idempotency_methods GET POST;
    proxy_method GET;
    proxy_pass_request_body off;
    proxy_set_header Content-Length "";
    proxy_set_header App-Space $TEST_NGINX_SPACE;
    proxy_pass http://app/auth?status=200;
}
--- more_headers
X-API-Key: alice
Idempotency-Key: k
--- request eval
["POST /orders", "POST /orders", "GET /count/auth", "GET /count/orders"]
--- error_code eval
[201, 201, 200, 200]
--- response_body eval
[(echo(1, "POST /orders")) x 2, "2\n", "1\n"]



=== TEST 6: satisfy any: who is refused by all checks gets no replay and claims nothing
--- config
set_real_ip_from 127.0.0.1;
real_ip_header X-Real-IP;
location / {
    idempotency main;
    idempotency_scope off;
    satisfy any;
    allow 10.0.0.1;
    deny all;
    auth_basic realm;
    auth_basic_user_file ../html/users;
    proxy_pass http://app;
}
--- user_files
>>> users
alice:{PLAIN}right
--- more_headers eval
["X-Real-IP: 10.0.0.2\nIdempotency-Key: k", "X-Real-IP: 10.0.0.2\nAuthorization: Basic YWxpY2U6d3Jvbmc=\nIdempotency-Key: k",
 "X-Real-IP: 10.0.0.1\nIdempotency-Key: k", "X-Real-IP: 10.0.0.2\nIdempotency-Key: k",
 "X-Real-IP: 10.0.0.2\nAuthorization: Basic YWxpY2U6d3Jvbmc=\nIdempotency-Key: k", "X-Real-IP: 10.0.0.2"]
--- request eval
[("POST /orders") x 5, "GET /count/orders"]
--- error_code eval
[401, 401, 201, 401, 401, 200]
--- response_body eval
[(qr/401 Authorization/) x 2, echo(1, "POST /orders"), (qr/401 Authorization/) x 2, "1\n"]



=== TEST 7: satisfy any: one check that lets in is enough to be covered
--- config
set_real_ip_from 127.0.0.1;
real_ip_header X-Real-IP;
location / {
    idempotency main;
    idempotency_scope off;
    satisfy any;
    allow 10.0.0.1;
    deny all;
    auth_basic realm;
    auth_basic_user_file ../html/users;
    proxy_pass http://app;
}
--- user_files
>>> users
alice:{PLAIN}right
--- more_headers eval
["X-Real-IP: 10.0.0.1\nIdempotency-Key: k", "X-Real-IP: 10.0.0.1\nIdempotency-Key: k",
 "X-Real-IP: 10.0.0.2\nAuthorization: Basic YWxpY2U6cmlnaHQ=\nIdempotency-Key: k"]
--- request eval
[("POST /orders") x 3]
--- error_code eval
[201, 201, 201]
--- response_body eval
[(echo(1, "POST /orders")) x 3]
--- response_headers eval
["!Idempotent-Replayed", ("Idempotent-Replayed: true") x 2]



=== TEST 8: satisfy any with auth_request alone refuses and lets in
--- config
location / {
    idempotency main;
    satisfy any;
    deny all;
    auth_request /auth;
    proxy_pass http://app;
}
location = /auth {
    internal;
    if ($http_x_token != good) { return 403; }
    return 204;
}
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k\nX-Token: $_" } qw(bad good bad good)]
--- request eval
[("POST /orders") x 4]
--- error_code eval
[403, 201, 403, 201]
--- response_body eval
[qr/403 Forbidden/, echo(1, "POST /orders"), qr/403 Forbidden/, echo(1, "POST /orders")]



=== TEST 9: limit_except refuses before anything is replayed or claimed
--- config
set_real_ip_from 127.0.0.1;
real_ip_header X-Real-IP;
location / {
    idempotency main;
    limit_except GET { allow 10.0.0.1; deny all; }
    proxy_pass http://app;
}
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k\nX-Real-IP: 10.0.0.$_" } 2, 1, 2, 1]
--- request eval
[("POST /orders") x 4]
--- error_code eval
[403, 201, 403, 201]
--- response_body eval
[qr/403 Forbidden/, echo(1, "POST /orders"), qr/403 Forbidden/, echo(1, "POST /orders")]



=== TEST 10: limit_req counts a retry too
--- http_config
limit_req_zone all zone=once:1m rate=1r/m;
--- config
location / {
    idempotency main;
    limit_req zone=once;
    limit_req_status 429;
    proxy_pass http://app;
}
--- more_headers
X-API-Key: alice
Idempotency-Key: k
--- request eval
["POST /orders", "POST /orders", "GET /count/orders"]
--- error_code eval
[201, 429, 200]
--- response_body eval
[echo(1, "POST /orders"), qr/429 Too Many/, "1\n"]



=== TEST 11: an auth_request that can't be answered refuses too
--- config
location / {
    idempotency main;
    auth_request /auth;
    proxy_pass http://app;
}
location = /auth {
    internal;
    if ($http_x_token = broken) { return 500; }
    if ($http_x_token = unknown) { return 401; }
    return 204;
}
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k\nX-Token: $_" } qw(broken unknown good broken unknown good good)]
--- request eval
[("POST /orders\nbody") x 6, "GET /count/orders"]
--- error_code eval
[500, 401, 201, 500, 401, 201, 200]
--- response_body eval
[qr/500 Internal/, qr/401 Auth/, echo(1, "POST /orders", "body"), qr/500 Internal/, qr/401 Auth/, echo(1, "POST /orders", "body"), "1\n"]
--- response_headers eval
[("!Idempotent-Replayed") x 5, "Idempotent-Replayed: true", "!Idempotent-Replayed"]



=== TEST 12: satisfy any with all three checks: each of them lets in to the same answer
--- config
set_real_ip_from 127.0.0.1;
real_ip_header X-Real-IP;
location / {
    idempotency main;
    idempotency_scope off;
    satisfy any;
    allow 10.0.0.1;
    deny all;
    auth_basic realm;
    auth_basic_user_file ../html/users;
    auth_request /auth;
    proxy_pass http://app;
}
location = /auth {
    internal;
    if ($http_x_token != good) { return 403; }
    return 204;
}
--- user_files
>>> users
alice:{PLAIN}right
--- more_headers eval
[map { "X-Real-IP: 10.0.0.$_->[0]\nAuthorization: Basic $_->[1]\nX-Token: $_->[2]\nIdempotency-Key: k" }
    [2, "YWxpY2U6d3Jvbmc=", "bad"], [2, "YWxpY2U6d3Jvbmc=", "good"], [2, "YWxpY2U6d3Jvbmc=", "bad"],
    [1, "YWxpY2U6d3Jvbmc=", "bad"], [2, "YWxpY2U6cmlnaHQ=", "bad"], [2, "YWxpY2U6d3Jvbmc=", "good"], [1, "", ""]]
--- request eval
[("POST /orders") x 6, "GET /count/orders"]
--- error_code eval
[401, 201, 401, 201, 201, 201, 200]
--- response_body eval
[qr/401/, echo(1, "POST /orders"), qr/401/, (echo(1, "POST /orders")) x 3, "1\n"]
--- response_headers eval
[("!Idempotent-Replayed") x 3, ("Idempotent-Replayed: true") x 3, "!Idempotent-Replayed"]



=== TEST 13: satisfy all: each check that refuses is enough
--- config
set_real_ip_from 127.0.0.1;
real_ip_header X-Real-IP;
location / {
    idempotency main;
    idempotency_scope off;
    satisfy all;
    allow 10.0.0.1;
    deny all;
    auth_basic realm;
    auth_basic_user_file ../html/users;
    proxy_pass http://app;
}
--- user_files
>>> users
alice:{PLAIN}right
--- more_headers eval
[map { "X-Real-IP: 10.0.0.$_->[0]\nAuthorization: Basic $_->[1]\nIdempotency-Key: k" }
    [2, "YWxpY2U6cmlnaHQ="], [1, "YWxpY2U6d3Jvbmc="], [1, "YWxpY2U6cmlnaHQ="], [2, "YWxpY2U6cmlnaHQ="], [1, "YWxpY2U6d3Jvbmc="],
    [1, "YWxpY2U6cmlnaHQ="], [1, ""]]
--- request eval
[("POST /orders") x 6, "GET /count/orders"]
--- error_code eval
[403, 401, 201, 403, 401, 201, 200]
--- response_body eval
[qr/403/, qr/401/, echo(1, "POST /orders"), qr/403/, qr/401/, echo(1, "POST /orders"), "1\n"]



=== TEST 14: an error page in place of a refusal is a request of its own
--- config
set_real_ip_from 127.0.0.1;
real_ip_header X-Real-IP;
location / {
    idempotency main;
    error_page 403 = @guests;
    allow 10.0.0.1;
    deny all;
    proxy_pass http://app;
}
location @guests {
    rewrite ^ /guests? break;
    proxy_set_header App-Space $TEST_NGINX_SPACE;
    proxy_pass http://app;
}
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k\nX-Real-IP: 10.0.0.$_" } 2, 1, 2, 1, 1, 1]
--- request eval
[("POST /orders") x 4, "GET /count/orders", "GET /count/guests"]
--- error_code eval
[201, 201, 201, 201, 200, 200]
--- response_body eval
[echo(1, "POST /guests"), echo(1, "POST /orders"), echo(2, "POST /guests"), echo(1, "POST /orders"), "1\n", "2\n"]
--- response_headers eval
[("!Idempotent-Replayed") x 3, "Idempotent-Replayed: true", ("!Idempotent-Replayed") x 2]



=== TEST 15: the checks are those of the location that a rewrite leads to
--- config
set_real_ip_from 127.0.0.1;
real_ip_header X-Real-IP;
location / {
    idempotency main;
    rewrite ^/orders$ /closed last;
    proxy_pass http://app;
}
location /closed {
    idempotency main;
    allow 10.0.0.1;
    deny all;
    proxy_pass http://app;
}
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k\nX-Real-IP: 10.0.0.$_" } 2, 1, 2, 1, 1]
--- request eval
[("POST /orders") x 4, "GET /count/closed"]
--- error_code eval
[403, 201, 403, 201, 200]
--- response_body eval
[qr/403/, echo(1, "POST /closed"), qr/403/, echo(1, "POST /closed"), "1\n"]



=== TEST 16: a location for nginx alone claims nothing for a client
--- config
location / {
    idempotency main;
    internal;
    proxy_pass http://app;
}
--- more_headers
X-API-Key: alice
Idempotency-Key: k
--- request eval
["POST /orders", "POST /orders", "GET /count/orders"]
--- error_code eval
[404, 404, 200]
--- response_body eval
[qr/404/, qr/404/, "0\n"]



=== TEST 17: the checks are those of the location that try_files leads to
--- config
idempotency_scope off;
location / {
    idempotency main;
    try_files /nothing @app;
}
location @app {
    auth_basic realm;
    auth_basic_user_file ../html/users;
    proxy_pass http://app;
}
--- user_files
>>> users
alice:{PLAIN}right
--- more_headers eval
[map { "Authorization: Basic $_\nIdempotency-Key: k" } "YWxpY2U6d3Jvbmc=", "YWxpY2U6cmlnaHQ=", "YWxpY2U6d3Jvbmc=", "YWxpY2U6cmlnaHQ="]
--- request eval
[("POST /orders") x 4]
--- error_code eval
[401, 201, 401, 201]
--- response_body eval
[qr/401 Authorization Required/, echo(1, "POST /orders"), qr/401 Authorization Required/, echo(1, "POST /orders")]
--- response_headers eval
[("!Idempotent-Replayed") x 3, "Idempotent-Replayed: true"]
