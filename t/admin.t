# idempotency_admin: an operator looks up, forgets and settles keys, and erases those of a scope.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use MIME::Base64 qw(decode_base64);
use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Requests qw(@who ask await_status begin);

my $server = <<'END';
        add_header X-Id $idempotency_key_id always;
        idempotency main;
        idempotency_scope $http_x_api_key;
        location / { proxy_pass http://app; }
        location /broken/ { proxy_read_timeout 200ms; proxy_next_upstream off; proxy_pass http://app; }
        location /short/ { idempotency_lease 1s; proxy_pass http://app; }
        location /two/ { idempotency_scope $http_authorization $http_x_api_key any; proxy_pass http://app; }
        location /global/ { idempotency_scope off; proxy_pass http://app; }
        location = /admin { idempotency_admin; allow unix:; deny all; }
        location = /admin-if { idempotency_admin; allow unix:; deny all; if ($http_x_debug) { set $debug 1; } }
        location = /status-if { idempotency_status prometheus; if ($http_x_debug) { set $debug 1; } }
        location = /status-limited { idempotency_status; limit_except POST { allow unix:; deny all; } }
        location = /admin-limited { idempotency_admin; allow unix:; deny all; limit_except GET { allow unix:; deny all; } }
        location = /admin-closed { idempotency_admin; allow unix:; deny all; limit_except GET { deny all; } }
        location = /ssi { ssi on; ssi_types text/plain; proxy_pass http://app/ssi; }
END

my $nginx = IdempotencyTest::Nginx->start(server => $server, short_leases => 1, log_level => 'info',
    http => "idempotency_store z\xc3\xa4hler { memory 1m; }");
my @alice = ('Idempotency-Scope: alice');
my @change = ('Idempotency-Admin: 1');

sub admin {
    my ($method, $arguments, @headers) = @_;
    return $nginx->request(method => $method, path => "/admin?store=main$arguments", headers => [@headers]);
}

sub change { my ($method, $arguments, @headers) = @_; return admin($method, $arguments, @change, @headers) }
sub show { return admin('GET', @_)->json }
sub named { my ($key) = @_; return ("Idempotency-Key: $key", @alice) }

sub is_refused {
    my ($response, $status, $code, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $problem = $response->json;
    is join(' ', $response->status, $problem->{status} // '', $problem->{code} // '', $response->header('Content-Type')),
        "$status $status $code application/problem+json", $name;
}

# A key whose outcome is unknown.
sub make_unknown {
    my ($key) = @_;
    my $response = ask($nginx, "/broken/$key?gate=$key", $key);
    is $response->status, 504, 'the application does not respond';
    return $response->header('X-Id');
}

subtest 'A kept response' => sub {
    my $first = ask($nginx, '/kept?header=X-Tag:caf%C3%A9', 'kept');
    my $id = $first->header('X-Id');
    my $key = show("&id=$id");
    is "$key->{store} $key->{id} $key->{state} $key->{status}", "main $id kept 201", 'is found by its id';
    my $same = show('', named('kept'));
    is_deeply {%$same, time_left => 0, expires => 0}, {%$key, time_left => 0, expires => 0}, 'and by key and scope';
    is show('', named('"kept"'))->{id}, $id, 'the key may be quoted';
    cmp_ok abs($key->{claimed} - time), '<', 20, 'it says when it was claimed';
    cmp_ok $key->{since}, '>=', $key->{claimed}, 'and kept';
    cmp_ok abs($key->{expires} - time - 86400), '<', 20, 'and until when';
    is $key->{sizes}{body}, length $first->body, 'and its size';
    like $key->{token}, qr/^\d{16}$/, 'and its token';
    ok !exists $key->{answer}, 'not its response';

    my $answer = show("&id=$id&show=answer")->{answer};
    is decode_base64($answer->{body_base64}), $first->body, 'show=answer shows the body';
    is $answer->{status}, 201, 'the status';
    my ($tag) = grep { $_->{name} eq 'X-Tag' } @{$answer->{headers}};
    is $tag->{value}, "caf\x{e9}", 'and the headers, each byte as a character';
    ok $nginx->await_error_log(qr/\[notice\].*key $id in store "main", state kept.*its response is shown.*unix:/), 'and that is logged';

    my $response = admin('GET', "&id=$id");
    is $response->header('Cache-Control'), 'no-store', 'the response must not be cached';
    my $head = admin('HEAD', "&id=$id");
    is $head->status . length $head->body, '2000', 'HEAD has no body';

    is_refused admin('DELETE', "&id=$id"), 403, 'admin_header_missing', 'a change needs the header';
    is_refused admin('DELETE', "&id=$id", 'Idempotency-Admin: 0'), 403, 'admin_header_missing', 'with its value';
    is_replay_of ask($nginx, '/kept?header=X-Tag:caf%C3%A9', 'kept'), $first, 'nothing was changed';
    is_refused change('POST', "&id=$id&outcome=released"), 409, 'key_not_unknown', 'a finished key is not settled';
    my $done = change('DELETE', "&id=$id")->json;
    is "$done->{id} $done->{was} $done->{done}", "$id kept forgotten", 'it is forgotten';
    ok $nginx->await_error_log(qr/\[notice\].*key $id in store "main", state kept, token $key->{token}: forgotten by an operator, as unix: asked/), 'and that is logged';
    is_refused admin('GET', "&id=$id"), 404, 'key_not_found', 'it is not there any more';
    is_refused change('DELETE', "&id=$id"), 404, 'key_not_found', 'and can\'t be forgotten again';
    is_first ask($nginx, '/kept?header=X-Tag:caf%C3%A9', 'kept'), 201, 2, 'the next request runs';
};

subtest 'Scopes' => sub {
    my $first = $nginx->request(path => '/two/a', key => 'two', headers => ['X-API-Key: alice']);
    is show('', 'Idempotency-Key: two', 'Idempotency-Scope:', @alice)->{id}, $first->header('X-Id'), 'an empty value has a header without a value';
    is_refused admin('GET', '', 'Idempotency-Key: two', @alice, 'Idempotency-Scope:'), 404, 'key_not_found', 'the order counts';
    $first = $nginx->request(path => '/global/a', key => 'everyone');
    is show('', 'Idempotency-Key: everyone')->{id}, $first->header('X-Id'), 'without a header it is a global key';
};

subtest 'A running key' => sub {
    my $running = begin($nginx, '/running', 'running');
    my $key = show('', named('running'));
    is $key->{state}, 'running', 'is found';
    like $key->{holder}{worker}, qr/^(?:@{[join '|', $nginx->workers]})$/, 'with its worker';
    ok length $key->{holder}{host}, 'and host';
    ok $key->{lease_left} > 0 && $key->{lease_left} <= 30, 'and lease';
    is_refused change('DELETE', "&id=$key->{id}"), 409, 'key_running', 'it is not forgotten';
    is_refused change('POST', "&id=$key->{id}&outcome=not_kept"), 409, 'key_not_unknown', 'and not settled';
    app()->open_gate('running');
    is_first $running->response, 201, 1, 'it ends';
};

subtest 'A running key is freed' => sub {
    my $old = begin($nginx, '/short/freed', 'freed');
    is change('DELETE', '&force=1', named('freed'))->json->{was}, 'running', 'it is freed';
    is_refused admin('GET', '', named('freed')), 404, 'key_not_found', 'the key is free';
    # the old holder finds out at its next renewal
    ok $nginx->await_error_log(qr/claim was lost while its request ran/), 'its holder does not claim it again';
    is_refused admin('GET', '', named('freed')), 404, 'key_not_found', 'the key stays free';
    my $new = $nginx->send_request(path => '/short/freed?gate=second', key => 'freed', @who);
    app()->await_arrival('/short/freed', 2);
    is show('', named('freed'))->{state}, 'running', 'the next request has it';
    app()->open_gate('freed');
    is $old->response->status, 201, 'the old request gets its response';
    is show('', named('freed'))->{state}, 'running', 'and does not disturb the new claim';
    app()->open_gate('second');
    my $response = $new->response;
    is $response->status, 201, 'the new request gets its response';
    is_replay_of $nginx->request(path => '/short/freed?gate=second', key => 'freed', @who), $response, 'which is kept';
};

subtest 'The outcome of a freed request is not recorded' => sub {
    my $old = begin($nginx, '/late', 'late');
    change('DELETE', '&force=1', named('late'));
    app()->open_gate('late');
    is_first $old->response, 201, 1, 'it gets its response';
    ok $nginx->await_error_log(qr/POST \/late\?gate=late/), 'the loss is logged';
    is_refused admin('GET', '', named('late')), 404, 'key_not_found', 'the key is free';
    is_first ask($nginx, '/late', 'late'), 201, 2, 'and the next request runs';
};

subtest 'An unknown outcome' => sub {
    my $id = make_unknown('unknown-1');
    my $key = show("&id=$id");
    is $key->{state}, 'unknown', 'is found';
    is_refused change('DELETE', "&id=$id"), 409, 'key_unknown', 'it is not forgotten';
    is change('POST', "&id=$id&outcome=not_kept")->json->{done}, 'not_kept', 'it is settled as not kept';
    $key = show("&id=$id");
    is $key->{state}, 'not_kept', 'and found so';
    cmp_ok $key->{time_left}, '>', 86_000, 'for the window';
    is_problem ask($nginx, '/broken/unknown-1?gate=unknown-1', 'unknown-1'), 409, 'response_not_kept', 'a retry is told so';
    is_refused change('POST', "&id=$id&outcome=released"), 409, 'key_not_unknown', 'once';

    $id = make_unknown('unknown-2');
    is change('POST', "&id=$id&outcome=released")->json->{done}, 'released', 'another one is released';
    is_refused admin('GET', "&id=$id"), 404, 'key_not_found', 'the key is free';

    $id = make_unknown('unknown-3');
    is change('DELETE', "&id=$id&force=1")->json->{was}, 'unknown', 'another one is forgotten with force';
    is_refused admin('GET', "&id=$id"), 404, 'key_not_found', 'the key is free';
};

subtest 'Requests that are refused' => sub {
    my $id = 'ab' x 32;
    is_refused $nginx->request(method => 'GET', path => "/admin?id=$id"), 400, 'store_missing', 'without a store';
    is_refused $nginx->request(method => 'GET', path => "/admin?store=none&id=$id"), 404, 'store_not_found', 'with an unknown store';
    is_refused admin('GET', ''), 400, 'key_missing', 'without a key';
    is_refused admin('GET', '', 'Idempotency-Key: '), 400, 'key_invalid', 'with an empty key';
    is_refused admin('GET', '', 'Idempotency-Key: a', 'Idempotency-Key: b'), 400, 'key_invalid', 'with two keys';
    is_refused admin('GET', "&id=$id", named('a')), 400, 'key_ambiguous', 'with an id and a key';
    is_refused admin('GET', '&id=abc'), 400, 'id_invalid', 'with an id that is none';
    is_refused admin('GET', '', 'Idempotency-Key: a', 'Idempotency-Scope:'), 400, 'scope_invalid', 'with an empty scope';
    is_refused admin('GET', "&id=$id&id=$id"), 400, 'parameter_invalid', 'with an argument twice';
    is_refused admin('GET', "&id=$id&forced=1"), 400, 'parameter_invalid', 'with an unknown argument';
    is_refused admin('GET', "&id=$id&force=1"), 400, 'parameter_invalid', 'with an argument of another method';
    is_refused change('POST', "&id=$id"), 400, 'parameter_invalid', 'without an outcome';
    is_refused change('POST', "&id=$id&outcome=kept"), 400, 'parameter_invalid', 'with another outcome';
    my $put = admin('PUT', "&id=$id");
    is_refused $put, 405, 'method_not_allowed', 'with another method';
    is $put->header('Allow'), 'GET, HEAD, POST, DELETE', 'which says the right ones';
};

subtest 'A subrequest' => sub {
    my $first = ask($nginx, '/included', 'included');
    my $id = $first->header('X-Id');
    my $text = "<!--#include virtual='/admin?store=main&id=$id' -->" =~ s/([^\w.-])/sprintf '%%%02X', ord $1/ger;
    unlike $nginx->request(method => 'GET', path => "/ssi?text=$text")->body, qr/"state"/, 'gets nothing';
};

subtest 'Blocks within the location of a page' => sub {
    my $first = ask($nginx, '/blocks', 'blocks');
    my $over = sub {
        my ($page, $method, @headers) = @_;
        return $nginx->request(method => $method, path => "$page?store=main", headers => [@change, named('blocks'), 'X-API-Key: alice', @headers]);
    };
    is_refused $over->('/admin-if', 'POST', 'X-Debug: 1'), 400, 'parameter_invalid', 'in an if block, its requests are not covered';
    is $over->('/admin-if', 'DELETE', 'X-Debug: 1')->json->{done}, 'forgotten', 'and the page responds';
    is_refused $over->('/admin-if', 'DELETE', 'X-Debug: 1'), 404, 'key_not_found', 'to each of them';
    is_first ask($nginx, '/blocks', 'blocks'), 201, 2, 'a request runs';
    is $over->('/admin-closed', 'GET')->json->{state}, 'kept', 'with limit_except: a method outside of it';
    is $over->('/admin-closed', 'DELETE')->status, 403, 'one that it refuses';
    is $over->('/admin-limited', 'DELETE')->json->{done}, 'forgotten', 'and one that it lets in';
    like $nginx->request(method => 'GET', path => '/status-if', headers => ['X-Debug: 1'])->body, qr/^# HELP/, 'the same is true for the status page: in an if block';
    ok $nginx->request(method => 'GET', path => '/status-limited')->json->{stores}, 'and in limit_except';
};

subtest 'The name of a store' => sub {
    my $begun = $nginx->request(method => 'DELETE', path => '/admin?store=z%C3%A4hler', headers => [@change, @alice]);
    is $begun->status, 202, 'may have any characters';
    like $begun->body, qr/"store":"z\xc3\xa4hler"/, 'and is shown as it is';
};

subtest 'The keys of a scope are erased' => sub {
    my @keys = map { "erase-$_" } 1 .. 60;
    my %others = map { $_ => $nginx->request(path => '/erase', key => $_, headers => ['X-API-Key: bob']) } @keys;
    $nginx->request(path => "/erase?size=" . ($_ % 10 == 0 ? 3000 : 10), key => "erase-$_", headers => ['X-API-Key: carol']) for 1 .. 60;
    my $unknown = $nginx->request(path => '/broken/carol?gate=never', key => 'lost', headers => ['X-API-Key: carol']);
    is $unknown->status, 504, 'one is unknown';

    is_refused admin('DELETE', '', 'Idempotency-Scope: carol'), 403, 'admin_header_missing', 'the header is needed';
    my $begun = change('DELETE', '', 'Idempotency-Scope: carol');
    is $begun->status, 202, 'the erasure begins';
    my $erasure = $begun->json->{erasure};
    my $progress;
    ok await(sub { $progress = show("&erasure=$erasure"); $progress->{state} ne 'running' }), 'and ends';
    is "$progress->{state} $progress->{forgotten} $progress->{unknown} $progress->{unreadable}", 'done 60 1 0', 'all finished keys of the scope are forgotten';
    cmp_ok $progress->{examined}, '>=', 121, 'all records were examined';
    is scalar(grep { admin('GET', '', "Idempotency-Key: $_", 'Idempotency-Scope: carol')->status != 404 } @keys), 0, 'none is left';
    is scalar(grep { admin('GET', '', "Idempotency-Key: $_", 'Idempotency-Scope: bob')->status != 200 } @keys), 0, 'the keys of others are';
    is show('', 'Idempotency-Key: lost', 'Idempotency-Scope: carol')->{state}, 'unknown', 'and what is unknown';
    ok $nginx->await_error_log(qr/\[notice\].*erasure $erasure of a scope is done: \d+ records examined, 60 keys forgotten, 1 unknown and 0 unreadable are left; asked by unix:/), 'it is logged';
    is_refused admin('GET', '&erasure=abcdef'), 404, 'erasure_not_found', 'another erasure is not there';
};

$nginx->stop(allowed => qr/\[crit\]/);

subtest 'Who restricts the page' => sub {
    my $page = sub { my ($location, $more) = @_; return IdempotencyTest::Nginx->new(server => "$location", http => $more // '')->test_configuration };
    my ($status, $output) = $page->('location = /admin { idempotency_admin; }');
    isnt $status, 0, 'nobody';
    like $output, qr/"idempotency_admin" in \S+:\d+ is open to everyone: restrict its location with "allow" and "deny all"/, 'is refused';
    for my $rules ('allow 127.0.0.1;', 'allow 10.0.0.0/8; allow ::1; allow unix:;', 'allow ::/0;') {
        ($status, $output) = $page->("location = /admin { idempotency_admin; $rules }");
        isnt $status, 0, $rules;
        like $output, qr/open to everyone/, 'restricts nothing without a deny rule';
    }
    for my $guard ('idempotency_admin guarded;', 'idempotency_admin; allow 127.0.0.1; deny all;', 'idempotency_admin; deny all;', 'idempotency_admin; deny unix:;', 'idempotency_admin; allow all;', 'idempotency_admin; allow 127.0.0.1; deny ::/0;',
        'idempotency_admin; auth_basic x; auth_basic_user_file x;', 'idempotency_admin; auth_request /x;') {
        ($status, $output) = $page->("location = /admin { $guard }");
        is $status, 0, $guard or diag $output;
    }
    for my $guard ('allow 127.0.0.1; deny all;', 'auth_basic x; auth_basic_user_file x;', 'auth_request /x;') {
        ($status, $output) = $page->("$guard location = /admin { idempotency_admin; }");
        is $status, 0, "$guard in the server" or diag $output;
    }
    for my $off ('auth_basic off;', 'auth_request off;') {
        ($status, $output) = $page->("location = /admin { idempotency_admin; $off }");
        isnt $status, 0, $off;
    }
    ($status, $output) = $page->('location = /admin { idempotency_admin open; }');
    like $output, qr/invalid value "open" in "idempotency_admin": it must be "guarded", or no parameter/, 'another parameter';
};

done_testing;
