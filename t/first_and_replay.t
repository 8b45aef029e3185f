# The first request runs, its retries get the kept response.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use IdempotencyTest 'no_plan';

run_tests();

__DATA__

=== TEST 1: a retry gets the kept response and the application executes the request once
--- more_headers
X-API-Key: alice
Idempotency-Key: uuid-abc-123
Content-Type: application/json
--- request eval
[("POST /v1/marketplace/listings\n{ \"assetId\": \"model-123\" }") x 3, "GET /count/v1/marketplace/listings"]
--- response_body eval
[(echo(1, "POST /v1/marketplace/listings", '{ "assetId": "model-123" }')) x 3, "1\n"]
--- error_code eval
[201, 201, 201, 200]
--- response_headers eval
["!Idempotent-Replayed", "Idempotent-Replayed: true", "Idempotent-Replayed: true", "!Idempotent-Replayed"]



=== TEST 2: another key means another request
--- more_headers eval
["X-API-Key: alice\nIdempotency-Key: one", "X-API-Key: alice\nIdempotency-Key: two", "X-API-Key: alice\nIdempotency-Key: one"]
--- executions: 1 2 1



=== TEST 3: a request without a key runs each time
--- more_headers
X-API-Key: alice
--- executions: 1 2
--- response_headers eval
["!Idempotent-Replayed", "!Idempotent-Replayed"]



=== TEST 4: without the directive nothing is covered
--- config
location / { proxy_pass http://app; }
--- key: k
--- executions: 1 2



=== TEST 5: the directive of a server is inherited, and `off` disables it
--- config
idempotency main;
location / { proxy_pass http://app; }
location /free { idempotency off; proxy_pass http://app; }
--- key: k
--- request eval
["POST /orders", "POST /orders", "POST /free", "POST /free"]
--- response_body eval
[(echo(1, "POST /orders")) x 2, echo(1, "POST /free"), echo(2, "POST /free")]
--- error_code eval
[201, 201, 201, 201]



=== TEST 6: a directive of the context http is inherited
--- http_config
idempotency main;
--- config
location / { proxy_pass http://app; }
--- key: k
--- executions: 1 1



=== TEST 7: results of one store are not in another
--- http_config
idempotency_store other { $TEST_NGINX_STORE }
--- config
idempotency_fingerprint same body=off;
location /main { idempotency main; proxy_pass http://app; }
location /other { idempotency other; proxy_pass http://app; }
--- key: k
--- request eval
["POST /main", "POST /other", "POST /main", "POST /other"]
--- response_body eval
[echo(1, "POST /main"), echo(1, "POST /other"), echo(1, "POST /main"), echo(1, "POST /other")]
--- error_code eval
[201, 201, 201, 201]



=== TEST 8: an error of the application is kept too
--- key: k
--- request eval
["POST /orders?status=422,201", "POST /orders?status=422,201", "GET /count/orders"]
--- response_body eval
[(echo(1, "POST /orders?status=422,201")) x 2, "1\n"]
--- error_code eval
[422, 422, 200]



=== TEST 9: fields that nginx adds are added to a replay again
--- location
add_header X-Asked $http_x_ask always;
--- more_headers eval
["X-API-Key: alice\nIdempotency-Key: k\nX-Ask: first", "X-API-Key: alice\nIdempotency-Key: k\nX-Ask: second"]
--- request eval
["POST /orders", "POST /orders"]
--- response_headers eval
["X-Asked: first\n!Idempotent-Replayed", "X-Asked: second\nIdempotent-Replayed: true"]
--- error_code eval
[201, 201]



=== TEST 10: a filter of nginx changes the delivered response, not the kept one
--- location
sub_filter_types *;
sub_filter POST $http_x_word;
--- more_headers eval
["X-API-Key: alice\nIdempotency-Key: k\nX-Word: eins", "X-API-Key: alice\nIdempotency-Key: k\nX-Word: zwei"]
--- request eval
["POST /orders", "POST /orders"]
--- response_body eval
[echo(1, "eins /orders"), echo(1, "zwei /orders")]
--- error_code eval
[201, 201]



=== TEST 11: a request with an X-Accel-Redirect to another location runs once
--- config
location /inside/ { internal; idempotency main; rewrite ^ /inside/?status=200 break; proxy_method GET; proxy_pass http://app; }
--- location
--- key: k
--- request eval
[("POST /orders?header=X-Accel-Redirect:/inside/x") x 2, "GET /count/orders", "GET /count/inside/"]
--- response_body_like eval
["^#1 GET /inside/", "^#1 GET /inside/", "^1\$", "^1\$"]
--- response_headers eval
["!Idempotent-Replayed", "Idempotent-Replayed: true", "", ""]
--- error_code eval
[200, 200, 200, 200]



=== TEST 12: the response of an error_page is kept, and the application executes the request once
--- config
location = /sorry { internal; return 500 "sorry\n"; }
--- location
proxy_intercept_errors on;
error_page 500 /sorry;
--- key: k
--- request eval
[("POST /orders?status=500") x 2, "GET /count/orders"]
--- response_body eval
["sorry\n", "sorry\n", "1\n"]
--- error_code eval
[500, 500, 200]



=== TEST 13: a request that try_files sends to a named location is covered there
--- config
location / { idempotency main; try_files /nothing @app; }
location @app { idempotency main; proxy_pass http://app; }
--- key: k
--- executions: 1 1



=== TEST 14: the application gets the complete body
--- config
client_body_buffer_size 1k;
--- location
--- key: k
--- request eval
[("POST /orders\n" . "0123456789" x 30000) x 2]
--- response_body eval
[(echo(1, "POST /orders", "0123456789" x 30000)) x 2]
--- error_code eval
[201, 201]
