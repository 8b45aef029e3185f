# Which methods are covered, and idempotency_bypass.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use IdempotencyTest 'no_plan';

run_tests();

__DATA__

=== TEST 1: POST, PUT, PATCH and DELETE are covered
--- more_headers eval
[map { ("X-API-Key: alice\nIdempotency-Key: $_") x 2 } 1 .. 4]
--- request eval
[map { ("$_ /orders") x 2 } qw(POST PUT PATCH DELETE)]
--- response_body eval
[echo(1, "POST /orders"), echo(1, "POST /orders"), echo(2, "PUT /orders"), echo(2, "PUT /orders"),
 echo(3, "PATCH /orders"), echo(3, "PATCH /orders"), echo(4, "DELETE /orders"), echo(4, "DELETE /orders")]
--- error_code eval
[(201) x 8]



=== TEST 2: other methods are not covered
--- key: k
--- request eval
["GET /orders", "GET /orders", "OPTIONS /orders", "OPTIONS /orders", "PROPFIND /orders", "PROPFIND /orders"]
--- response_body eval
[echo(1, "GET /orders"), echo(2, "GET /orders"), echo(3, "OPTIONS /orders"), echo(4, "OPTIONS /orders"),
 echo(5, "PROPFIND /orders"), echo(6, "PROPFIND /orders")]
--- error_code eval
[(201) x 6]



=== TEST 3: any method can be covered, whether nginx knows it or not, and the list replaces the default
--- location
idempotency_methods GET FROB M-SEARCH;
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: $_" } 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
--- request eval
[map { ("$_ /orders") x 2 } qw(GET FROB M-SEARCH POST FROBS)]
--- response_body eval
[map { echo($_->[0], "$_->[1] /orders") } [1, 'GET'], [1, 'GET'], [2, 'FROB'], [2, 'FROB'], [3, 'M-SEARCH'], [3, 'M-SEARCH'], [4, 'POST'], [5, 'POST'], [6, 'FROBS'], [7, 'FROBS']]
--- error_code eval
[(201) x 10]



=== TEST 4: a location's methods replace those of its server
--- config
idempotency main;
idempotency_methods POST;
location / { proxy_pass http://app; }
location /put { idempotency_methods PUT; proxy_pass http://app; }
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: $_" } 1, 1, 2, 2, 3, 3, 4, 4]
--- request eval
[("POST /orders") x 2, ("PUT /orders") x 2, ("POST /put") x 2, ("PUT /put") x 2]
--- response_body eval
[map { echo($_->[0], $_->[1]) } [1, 'POST /orders'], [1, 'POST /orders'], [2, 'PUT /orders'], [3, 'PUT /orders'],
    [1, 'POST /put'], [2, 'POST /put'], [3, 'PUT /put'], [3, 'PUT /put']]
--- error_code eval
[(201) x 8]



=== TEST 5: a bypassed request is neither looked up nor kept
--- location
idempotency_bypass $http_x_bypass $http_x_other;
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k$_" } "\nX-Bypass: 1", "", "\nX-Bypass: yes", "\nX-Other: 1", ""]
--- executions: 1 2 3 4 2
--- response_headers eval
[("!Idempotent-Replayed") x 4, "Idempotent-Replayed: true"]



=== TEST 6: an empty value and "0" do not bypass
--- location
idempotency_bypass $http_x_bypass $http_x_other;
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k$_" } "", "\nX-Bypass: 0", "\nX-Bypass: 0\nX-Other: 0"]
--- executions: 1 1 1



=== TEST 7: a bypassed request is not refused because of its key
--- config
location / {
    idempotency main required;
    idempotency_bypass $http_x_bypass;
    proxy_pass http://app;
}
--- more_headers
X-API-Key: alice
X-Bypass: 1
Idempotency-Key: a b
--- executions: 1



=== TEST 8: a location with `return` is never covered
--- config
location / {
    idempotency main required;
    return 200 "mine\n";
}
--- more_headers
X-API-Key: alice
--- request eval
["POST /orders", "POST /orders"]
--- response_body eval
["mine\n", "mine\n"]
--- response_headers eval
[("!Idempotent-Replayed") x 2]
--- error_code eval
[200, 200]
