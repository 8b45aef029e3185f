# The variables for logs and applications.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use IdempotencyTest 'no_plan';

run_tests();

__DATA__

=== TEST 1: $idempotency_status is the outcome of a request
--- config
add_header X-Status $idempotency_status always;
location / { idempotency main; idempotency_bypass $http_x_bypass; proxy_pass http://app; }
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: $_" } "k", "k", "k", "a b", "k\nX-Bypass: 1"]
--- request eval
["POST /orders\none", "POST /orders\none", "POST /orders\ntwo", "POST /orders", "POST /orders"]
--- response_headers eval
[map { "X-Status: $_" } qw(NEW REPLAYED REUSED INVALID BYPASS)]
--- error_code eval
[201, 201, 422, 400, 201]



=== TEST 2: $idempotency_status of requests that lack something
--- config
add_header X-Status $idempotency_status always;
location / { idempotency main; proxy_pass http://app; }
location /required { idempotency main required; proxy_pass http://app; }
--- more_headers eval
["X-API-Key: alice", "Idempotency-Key: k", "Idempotency-Key: k"]
--- request eval
["POST /required", "POST /orders", "POST /required"]
--- response_headers eval
[map { "X-Status: $_" } qw(MISSING UNSCOPED UNSCOPED)]
--- error_code eval
[400, 201, 400]



=== TEST 3: the variables are empty where a request is not covered
--- config
add_header X-All "[$idempotency_status$idempotency_outcome$idempotency_code$idempotency_store$idempotency_since$idempotency_age$idempotency_store_time$idempotency_key_id]" always;
location / { idempotency main; proxy_pass http://app; }
location /off { proxy_pass http://app; }
location = /own { idempotency main; return 200 "mine"; }
--- more_headers eval
["X-API-Key: alice\nIdempotency-Key: k", "X-API-Key: alice", ("X-API-Key: alice\nIdempotency-Key: k") x 2]
--- request eval
["GET /orders", "POST /orders", "POST /off", "POST /own"]
--- response_headers eval
[("X-All: []") x 4]
--- error_code eval
[201, 201, 201, 200]



=== TEST 4: $idempotency_age exists only for a replay
--- config
add_header X-Age "[$idempotency_age]" always;
location / { idempotency main; proxy_pass http://app; }
--- key: k
--- request eval
["POST /orders", "POST /orders", "POST /others"]
--- response_headers_like eval
["X-Age: \\[\\]", "X-Age: \\[[0-9]+\\]", "X-Age: \\[\\]"]
--- error_code eval
[201, 201, 422]



=== TEST 5: $idempotency_store_time is in seconds with microseconds
--- config
add_header X-Time "[$idempotency_store_time]" always;
location / { idempotency main; proxy_pass http://app; }
--- key: k
--- request eval
["POST /orders", "POST /orders"]
--- response_headers_like eval
[("X-Time: \\[[0-9]+\\.(?!000000)[0-9]{6}\\]") x 2]
--- error_code eval
[201, 201]



=== TEST 6: $idempotency_key_id is a digest that distinguishes keys and does not reveal them
--- config
add_header X-Id $idempotency_key_id always;
location / { idempotency main; proxy_pass http://app; }
--- more_headers eval
["X-API-Key: alice\nIdempotency-Key: secret", "X-API-Key: alice\nIdempotency-Key: \"secret\"", "X-API-Key: bob\nIdempotency-Key: secret", "X-API-Key: alice\nIdempotency-Key: other"]
--- request eval
[("POST /orders") x 4]
--- raw_response_headers_like eval
[("X-Id: [0-9a-f]{64}\r\n") x 4]
--- raw_response_headers_unlike eval
[("secret|alice") x 4]
--- error_code eval
[(201) x 4]



=== TEST 7: the variables can be used in a header to the application
--- location
proxy_set_header App-Space $TEST_NGINX_SPACE;
proxy_set_header X-Key-Id $idempotency_key_id;
proxy_set_header X-Status $idempotency_status;
--- key: k
--- request eval
["POST /orders", "GET /last/orders"]
--- response_body eval
[echo(1, "POST /orders"), qr/"X-Key-Id", "[0-9a-f]{64}"\], \["X-Status", "NEW"\]/]
--- error_code eval
[201, 200]



=== TEST 8: $idempotency_code is the code of the module's own response
--- config
add_header X-Code "[$idempotency_code]" always;
location / { idempotency main; proxy_pass http://app; }
location /required { idempotency main required; proxy_pass http://app; }
location /small { idempotency main; idempotency_max_body 10; proxy_pass http://app; }
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: $_" } "k", "k", "k", "a b", "small", "small", "broken", "broken"]
--- request eval
["POST /one", "POST /one", "POST /two", "POST /one", "POST /small?size=200", "POST /small?size=200", "POST /broken?abort=reset", "POST /broken?abort=reset"]
--- response_headers eval
[map { "X-Code: [$_]" } "", "", "idempotency_key_reused", "idempotency_key_invalid", "", "response_not_kept", "", "outcome_unknown"]
--- error_code eval
[201, 201, 422, 400, 201, 409, 502, 409]



=== TEST 9: $idempotency_code where error_page sends another response
--- config
add_header X-Code "[$idempotency_code]" always;
location / { idempotency main; error_page 422 = /page; proxy_pass http://app; }
location = /page { return 200 page; }
--- key: k
--- request eval
["POST /one", "POST /two"]
--- response_headers eval
["X-Code: []", "X-Code: [idempotency_key_reused]"]
--- error_code eval
[201, 200]



=== TEST 10: $idempotency_store is the name of the store, whatever becomes of the request
--- config
add_header X-Store "[$idempotency_store]" always;
location / { idempotency main; idempotency_bypass $http_x_bypass; proxy_pass http://app; }
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: $_" } "k", "k", "a b", "k\nX-Bypass: 1"]
--- request eval
[("POST /one") x 4]
--- response_headers eval
[("X-Store: [main]") x 4]
--- error_code eval
[201, 201, 400, 201]



=== TEST 11: $idempotency_since is when the response was kept
--- config
add_header X-Since "[$idempotency_since]" always;
location / { idempotency main; proxy_pass http://app; }
--- key: k
--- request eval
["POST /orders", "POST /orders"]
--- response_headers_like eval
my $now = time; my $seconds = CORE::join('|', $now - 60 .. $now + 60);
["X-Since: \\[\\]", "X-Since: \\[(?:$seconds)\\]"]
--- error_code eval
[201, 201]
