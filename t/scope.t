# Scopes.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use IdempotencyTest 'no_plan';

run_tests();

__DATA__

=== TEST 1: equal keys of different API keys are independent
--- more_headers eval
[map { "X-API-Key: $_\nIdempotency-Key: k" } qw(alice bob alice bob)]
--- executions: 1 2 1 2
--- response_headers eval
[("!Idempotent-Replayed") x 2, ("Idempotent-Replayed: true") x 2]



=== TEST 2: equal keys of different credentials are independent
--- more_headers eval
[map { "Authorization: Bearer $_\nIdempotency-Key: k" } qw(alice bob alice)]
--- executions: 1 2 1



=== TEST 3: without credentials nothing is looked up and nothing is kept
--- more_headers
Idempotency-Key: k
--- executions: 1 2
--- response_headers eval
[("!Idempotent-Replayed") x 2]



=== TEST 4: an anonymous request never gets a response that has a scope
--- more_headers eval
["X-API-Key: alice\nIdempotency-Key: k", "Idempotency-Key: k"]
--- executions: 1 2



=== TEST 5: where a key is required an empty scope is refused
--- config
location / {
    idempotency main required;
    proxy_pass http://app;
}
--- more_headers eval
["Idempotency-Key: k", "X-API-Key: alice"]
--- request eval
["POST /orders", "GET /count/orders"]
--- response_body eval
[problem('idempotency_scope_missing'), "0\n"]
--- error_code eval
[400, 200]



=== TEST 6: with `off` keys are global
--- location
idempotency_scope off;
--- more_headers eval
["X-API-Key: alice\nIdempotency-Key: k", "X-API-Key: bob\nIdempotency-Key: k", "Idempotency-Key: k"]
--- executions: 1 1 1



=== TEST 7: with `off` and `required` no scope is missing
--- config
location / {
    idempotency main required;
    idempotency_scope off;
    proxy_pass http://app;
}
--- more_headers
Idempotency-Key: k
--- executions: 1 1



=== TEST 8: a configured scope replaces the default
--- location
idempotency_scope $http_x_tenant;
--- more_headers eval
["X-API-Key: alice\nX-Tenant: t1\nIdempotency-Key: k", "X-API-Key: bob\nX-Tenant: t1\nIdempotency-Key: k",
 "X-API-Key: alice\nX-Tenant: t2\nIdempotency-Key: k", "X-API-Key: alice\nIdempotency-Key: k", "X-API-Key: alice\nIdempotency-Key: k"]
--- executions: 1 1 2 3 4



=== TEST 9: a scope and a key are separated
--- more_headers eval
["X-API-Key: ab\nIdempotency-Key: c", "X-API-Key: a\nIdempotency-Key: bc"]
--- executions: 1 2



