# The syntax of an Idempotency-Key, and its sources.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use IdempotencyTest 'no_plan';

run_tests();

__DATA__

=== TEST 1: a quoted key and the same key without quotes are equal
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: $_" } '8e03978e-40d5', '"8e03978e-40d5"', '"8e03978e-40d5";version=1; draft']
--- executions: 1 1 1
--- response_headers eval
["!Idempotent-Replayed", "Idempotent-Replayed: true", "Idempotent-Replayed: true"]



=== TEST 2: escapes of a quoted key are undone
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: $_" } 'a"b\\c', '"a\\"b\\\\c"']
--- executions: 1 1



=== TEST 3: a quoted key may contain spaces, which are significant
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: $_" } '"a b"', '"a b"', '"ab"']
--- executions: 1 1 2



=== TEST 4: keys are case-sensitive
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: $_" } 'abc', 'ABC']
--- executions: 1 2



=== TEST 5: keys of 255 bytes and of one byte are valid
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: $_" } 'k' x 255, '"' . 'k' x 255 . '"', 'k', 'k']
--- executions: 1 1 2 2



=== TEST 6: the length of a key is that of its value, without quotes and escapes
--- more_headers eval
["X-API-Key: alice\nIdempotency-Key: \"" . '\\"' x 255 . '"'] 
--- request eval
["POST /orders"]
--- error_code eval
[201]



=== TEST 7: an invalid key is refused and the application does not get the request
--- more_headers eval
[(map { "X-API-Key: alice\nIdempotency-Key: $_" } 'k' x 256, '"' . 'k' x 256 . '"', '', '""', '"abc', 'a b', "cl\xe9", "\"cl\xe9\"", '"a\\x"',
    '"a"b', '"a";', "\"a\tb\"", "a\tb", '"a\\'), 'X-API-Key: alice']
--- request eval
[("POST /orders") x 14, "GET /count/orders"]
--- response_body eval
[(problem('idempotency_key_invalid')) x 14, "0\n"]
--- error_code eval
[(400) x 14, 200]
--- response_headers eval
[("Content-Type: application/problem+json") x 14, ""]



=== TEST 8: two key headers are refused, equal or not
--- more_headers eval
["X-API-Key: alice\nIdempotency-Key: a\nIdempotency-Key: b", "X-API-Key: alice\nIdempotency-Key: a\nIdempotency-Key: a", "X-API-Key: alice"]
--- request eval
["POST /orders", "POST /orders", "GET /count/orders"]
--- response_body eval
[(problem('idempotency_key_invalid')) x 2, "0\n"]
--- error_code eval
[400, 400, 200]



=== TEST 9: where a key is required a request without one is refused
--- config
location / {
    idempotency main required;
    proxy_pass http://app;
}
--- more_headers eval
["X-API-Key: alice", "X-API-Key: alice\nIdempotency-Key: k", "X-API-Key: alice\nIdempotency-Key: k", "X-API-Key: alice", "X-API-Key: alice"]
--- request eval
["POST /orders", "POST /orders", "POST /orders", "GET /orders", "GET /count/orders"]
--- response_body eval
[problem('idempotency_key_missing'), (echo(1, "POST /orders")) x 2, echo(2, "GET /orders"), "2\n"]
--- error_code eval
[400, 201, 201, 201, 200]



=== TEST 10: the key may come from another variable
--- location
idempotency_key $http_x_request_id;
--- more_headers eval
["X-API-Key: alice\nX-Request-Id: r1\nIdempotency-Key: a", "X-API-Key: alice\nX-Request-Id: r1\nIdempotency-Key: b",
 "X-API-Key: alice\nX-Request-Id: r2\nIdempotency-Key: b", "X-API-Key: alice\nIdempotency-Key: b", "X-API-Key: alice\nIdempotency-Key: b"]
--- executions: 1 1 2 3 4



=== TEST 11: the key may be made of several variables
--- location
idempotency_key $http_x_batch-$arg_item;
idempotency_fingerprint same;
--- more_headers
X-API-Key: alice
X-Batch: 7
--- request eval
["POST /orders?item=1", "POST /orders?item=1", "POST /orders?item=2"]
--- response_body eval
[(echo(1, "POST /orders?item=1")) x 2, echo(2, "POST /orders?item=2")]
--- error_code eval
[201, 201, 201]



=== TEST 12: a key from another variable has the same syntax
--- location
idempotency_key $http_x_request_id;
--- more_headers eval
["X-API-Key: alice\nX-Request-Id: \"r1\"", "X-API-Key: alice\nX-Request-Id: r1", "X-API-Key: alice\nX-Request-Id: r 1"]
--- request eval
[("POST /orders") x 3]
--- response_body eval
[(echo(1, "POST /orders")) x 2, problem('idempotency_key_invalid')]
--- error_code eval
[201, 201, 400]



=== TEST 13: an invalid key of a request that is not covered is ignored
--- more_headers
X-API-Key: alice
Idempotency-Key: a b
--- request eval
["GET /orders"]
--- response_body eval
[echo(1, "GET /orders")]
--- error_code eval
[201]
