# Problem responses, and how a user can change them.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use IdempotencyTest 'no_plan';

run_tests();

__DATA__

=== TEST 1: a refusal is a problem response in JSON
--- config
location / { idempotency main required; proxy_pass http://app; }
--- more_headers
X-API-Key: alice
--- request
POST /orders
--- error_code: 400
--- response_headers
Content-Type: application/problem+json
!Retry-After
!Link
--- response_body_like eval
qr/\A\{"type":\s*"about:blank",\s*"title":\s*"[^"]+",\s*"status":\s*400,\s*"detail":\s*"[^"]+",\s*"code":\s*"idempotency_key_missing"\}\s*\z/



=== TEST 2: another request with a used key gets a 422 with its code
--- key: k
--- request eval
["POST /orders\none", "POST /orders\ntwo"]
--- error_code eval
[201, 422]
--- response_headers eval
["", "Content-Type: application/problem+json\n!Retry-After\n!Idempotent-Replayed"]
--- response_body eval
[echo(1, "POST /orders", "one"), qr/"status":\s*422,.*"code":\s*"idempotency_key_reused"/]



=== TEST 3: a problem has a type and a link where a base is set
--- config
location / {
    idempotency main required;
    idempotency_problem_base https://errors.example/;
    proxy_pass http://app;
}
--- more_headers eval
["X-API-Key: alice", "Idempotency-Key: k"]
--- request eval
["POST /orders", "POST /orders"]
--- error_code eval
[400, 400]
--- response_headers eval
["Link: <https://errors.example/idempotency_key_missing>; rel=\"describedby\"",
 "Link: <https://errors.example/idempotency_scope_missing>; rel=\"describedby\""]
--- response_body eval
[qr{"type":\s*"https://errors\.example/idempotency_key_missing"}, qr{"type":\s*"https://errors\.example/idempotency_scope_missing"}]



=== TEST 4: an error_page replaces the problem response
--- config
error_page 400 /custom;
error_page 422 =409 @named;
location / { idempotency main; proxy_pass http://app; }
location = /custom { internal; return 400 "custom\n"; }
location @named { return 409 "named\n"; }
--- more_headers eval
["X-API-Key: alice\nIdempotency-Key: a b", "X-API-Key: alice\nIdempotency-Key: k", "X-API-Key: alice\nIdempotency-Key: k"]
--- request eval
["POST /orders", "POST /orders\none", "POST /orders\ntwo"]
--- error_code eval
[400, 201, 409]
--- response_body eval
["custom\n", echo(1, "POST /orders", "one"), "named\n"]



=== TEST 5: a file as error_page replaces the problem response too
--- config
error_page 400 /custom.html;
location / { idempotency main; proxy_pass http://app; }
location = /custom.html { root html; }
--- user_files
>>> custom.html
a page of the user
--- key: a b
--- request
POST /orders
--- error_code: 400
--- response_body
a page of the user



=== TEST 6: a refusal is never kept
--- location
idempotency_scope $http_x_tenant;
--- more_headers eval
["X-Tenant: t\nIdempotency-Key: a b", "X-Tenant: t\nIdempotency-Key: \"a b\"", "X-Tenant: t\nIdempotency-Key: \"a b\""]
--- request eval
["POST /orders", "POST /orders", "POST /orders"]
--- error_code eval
[400, 201, 201]
--- response_body eval
[problem('idempotency_key_invalid'), (echo(1, "POST /orders")) x 2]



=== TEST 7: headers of add_header are on a problem response
--- location
add_header X-Always yes always;
--- key: a b
--- request
POST /orders
--- error_code: 400
--- response_headers
X-Always: yes
--- response_body_like: idempotency_key_invalid



=== TEST 8: a refused request with a body leaves its connection usable
--- pipelined_requests eval
["POST /orders\n" . "x" x 100000, "POST /orders\n" . "x" x 100000]
--- key: a b
--- error_code eval
[400, 400]
--- response_body eval
[(problem('idempotency_key_invalid')) x 2]
