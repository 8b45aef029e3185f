# The fingerprint: when two requests are the same.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use IdempotencyTest 'no_plan';

run_tests();

__DATA__

=== TEST 1: another body with a kept key is refused and changes nothing
--- key: k
--- request eval
["POST /orders\none", "POST /orders\ntwo", "POST /orders", "POST /orders\none", "GET /count/orders"]
--- response_body eval
[echo(1, "POST /orders", "one"), (problem('idempotency_key_reused')) x 2, echo(1, "POST /orders", "one"), "1\n"]
--- error_code eval
[201, 422, 422, 201, 200]



=== TEST 2: another path, query or method with a kept key is refused and changes nothing
--- key: k
--- request eval
["POST /orders?a=1", "POST /others?a=1", "POST /orders?a=2", "POST /orders", "PUT /orders?a=1", "POST /orders?a=1",
 "GET /count/orders", "GET /count/others"]
--- response_body eval
[echo(1, "POST /orders?a=1"), (problem('idempotency_key_reused')) x 4, echo(1, "POST /orders?a=1"), "1\n", "0\n"]
--- error_code eval
[201, (422) x 4, 201, 200, 200]



=== TEST 3: another host with a kept key is refused
--- more_headers eval
["Host: one.example\nX-API-Key: alice\nIdempotency-Key: k", "Host: two.example\nX-API-Key: alice\nIdempotency-Key: k"]
--- request eval
["POST /orders", "POST /orders"]
--- response_body eval
[echo(1, "POST /orders"), problem('idempotency_key_reused')]
--- error_code eval
[201, 422]



=== TEST 4: with body=off the body is not part of the fingerprint
--- location
idempotency_fingerprint "$request_method $request_uri" body=off;
--- key: k
--- request eval
["POST /orders\none", "POST /orders\ntwo", "POST /others\none"]
--- response_body eval
[(echo(1, "POST /orders", "one")) x 2, problem('idempotency_key_reused')]
--- error_code eval
[201, 201, 422]



=== TEST 5: body=on is the default
--- config
idempotency main;
location /on { idempotency_fingerprint same body=on; proxy_pass http://app; }
location /default { idempotency_fingerprint same; proxy_pass http://app; }
--- more_headers eval
[("X-API-Key: alice\nIdempotency-Key: k1") x 2, ("X-API-Key: alice\nIdempotency-Key: k2") x 2]
--- request eval
["POST /on\none", "POST /on\ntwo", "POST /default\none", "POST /default\ntwo"]
--- response_body eval
[echo(1, "POST /on", "one"), problem('idempotency_key_reused'), echo(1, "POST /default", "one"), problem('idempotency_key_reused')]
--- error_code eval
[201, 422, 201, 422]



=== TEST 6: a configured fingerprint replaces the default
--- location
idempotency_fingerprint $arg_order;
--- key: k
--- request eval
["POST /orders?order=1&try=1", "PUT /elsewhere?order=1&try=2", "POST /orders?order=2&try=1"]
--- response_body eval
[(echo(1, "POST /orders?order=1&try=1")) x 2, problem('idempotency_key_reused')]
--- error_code eval
[201, 201, 422]



=== TEST 7: all bytes of a body that is buffered in a file are in the fingerprint
--- config
client_body_buffer_size 1k;
--- location
--- key: k
--- request eval
["POST /orders\n" . "0123456789" x 10000 . "a", "POST /orders\n" . "0123456789" x 10000 . "b", "POST /orders\n" . "0123456789" x 10000 . "a"]
--- response_body eval
[echo(1, "POST /orders", "0123456789" x 10000 . "a"), problem('idempotency_key_reused'), echo(1, "POST /orders", "0123456789" x 10000 . "a")]
--- error_code eval
[201, 422, 201]



=== TEST 8: headers that are not in the fingerprint are ignored
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k\nUser-Agent: $_" } qw(a b)]
--- executions: 1 1



=== TEST 9: the fingerprint and the body are separated
--- location
idempotency_fingerprint $arg_f;
--- key: k
--- request eval
["POST /orders?f=ab\nc", "POST /orders?f=a\nbc"]
--- response_body eval
[echo(1, "POST /orders?f=ab", "c"), problem('idempotency_key_reused')]
--- error_code eval
[201, 422]
