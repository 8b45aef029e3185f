# error_page for a request that the module has refused, or whose exchange has failed: no content handler gets it with its method and
# body.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app store_directives);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(dead_port);

my $nginx = IdempotencyTest::Nginx->new(log_format => '$request_method $request_uri $status [$idempotency_status]');
my $files = $nginx->directory;
my $dead = dead_port();
$nginx->write_file('sorry.html', "so sorry\n");

my $pages = <<'END';
            error_page 400 409 422 500 502 503 504 = @backup;
            proxy_pass http://app;
END

$nginx->set(http => "idempotency_store away { redis redis://127.0.0.1:$dead; } proxy_read_timeout 1s;", server => <<"END")->start;
        listen unix:$files/h2.sock http2;
        root $files;
        idempotency main;
        idempotency_scope off;

        location \@backup { rewrite ^ /backup? break; proxy_pass http://app; }
        location \@checked { deny all; proxy_pass http://app; }
        location \@returns { return 418 "short and stout\\n"; }
        location \@rewritten { rewrite ^ /backup last; }
        location \@mirrored { mirror /mirror; proxy_pass http://app; }
        location = /mirror { internal; idempotency off; proxy_pass http://app; }
        location \@tries { try_files /sorry.html \@backup; }
        location = /backup { proxy_pass http://app; }
        location = /service { idempotency off; proxy_pass http://app/service?status=200; }
        location = /sorry.html { }

        location /named { $pages }
        location /intercepted { proxy_intercept_errors on; error_page 404 429 = \@backup; $pages }
        location /away { idempotency away; $pages }
        location /checked { error_page 409 = \@checked; proxy_pass http://app; }
        location /returns { error_page 409 = \@returns; proxy_pass http://app; }
        location /rewritten { error_page 409 502 = \@rewritten; proxy_pass http://app; }
        location /mirrored { error_page 409 502 = \@mirrored; proxy_pass http://app; }
        location /tries { error_page 409 502 = \@tries; proxy_pass http://app; }
        location /overwritten { error_page 409 502 =200 \@backup; proxy_pass http://app; }
        location /recursive { recursive_error_pages on; error_page 409 502 = \@recursive; proxy_pass http://app; }
        location \@recursive { recursive_error_pages on; error_page 409 502 = \@recursive; proxy_pass http://app; }
        location /service-page { error_page 400 409 422 502 504 /service; proxy_pass http://app; }
        location /unread { idempotency_fingerprint \$request_uri body=off; error_page 400 409 422 502 504 /service; proxy_pass http://app; }
        location /checked-page { error_page 502 = \@checked; proxy_pass http://app; }
        location /returns-page { error_page 502 = \@returns; proxy_pass http://app; }
        location /file { error_page 409 502 /sorry.html; proxy_pass http://app; }
        location /dead { error_page 502 = \@backup; proxy_pass http://127.0.0.1:$dead; }
        location /stored { idempotency_unknown store; $pages }
        location /released { proxy_intercept_errors on; error_page 401 429 =200 /sorry.html; error_page 403 \@returns; proxy_pass http://app; }
        location /words { proxy_intercept_errors on; error_page 404 =200 /sorry.html; proxy_pass http://app; }
END

my $keys = 0;

sub ask {
    my ($path, $key, %request) = @_;
    return $nginx->request(path => $path, key => $key, body => 'the body', %request);
}

sub runs { return app()->count('/backup') + app()->count('/mirror') }

# The second location never gets a request in this block.
sub never_there {
    my ($name, $block) = @_;
    my $before = runs();
    $block->();
    is runs(), $before, "$name: no content handler of the named location gets it";
}

never_there('a refusal', sub {
    is_problem ask('/named', 'a b'), 400, 'idempotency_key_invalid', 'an invalid key gets the problem response';
    is ask('/named?x=1', 'reused')->status, 201, 'a request';
    is_problem ask('/named?x=2', 'reused'), 422, 'idempotency_key_reused', 'a key of another request gets the problem response';
    my $away = ask('/away', 'away');
    is_problem $away, 503, 'store_unavailable', 'a store that is unavailable gets the problem response';
    ok $away->header('Retry-After'), 'with its Retry-After';
    is scalar(() = $away->head =~ /^Retry-After:/mg), 1, 'once';
    is app()->count('/away'), 0, 'and runs nothing';

    my $client = $nginx->send_request(path => '/named/gate?gate=named', key => 'gate', body => 'the body');
    app()->await_arrival('/named/gate');
    is_problem ask('/named/gate?gate=named', 'gate'), 409, 'request_in_progress', 'a duplicate beside the first gets the problem response';
    app()->open_gate('named');
    my $first = $client->response;
    is_replay_of ask('/named/gate?gate=named', 'gate'), $first, 'and the replay later';
});

for my $path (qw(named rewritten mirrored tries overwritten recursive)) {
    never_there("an exchange that breaks (/$path)", sub {
        my $first = ask("/$path/broken?abort=before", "broken-$path");
        is $first->status, 502, "/$path: the response is a 502";
        like $first->body, qr/502 Bad Gateway/, "/$path: nginx's own page";
        is_problem ask("/$path/broken?abort=before", "broken-$path"), 409, 'outcome_unknown', "/$path: a retry gets the problem response";
        is app()->count("/$path/broken"), 1, "/$path: the application ran once";
    });
}

never_there('a time-out', sub {
    is ask('/named/slow?gate=never', 'slow')->status, 504, 'an application that is too slow: nginx responds 504';
    is_problem ask('/named/slow?gate=never', 'slow'), 409, 'outcome_unknown', 'and the outcome is unknown';
});

never_there('an intercepted 500', sub {
    my $first = ask('/intercepted/500?status=500', '500');
    is $first->status, 500, 'an application that responds 500: nginx responds with its own page';
    like $first->body, qr/500 Internal Server Error/, 'of 500';
    is_replay_of ask('/intercepted/500?status=500', '500'), $first, 'which is kept';
});

never_there('store', sub {
    my $first = ask('/stored/broken?abort=before', 'stored');
    is $first->status, 502, 'with "idempotency_unknown store" the 502';
    is_replay_of ask('/stored/broken?abort=before', 'stored'), $first, 'is kept';
});

# what goes on as configured

{
    my $before = app()->count('/backup');
    is_first my $first = ask('/intercepted/404?status=404', '404'), 201, $before + 1, 'an intercepted 404 goes on';
    is_replay_of ask('/intercepted/404?status=404', '404'), $first, 'under one claim';
    is_first $first = ask('/intercepted/503?status=503', '503'), 201, $before + 2, 'a retriable 503 goes on';
    is_replay_of ask('/intercepted/503?status=503', '503'), $first, 'and the response of the second application counts';
    is_first $first = ask('/dead', 'dead'), 201, $before + 3, 'an exchange that has not reached the application goes on';
    is_replay_of ask('/dead', 'dead'), $first, 'and the response of the second application is kept';
}

# the checks and the rewrite of a named location apply

for my $case ([checked => 403, qr/403 Forbidden/], [returns => 418, qr/^short and stout/]) {
    my ($path, $status, $body) = @$case;
    my $client = $nginx->send_request(path => "/$path/gate?gate=$path", key => "gate-$path", body => 'the body');
    app()->await_arrival("/$path/gate");
    my $response = ask("/$path/gate?gate=$path", "gate-$path");
    is $response->status, $status, "/$path: the named location responds";
    like $response->body, $body, "/$path: with its body";
    app()->open_gate($path);
    is $client->response->status, 201, "/$path: the first request is not disturbed";
}

# with a URI

for my $path (qw(service-page unread)) {
    my $before = app()->count('/service');
    my $first = ask("/$path?abort=before", "service-$path");
    is $first->status, 502, "/$path: a service that makes the page responds";
    like $first->body, qr{^#\d+ GET /service\S* -$}, "/$path: to a GET without a body";
    is app()->last_request('/service')->{length}, 0, "/$path: and gets no byte of it";
    my $retry = ask("/$path?abort=before", "service-$path");
    is $retry->status, 409, "/$path: the outcome is unknown";
    like $retry->body, qr{^#\d+ GET /service\S* -$}, "/$path: and the service makes the page of this too";
    my $invalid = ask("/$path", 'a b');
    is $invalid->status, 400, "/$path: a key that is invalid";
    like $invalid->body, qr{^#\d+ GET /service\S* -$}, "/$path: gets a page of the service";
    is app()->count('/service') - $before, 3, "/$path: for each request one";
    is app()->count("/$path"), 1, "/$path: the application ran once";
}

is ask('/file/broken?abort=before', 'file')->body, "so sorry\n", 'a file is the page of a broken exchange';
is ask('/file/broken?abort=before', 'file')->body, "so sorry\n", 'and of its retry';
is app()->count('/file/broken'), 1, 'which runs once';

# The same for a response that breaks off behind its headers, of which the client has nothing.

my %breaks = (truncated => 'abort=mid&kind=binary&size=50000&header=X-Early:1', 'ill-formed chunks' => 'abort=chunk&kind=binary&size=50000&framing=chunked&header=X-Early:1');

for my $how (sort keys %breaks) {
    my $n = $how =~ s/\W+/-/gr;

    for my $path (qw(named rewritten mirrored tries overwritten recursive stored)) {
        never_there("a response that breaks off (/$path, $how)", sub {
            is_problem ask("/$path/$n?$breaks{$how}", "$n-$path"), 502, 'outcome_unknown', "/$path: the problem response ($how)";
            is_problem ask("/$path/$n?$breaks{$how}", "$n-$path"), 409, 'outcome_unknown', "/$path: and of a retry ($how)";
            is app()->count("/$path/$n"), 1, "/$path: the application ran once ($how)";
        });
    }

    is ask("/checked-page/$n?$breaks{$how}", "$n-checked")->status, 403, "the checks of a named location apply ($how)";
    is ask("/returns-page/$n?$breaks{$how}", "$n-returns")->body, "short and stout\n", "and its return ($how)";

    for my $path (qw(service-page unread)) {
        my $client = $nginx->connect;
        my $first = $client->send(path => "/$path/$n?$breaks{$how}", key => "$n-$path", body => 'the body')->response;
        is $first->status, 502, "/$path: a page in place of a response that breaks off ($how)";
        like $first->body, qr{^#\d+ GET /service\S* -$}, "/$path: of a service, which gets a GET without a body ($how)";
        is $first->header('X-Early'), undef, "/$path: without the headers of the response ($how)";
        is ask("/$path/$n?$breaks{$how}", "$n-$path")->status, 409, "/$path: the outcome is unknown ($how)";
        is app()->count("/$path/$n"), 1, "/$path: the application ran once ($how)";
    }

    is ask("/file/$n?$breaks{$how}", "$n-file")->body, "so sorry\n", "a file is its page ($how)";
    is ask("/file/$n?$breaks{$how}", "$n-file")->body, "so sorry\n", "and that of its retry ($how)";
    is app()->count("/file/$n"), 1, "which runs once ($how)";
}

{
    my $client = $nginx->send_request(path => '/file/left?abort=mid&size=50000&gate=left', key => 'left', body => 'the body');
    app()->await_arrival('/file/left');
    $client->close;
    app()->open_gate('left');
    like $nginx->await_access_log(qr{/file/left}), qr/502 \[UNKNOWN\]/, 'a client that has left: the request ends';
}

{
    my @curl = ('curl', '-sS', '--http2-prior-knowledge', '--unix-socket', $nginx->directory . '/h2.sock', '-X', 'POST', '-H', 'Idempotency-Key: h2');
    open my $out, '-|', @curl, 'http://localhost/file/h2?abort=mid&size=50000' or die "curl: $!\n";
    is join('', <$out>), "so sorry\n", 'over HTTP/2 too';
}

# what a response of the application means survives its error page

for my $status (401, 429, 403) {
    is ask("/released/$status?status=$status", "released-$status")->status, $status == 403 ? 403 : 200, "a $status with an error page";
    my $second = ask("/released/$status?status=$status", "released-$status");
    ok !$second->is_replay, "a $status means that the application has not acted, whatever the page says";
    is app()->count("/released/$status"), 2, "and the retry runs ($status)";
}

{
    my $path = '/words?status=404&header=X-Accel-Idempotency:';
    is ask($path . 'release', 'release')->body, "so sorry\n", 'a page in place of a response with "release"';
    ok !ask($path . 'release', 'release')->is_replay, 'whose key is free';
    is ask($path . 'no-store', 'no-store')->body, "so sorry\n", 'a page in place of a response with "no-store"';
    is_problem ask($path . 'no-store', 'no-store'), 409, 'response_not_kept', 'which is not kept';
}

$nginx->stop;
done_testing;
