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



=== TEST 10: another media type under a kept key is refused and spoils nothing
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k\n$_" } "Content-Type: application/json", "Content-Type: text/plain", "Content-Type: application/jsonl",
    "X-None: 1", "Content-Type: application/json", "X-None: 1"]
--- request eval
[("POST /orders\n{}") x 5, "GET /count/orders"]
--- response_body eval
[echo(1, "POST /orders", "{}"), (problem('idempotency_key_reused')) x 3, echo(1, "POST /orders", "{}"), "1\n"]
--- error_code eval
[201, (422) x 3, 201, 200]



=== TEST 11: case, spaces and parameters of the media type do not count
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k\nContent-Type: $_" } 'multipart/form-data; boundary=a', 'Multipart/FORM-Data;boundary=b', "multipart/form-data \t; x=\"a;b\"", 'multipart/form-data']
--- request eval
[("POST /orders\nbody") x 4]
--- response_body eval
[(echo(1, "POST /orders", "body")) x 4]
--- error_code eval
[(201) x 4]



=== TEST 12: another Content-Encoding under a kept key is refused
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k\n$_" } 'Content-Encoding: gzip', 'Content-Encoding: br', 'Content-Encoding: gzip, br', 'X-None: 1', 'Content-Encoding: GZIP']
--- request eval
[("POST /orders\nbody") x 5]
--- response_body eval
[echo(1, "POST /orders", "body"), (problem('idempotency_key_reused')) x 3, echo(1, "POST /orders", "body")]
--- error_code eval
[201, (422) x 3, 201]



=== TEST 13: a list of codings is the same in one header and in two
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k\n$_" } 'Content-Encoding: gzip, br', "Content-Encoding: gzip\nContent-Encoding: br", 'content-encoding: gzip,br',
    "Content-Encoding: br\nContent-Encoding: gzip"]
--- request eval
[("POST /orders\nbody") x 4]
--- response_body eval
[(echo(1, "POST /orders", "body")) x 3, problem('idempotency_key_reused')]
--- error_code eval
[(201) x 3, 422]



=== TEST 14: a second Content-Type header counts
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k\n$_" } 'Content-Type: text/plain;a=b', "Content-Type: text/plain;a=b\nContent-Type: text/html", "Content-Type: text/plain"]
--- request eval
[("POST /orders\nbody") x 3]
--- response_body eval
[echo(1, "POST /orders", "body"), problem('idempotency_key_reused'), echo(1, "POST /orders", "body")]
--- error_code eval
[201, 422, 201]



=== TEST 15: the media type counts without a body too
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k\n$_" } 'Content-Type: text/plain', 'Content-Type: text/html', 'Content-Type: text/plain']
--- request eval
[("POST /orders") x 3]
--- response_body eval
[echo(1, "POST /orders"), problem('idempotency_key_reused'), echo(1, "POST /orders")]
--- error_code eval
[201, 422, 201]



=== TEST 16: the media type, the coding and the body do not run together
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k\n$_" } "Content-Type: ab\nContent-Encoding: c", "Content-Type: a\nContent-Encoding: bc", "Content-Type: ab", "Content-Encoding: abc"]
--- request eval
["POST /orders\nd", "POST /orders\nd", "POST /orders\ncd", "POST /orders\nd"]
--- response_body eval
[echo(1, "POST /orders", "d"), (problem('idempotency_key_reused')) x 3]
--- error_code eval
[201, (422) x 3]



=== TEST 17: with body=off the media type and the Content-Encoding do not count
--- config
location / {
    idempotency main;
    idempotency_fingerprint $request_uri body=off;
    proxy_pass http://app;
}
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k\n$_" } "Content-Type: a/b\nContent-Encoding: gzip", "Content-Type: c/d", "Content-Encoding: br"]
--- request eval
[("POST /orders\nbody") x 3]
--- response_body eval
[(echo(1, "POST /orders", "body")) x 3]
--- error_code eval
[(201) x 3]