=== TEST 10: a global key is independent of keys with a scope
--- config
idempotency main;
idempotency_fingerprint same;
location /global { idempotency_scope off; proxy_pass http://app; }
location /scoped { idempotency_scope $http_x_tenant; proxy_pass http://app; }
--- more_headers
X-Tenant: t
Idempotency-Key: k
--- request eval
["POST /global", "POST /scoped", "POST /global", "POST /scoped"]
--- response_body eval
[(echo(1, "POST /global"), echo(1, "POST /scoped")) x 2]
--- error_code eval
[(201) x 4]



=== TEST 11: a key is looked up in all locations of its store and scope
--- config
idempotency main;
idempotency_fingerprint same;
location /a { proxy_pass http://app; }
location /b { proxy_pass http://app; }
--- key: k
--- request eval
["POST /a", "POST /b"]
--- response_body eval
[(echo(1, "POST /a")) x 2]
--- error_code eval
[201, 201]



=== TEST 12: equal values at different positions are different scopes
--- config
location / {
    idempotency main;
    idempotency_scope $http_x_tenant $http_x_user;
    proxy_pass http://app;
}
--- more_headers eval
["X-Tenant: 1\nX-User: 11\nIdempotency-Key: k", "X-Tenant: 11\nX-User: 1\nIdempotency-Key: k",
 "X-Tenant: 1\nX-User: 11\nIdempotency-Key: k", "X-Tenant: 11\nX-User: 1\nIdempotency-Key: k"]
--- request eval
[("POST /orders") x 4]
--- response_body eval
[map { echo($_, "POST /orders") } 1, 2, 1, 2]
--- error_code eval
[(201) x 4]
--- response_headers eval
[("!Idempotent-Replayed") x 2, ("Idempotent-Replayed: true") x 2]



=== TEST 13: a credential in one header is not the same credential in another header
--- more_headers eval
["Authorization: alice\nIdempotency-Key: k", "X-API-Key: alice\nIdempotency-Key: k",
 "Authorization: alice\nX-API-Key: alice\nIdempotency-Key: k",
 "Authorization: alice\nIdempotency-Key: k", "X-API-Key: alice\nIdempotency-Key: k"]
--- request eval
[("POST /orders") x 5]
--- response_body eval
[map { echo($_, "POST /orders") } 1, 2, 3, 1, 2]
--- error_code eval
[(201) x 5]



=== TEST 14: without `any` every part must have a value
--- config
location / {
    idempotency main;
    idempotency_scope $http_x_tenant $http_x_user;
    proxy_pass http://app;
    add_header X-Status "$idempotency_status";
}
--- more_headers eval
[("X-Tenant: t\nIdempotency-Key: k", "X-User: u\nIdempotency-Key: k", "Idempotency-Key: k") x 2, ("X-Tenant: t\nX-User: u\nIdempotency-Key: k") x 2]
--- request eval
[("POST /orders") x 8]
--- response_body eval
[map { echo($_, "POST /orders") } 1 .. 7, 7]
--- error_code eval
[(201) x 8]
--- response_headers eval
[("X-Status: UNSCOPED") x 6, "X-Status: NEW", "X-Status: REPLAYED"]



=== TEST 15: with `any` one part with a value is enough
--- config
location / {
    idempotency main;
    idempotency_scope $http_x_tenant $http_x_user $http_x_device any;
    proxy_pass http://app;
    add_header X-Status "$idempotency_status";
}
--- more_headers eval
[("X-Tenant: a\nIdempotency-Key: k", "X-User: a\nIdempotency-Key: k", "X-Device: a\nIdempotency-Key: k") x 2, "Idempotency-Key: k"]
--- request eval
[("POST /orders") x 7]
--- response_body eval
[map { echo($_, "POST /orders") } 1, 2, 3, 1, 2, 3, 4]
--- error_code eval
[(201) x 7]
--- response_headers eval
[("X-Status: NEW") x 3, ("X-Status: REPLAYED") x 3, "X-Status: UNSCOPED"]



=== TEST 16: where a key is required one empty part is refused
--- config
location / {
    idempotency main required;
    idempotency_scope $http_x_tenant $http_x_user;
    proxy_pass http://app;
}
--- more_headers eval
["X-Tenant: t\nIdempotency-Key: k", "X-Tenant: t\nX-User: u\nIdempotency-Key: k", "X-API-Key: alice"]
--- request eval
["POST /orders", "POST /orders", "GET /count/orders"]
--- response_body eval
[problem('idempotency_scope_missing'), echo(1, "POST /orders"), "1\n"]
--- error_code eval
[400, 201, 200]



=== TEST 17: a part may have several variables
--- config
location / {
    idempotency main;
    idempotency_scope "$http_x_tenant/$http_x_user" $http_x_device;
    proxy_pass http://app;
}
--- more_headers eval
["X-Tenant: a\nX-User: b\nX-Device: d\nIdempotency-Key: k", "X-Tenant: a/b\nX-Device: d\nIdempotency-Key: k",
 "X-Tenant: a\nX-User: b\nX-Device: d\nIdempotency-Key: k"]
--- request eval
[("POST /orders") x 3]
--- response_body eval
[map { echo($_, "POST /orders") } 1, 2, 1]
--- error_code eval
[(201) x 3]



=== TEST 18: a location inherits all parts, and its own parts replace them
--- config
idempotency main;
idempotency_scope $http_x_tenant $http_x_user any;
idempotency_fingerprint same;
location /inherited { proxy_pass http://app; }
location /own { idempotency_scope $http_x_user; proxy_pass http://app; }
--- more_headers eval
["X-Tenant: t\nIdempotency-Key: k", "X-Tenant: t\nIdempotency-Key: k", "X-Tenant: t\nIdempotency-Key: k", "X-User: u\nIdempotency-Key: k", "X-User: u\nIdempotency-Key: k"]
--- request eval
["POST /inherited", "POST /inherited", "POST /own", "POST /own", "POST /own"]
--- response_body eval
[echo(1, "POST /inherited"), echo(1, "POST /inherited"), echo(1, "POST /own"), (echo(2, "POST /own")) x 2]
--- error_code eval
[(201) x 5]
