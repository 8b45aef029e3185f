# A client gets a replay only if the access checks allow its request, and a refused request claims nothing.
#
# In each block the client's address is that of X-Real-IP, and html/users knows the password of alice. Sections of this file:
#
#   --- checks: address password  The covered location has these access checks: `address` allows 10.0.0.1, `password` is for alice,
#                                 `subrequest` allows requests with `X-Token: good`.
#   --- refusal: 403 Forbidden    Four equal requests: the first and the third are refused with this status, the second is
#                                 executed, and the fourth gets its replay. `--- request_body` is their body.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use MIME::Base64 ();
use IdempotencyTest 'no_plan';

my $right = 'Authorization: Basic ' . MIME::Base64::encode('alice:right', '');
my $wrong = 'Authorization: Basic ' . MIME::Base64::encode('alice:wrong', '');

my %check = (
    address => "allow 10.0.0.1;\ndeny all;\n",
    password => "auth_basic realm;\nauth_basic_user_file ../html/users;\n",
    subrequest => "auth_request /auth;\n",
);

my $auth = <<'END';
location = /auth {
    internal;
    if ($http_x_token != good) { return 403; }
    return 204;
}
END

sub add_checks {
    my ($block) = @_;
    my @checks = split ' ', $block->checks;
    $block->set_value('location', join '', $block->location // '', @check{@checks});
    $block->set_value('config', ($block->config // '') . $auth) if grep { $_ eq 'subrequest' } @checks;
}

sub expect_refusals {
    my ($block) = @_;
    my $refusal = qr/${\$block->refusal}/;
    my ($status) = $block->refusal =~ /^(\d+)/;
    my $body = $block->request_body;
    my $response = Test::Base::Filter::echo(1, 'POST /orders', $body);

    $block->set_value('request', [('POST /orders' . (defined $body ? "\n$body" : '')) x 4]);
    $block->set_value('error_code', [$status, 201, $status, 201]);
    $block->set_value('response_body', [$refusal, $response, $refusal, $response]);
    $block->set_value('response_headers', [('!Idempotent-Replayed') x 3, 'Idempotent-Replayed: true']);
}

add_block_preprocessor(sub {
    my ($block) = @_;
    $block->set_value('user_files', ">>> users\nalice:{PLAIN}right\n");
    $block->set_value('http_config', 'set_real_ip_from 127.0.0.1; real_ip_header X-Real-IP; ' . ($block->http_config // ''));
    add_checks($block) if defined $block->checks;
    expect_refusals($block) if defined $block->refusal;
});

# Perl in a block is evaluated in this package.
sub Test::Base::Filter::right { return $right }
sub Test::Base::Filter::wrong { return $wrong }

run_tests();

__DATA__

=== TEST 1: auth_basic refuses before anything is replayed or claimed
--- location
idempotency_scope off;
--- checks: password
--- more_headers eval
[map { "$_\nIdempotency-Key: k" } wrong, right, wrong, right]
--- refusal: 401



=== TEST 2: a missing password is refused, with any key
--- location
idempotency_scope off;
--- checks: password
--- more_headers eval
[right . "\nIdempotency-Key: k", "Idempotency-Key: k", "Idempotency-Key: a b"]
--- request eval
[("POST /orders") x 3]
--- error_code eval
[201, 401, 401]



=== TEST 3: allow and deny refuse before anything is replayed or claimed
--- checks: address
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k\nX-Real-IP: 10.0.0.$_" } 2, 1, 2, 1]
--- refusal: 403 Forbidden



=== TEST 4: auth_request refuses before anything is replayed or claimed
--- checks: subrequest
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k\nX-Token: $_" } qw(bad good bad good)]
--- refusal: 403 Forbidden
--- request_body: body



=== TEST 5: auth_request asks a covered location, which is not covered as a subrequest
--- config
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
--- location
auth_request /auth;
--- key: k
--- request eval
["POST /orders", "POST /orders", "GET /count/auth", "GET /count/orders"]
--- error_code eval
[201, 201, 200, 200]
--- response_body eval
[(echo(1, "POST /orders")) x 2, "2\n", "1\n"]



=== TEST 6: satisfy any: a request that all checks refuse gets no replay and claims nothing
--- location
idempotency_scope off;
satisfy any;
--- checks: address password
--- more_headers eval
["X-Real-IP: 10.0.0.2\nIdempotency-Key: k", "X-Real-IP: 10.0.0.2\n" . wrong . "\nIdempotency-Key: k",
 "X-Real-IP: 10.0.0.1\nIdempotency-Key: k", "X-Real-IP: 10.0.0.2\nIdempotency-Key: k",
 "X-Real-IP: 10.0.0.2\n" . wrong . "\nIdempotency-Key: k", "X-Real-IP: 10.0.0.2"]
--- request eval
[("POST /orders") x 5, "GET /count/orders"]
--- error_code eval
[401, 401, 201, 401, 401, 200]
--- response_body eval
[(qr/<title>401 /) x 2, echo(1, "POST /orders"), (qr/<title>401 /) x 2, "1\n"]



=== TEST 7: satisfy any: a request that one check allows is covered
--- location
idempotency_scope off;
satisfy any;
--- checks: address password
--- more_headers eval
["X-Real-IP: 10.0.0.1\nIdempotency-Key: k", "X-Real-IP: 10.0.0.1\nIdempotency-Key: k",
 "X-Real-IP: 10.0.0.2\n" . right . "\nIdempotency-Key: k"]
--- executions: 1 1 1
--- response_headers eval
["!Idempotent-Replayed", ("Idempotent-Replayed: true") x 2]



=== TEST 8: satisfy any with auth_request alone refuses and allows
--- location
satisfy any;
deny all;
--- checks: subrequest
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k\nX-Token: $_" } qw(bad good bad good)]
--- refusal: 403 Forbidden



=== TEST 9: limit_except refuses before anything is replayed or claimed
--- config
location / {
    idempotency main;
    limit_except GET { allow 10.0.0.1; deny all; }
    proxy_pass http://app;
}
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k\nX-Real-IP: 10.0.0.$_" } 2, 1, 2, 1]
--- refusal: 403 Forbidden



=== TEST 10: limit_req also counts a retry
--- http_config
limit_req_zone all zone=once:1m rate=1r/m;
--- location
limit_req zone=once;
limit_req_status 429;
--- key: k
--- request eval
["POST /orders", "POST /orders", "GET /count/orders"]
--- error_code eval
[201, 429, 200]
--- response_body eval
[echo(1, "POST /orders"), qr/429 Too Many/, "1\n"]



=== TEST 11: an auth_request whose subrequest fails refuses too
--- config
location = /auth {
    internal;
    if ($http_x_token = broken) { return 500; }
    if ($http_x_token = unknown) { return 401; }
    return 204;
}
--- location
auth_request /auth;
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k\nX-Token: $_" } qw(broken unknown good broken unknown good good)]
--- request eval
[("POST /orders\nbody") x 6, "GET /count/orders"]
--- error_code eval
[500, 401, 201, 500, 401, 201, 200]
--- response_body eval
[qr/500 Internal/, qr/<title>401 /, echo(1, "POST /orders", "body"), qr/500 Internal/, qr/<title>401 /, echo(1, "POST /orders", "body"), "1\n"]
--- response_headers eval
[("!Idempotent-Replayed") x 5, "Idempotent-Replayed: true", "!Idempotent-Replayed"]



=== TEST 12: satisfy any with all three checks: each of them allows a replay of the same response
--- location
idempotency_scope off;
satisfy any;
--- checks: address password subrequest
--- more_headers eval
[map { "X-Real-IP: 10.0.0.$_->[0]\n$_->[1]\nX-Token: $_->[2]\nIdempotency-Key: k" }
    [2, wrong, "bad"], [2, wrong, "good"], [2, wrong, "bad"],
    [1, wrong, "bad"], [2, right, "bad"], [2, wrong, "good"], [1, right, ""]]
--- request eval
[("POST /orders") x 6, "GET /count/orders"]
--- error_code eval
[401, 201, 401, 201, 201, 201, 200]
--- response_body eval
[qr/401/, echo(1, "POST /orders"), qr/401/, (echo(1, "POST /orders")) x 3, "1\n"]
--- response_headers eval
[("!Idempotent-Replayed") x 3, ("Idempotent-Replayed: true") x 3, "!Idempotent-Replayed"]



=== TEST 13: satisfy all: one check that refuses is enough
--- location
idempotency_scope off;
satisfy all;
--- checks: address password
--- more_headers eval
[map { "X-Real-IP: 10.0.0.$_->[0]\n$_->[1]\nIdempotency-Key: k" }
    [2, right], [1, wrong], [1, right], [2, right], [1, wrong],
    [1, right], [1, right]]
--- request eval
[("POST /orders") x 6, "GET /count/orders"]
--- error_code eval
[403, 401, 201, 403, 401, 201, 200]
--- response_body eval
[qr/403/, qr/401/, echo(1, "POST /orders"), qr/403/, qr/401/, echo(1, "POST /orders"), "1\n"]



=== TEST 14: an error page for a refusal is a separate request
--- config
location @guests {
    rewrite ^ /guests? break;
    proxy_set_header App-Space $TEST_NGINX_SPACE;
    proxy_pass http://app;
}
--- location
error_page 403 = @guests;
--- checks: address
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
location /closed {
    idempotency main;
    allow 10.0.0.1;
    deny all;
    proxy_pass http://app;
}
--- location
rewrite ^/orders$ /closed last;
--- more_headers eval
[map { "X-API-Key: alice\nIdempotency-Key: k\nX-Real-IP: 10.0.0.$_" } 2, 1, 2, 1, 1]
--- request eval
[("POST /orders") x 4, "GET /count/closed"]
--- error_code eval
[403, 201, 403, 201, 200]
--- response_body eval
[qr/403/, echo(1, "POST /closed"), qr/403/, echo(1, "POST /closed"), "1\n"]



=== TEST 16: an internal location claims nothing for a client
--- location
internal;
--- key: k
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
--- more_headers eval
[map { "$_\nIdempotency-Key: k" } wrong, right, wrong, right]
--- refusal: 401
