# Internal redirects: the final response is kept, with one claim that survives all redirects.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app store_directives);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await dead_port);
use IdempotencyTest::Requests qw(first_and_retry);

my $dead = dead_port();
my $other = 'idempotency_store other { ' . store_directives() . ' }';
my $nginx = IdempotencyTest::Nginx->new(log_format => '$request_method $request_uri $status [$idempotency_status]');
my $files = $nginx->directory . '/files';
mkdir $files and mkdir "$files/index" or die "mkdir: $!\n";

my %content = (
    'small.txt' => "a small file\n",
    'empty.txt' => '',
    'large.txt' => join('', map { "line $_\n" } 1 .. 8_000),
    'over.txt' => 'x' x 2_000_000,
    'sorry.html' => "so sorry\n",
    'index/index.app' => "for the index module to find\n",
);
$nginx->write_file("files/$_", $content{$_}) for keys %content;

$nginx->set(http => $other, server => <<"END")->start;
        idempotency main;
        root $files;
        location / { proxy_pass http://app; }
        location /unbuffered/ { proxy_buffering off; proxy_pass http://app; }

        location /sendfile/ { internal; sendfile on; alias $files/; }
        location /read/ { internal; sendfile off; alias $files/; }
        location /threads/ { internal; aio threads; sendfile off; output_buffers 2 16k; alias $files/; }
        location /threads-sendfile/ { internal; aio threads; sendfile on; alias $files/; }
        location /directio/ { internal; directio 1; output_buffers 2 16k; alias $files/; }
        location /directio-threads/ { internal; aio threads; directio 1; alias $files/; }
        location /uncovered/ { internal; idempotency off; alias $files/; }
        location /denied/ { internal; deny all; alias $files/; }
        location = /returned { return 202 "returned\\n"; }
        location = /elsewhere { idempotency other; idempotency_methods GET POST; proxy_pass http://app/second; }
        location \@second { rewrite ^ /second? break; proxy_pass http://app; }
        location \@dead { proxy_pass http://127.0.0.1:$dead; }
        location = /second { internal; proxy_pass http://app/second?status=203; }
        location = /sorry.html { internal; }

        location /intercepted/ {
            proxy_intercept_errors on;
            error_page 500 502 503 504 /sorry.html;
            error_page 404 =200 /sorry.html;
            error_page 410 = /second;
            error_page 418 = \@second;
            error_page 406 https://example.com/none;
            error_page 405 = \@dead;
            proxy_pass http://app;
            location /intercepted/unbuffered/ { proxy_buffering off; proxy_pass http://app; }
        }
        location /recursive/ {
            proxy_intercept_errors on;
            recursive_error_pages on;
            error_page 404 = \@again;
            proxy_pass http://app;
        }
        location \@again { error_page 404 405 = \@second; rewrite ^ /again?status=404 break; proxy_intercept_errors on; proxy_pass http://app; }
        location = /circle { proxy_intercept_errors on; recursive_error_pages on; error_page 418 = /circle?\$args; proxy_pass http://app; }
        location /limited/ { proxy_intercept_errors on; error_page 418 = \@limited; proxy_pass http://app; }
        location \@limited { limit_except PUT DELETE { deny all; } rewrite ^ /second? break; proxy_pass http://app; }
        location \@refusing { limit_except POST { deny all; } rewrite ^ /second? break; proxy_pass http://app; }
        location /refused/ { proxy_intercept_errors on; error_page 418 = \@refusing; proxy_pass http://app; }

        location /dead/ { error_page 502 /sorry.html; proxy_pass http://127.0.0.1:$dead; }
        location /dead-then-app/ { error_page 502 = \@second; proxy_pass http://127.0.0.1:$dead; }
        location /dead-and-dead/ { error_page 502 = \@dead; proxy_pass http://127.0.0.1:$dead; }
        location /status/ { proxy_intercept_errors on; error_page 418 =503 /sorry.html; proxy_pass http://app; }

        location /try/named { try_files /nothing \@second; }
        location /try/location { try_files /nothing /tried\$uri?\$args; }
        location /try/file { try_files /small.txt =404; }
        location /try/code { try_files /nothing =404; }
        location /rewritten/ { rewrite ^/rewritten/(.*) /\$1 last; }
        location /broken-rewrite/ { rewrite ^/broken-rewrite/(.*) /\$1 break; proxy_pass http://app; }
        location = /index/ { index index.app; }
        location ~ \\.app\$ { proxy_pass http://app; }

        location /answers/ { error_page 409 422 400 /sorry.html; proxy_pass http://app; }
END

my $keys = 0;

sub ask {
    my ($path, $key, %request) = @_;
    return $nginx->request(path => $path, key => $key, headers => ['X-API-Key: alice'], %request);
}

sub pair {
    my ($path, %request) = @_;
    return first_and_retry($nginx, $path, 'key-' . ++$keys, %request);
}

# The first request gets this response, and its retry the same byte for byte, without another execution.
sub is_kept {
    my ($path, $status, $body, $name, %more) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my %request = %{delete $more{request} || {}};
    my $query = delete $more{query} // '';
    my %before = map { $_ => app()->count($_) } keys %more;
    my ($first, $retry) = pair("$path$query", %request);

    is $first->status, $status, "$name gets a response";
    ref $body ? like($first->body, $body, "with what it comes to ($name)") : ok($first->body eq $body, "with the expected body ($name)");
    is_replay_of $retry, $first, "$name is replayed";
    is app()->count($_) - $before{$_}, $more{$_}, "$name: $_ ran $more{$_} times" for sort keys %more;
    return $first, $retry;
}

sub is_run_again {
    my ($path, $query, $status, $n, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my ($first, $retry) = pair("$path$query");
    is $first->status, $status, "$name gets a response";
    ok !$retry->is_replay, "$name is not kept";
    is app()->count($path), $n, "$name: the application ran $n times";
    return $first, $retry;
}

# X-Accel-Redirect to a file, with every way of nginx to send it

for my $way (qw(sendfile read threads threads-sendfile directio directio-threads uncovered)) {
    for my $file (qw(small.txt empty.txt large.txt)) {
        for my $where ('', 'unbuffered/') {
            my $path = "/${where}accel-$way-$file";
            my ($first, $retry) = is_kept($path, 200, $content{$file}, "$file ($way" . ($where && ', unbuffered') . ')',
                query => "?header=X-Accel-Redirect:/$way/$file", $path => 1);
            ok defined $first->header('ETag') && defined $first->header('Last-Modified'), "it has the file's fields ($way, $file)";
        }
    }

    my $path = "/accel-$way-over";
    my ($first, $retry) = pair("$path?header=X-Accel-Redirect:/$way/over.txt");
    ok $first->body eq $content{'over.txt'}, "a file over the limit is delivered completely ($way)";
    is_problem $retry, 409, 'response_not_kept', "its retry gets response_not_kept ($way)";
    is app()->count($path), 1, "and the application ran once ($way)";
}

for my $way (qw(sendfile threads directio-threads)) {
    my $path = "/leave-$way";
    my $query = "?gate=$way&header=X-Accel-Redirect:/$way/large.txt";
    my $client = $nginx->send_request(path => $path . $query, key => "leave-$way", headers => ['X-API-Key: alice']);
    app()->await_arrival($path);
    $client->close;
    app()->open_gate($way);
    my $retry;
    await(sub { $retry = ask($path . $query, "leave-$way"); $retry->code ne 'request_in_progress' });
    ok $retry->is_replay && $retry->body eq $content{'large.txt'}, "a file whose client has disconnected is kept ($way)";
    is app()->count($path), 1, "and the application ran once ($way)";
}

{
    my ($first, $retry) = is_kept('/accel-range', 200, $content{'large.txt'}, 'a range of a file', query => '?header=X-Accel-Redirect:/sendfile/large.txt',
        request => {headers => ['X-API-Key: alice', 'Range: bytes=0-3']}, '/accel-range' => 1);
    my $etag = $first->header('ETag');
    is_kept('/accel-match', 200, $content{'large.txt'}, 'a condition on a file', query => '?header=X-Accel-Redirect:/sendfile/large.txt',
        request => {headers => ['X-API-Key: alice', "If-None-Match: $etag"]}, '/accel-match' => 1);
}

is_kept('/accel-missing', 404, qr/404 Not Found/, 'a file that is not there', query => '?header=X-Accel-Redirect:/sendfile/none.txt',
    '/accel-missing' => 1);

# the retry is refused, or gets its response, where the internal redirect has led the first request
for my $case (['/accel-denied', '/denied/small.txt', 403, qr/403 Forbidden/], ['/accel-returned', '/returned', 202, qr/^returned$/]) {
    my ($path, $target, $status, $body) = @$case;
    my @responses = pair("$path?header=X-Accel-Redirect:$target");
    is $_->status, $status, "X-Accel-Redirect to $target" for @responses;
    like $_->body, $body, "with its body ($target)" for @responses;
    is app()->count($path), 1, "and the application runs once ($target)";
}

is_kept('/accel-location', 203, qr{^#\d+ GET /second}, 'X-Accel-Redirect to a location', query => '?header=X-Accel-Redirect:/second',
    '/accel-location' => 1, '/second' => 1);
is_kept('/accel-named', 201, qr{^#\d+ POST /second}, 'X-Accel-Redirect to a named location', query => '?header=X-Accel-Redirect:@second',
    '/accel-named' => 1, '/second' => 1);
is_kept('/accel-elsewhere', 201, qr{^#\d+ GET /second}, 'X-Accel-Redirect to a location with another store',
    query => '?header=X-Accel-Redirect:/elsewhere', '/accel-elsewhere' => 1, '/second' => 1);
is_kept('/circle', 500, qr/500 Internal/, 'a circle of redirects', query => '?status=418', '/circle' => 11);
is_kept('/accel-cookie', 200, $content{'small.txt'}, 'X-Accel-Redirect with fields of its own',
    query => '?header=X-Accel-Redirect:/read/small.txt&header=Set-Cookie:a=1&header=Set-Cookie:b=2', '/accel-cookie' => 1);

{
    my ($first, $retry) = pair('/accel-word?header=X-Accel-Redirect:/read/small.txt&header=X-Accel-Idempotency:release');
    is $retry->body, $content{'small.txt'}, 'X-Accel-Idempotency works together with X-Accel-Redirect: the response is delivered';
    is app()->count('/accel-word'), 2, 'and the key is free again';
    is scalar(grep { defined $_->header('X-Accel-Idempotency') } $first, $retry), 0, 'and X-Accel-Idempotency is not in the response to the client';
}

# error_page

for my $where ('', 'unbuffered/') {
    my $in = "/intercepted/$where";
    my $how = $where && ' (unbuffered)';
    is_kept("${in}page", 500, $content{'sorry.html'}, "a static page for 500$how", query => '?status=500', "${in}page" => 1);
    is_kept("${in}changed", 200, $content{'sorry.html'}, "a static page for 404, as 200$how", query => '?status=404', "${in}changed" => 1);
    is_kept("${in}location", 203, qr{^#\d+ GET /second}, "a location for 410$how", query => '?status=410', "${in}location" => 1, '/second' => 1);
    is_kept("${in}named", 201, qr{^#\d+ POST /second}, "a named location for 418$how", query => '?status=418', "${in}named" => 1, '/second' => 1);
    is_kept("${in}url", 302, qr/302 Found/, "another server for 406$how", query => '?status=406', "${in}url" => 1);
    is_kept("${in}none", 409, qr/^#1 POST/, "a status without a page$how", query => '?status=409', "${in}none" => 1);
    is_kept("${in}dead", 502, qr/502 Bad Gateway/, "a named location that cannot be reached$how", query => '?status=405', "${in}dead" => 1);
    is_run_again("${in}busy", '?status=503', 503, 2, "a static page for 503$how");
    my ($first, $retry) = pair("${in}broken?abort=before");
    is $first->body, $content{'sorry.html'}, "a static page is the response to a broken exchange$how";
    is_problem $retry, 409, 'outcome_unknown', "whose outcome is unknown$how";
    is app()->count("${in}broken"), 1, "and it ran once$how";
}

for my $method (qw(PUT DELETE PATCH POST)) {
    is_kept("/intercepted/method-$method", 201, qr{^#\d+ $method /second}, "a named location for a $method", query => '?status=418',
        request => {method => $method, body => 'the body'}, "/intercepted/method-$method" => 1, '/second' => 1);
    is app()->last_request('/second')->{length}, 8, "and it gets the body of the $method";
}

is_kept("/limited/$_", 201, qr{^#\d+ $_ /second}, "limit_except lets a $_ into a named location", query => '?status=418',
    request => {method => $_}, "/limited/$_" => 1, '/second' => 1) for qw(PUT DELETE);
for my $method (qw(PUT DELETE)) {
    my @responses = pair("/refused/$method?status=418", method => $method);
    is $_->status, 403, "limit_except keeps a $method out of a named location" for @responses;
    is app()->count("/refused/$method"), 1, "and the application runs once ($method)";
}

is_kept('/recursive/page', 201, qr{^#\d+ POST /second}, 'an error page of an error page', query => '?status=404',
    '/recursive/page' => 1, '/again' => 1, '/second' => 1);
is_kept('/status/acted', 503, $content{'sorry.html'}, 'a page as 503 of an application that has acted', query => '?status=418', '/status/acted' => 1);

{
    my ($first, $retry) = pair('/dead/page');
    is $first->status . $first->body, "502$content{'sorry.html'}", 'a static page is the response if the application cannot be reached';
    is $retry->status . $retry->body, "502$content{'sorry.html'}", 'and its retry gets the page too';
    ok !$retry->is_replay, 'this page is not a replay';
    ($first, $retry) = pair('/dead-and-dead/page');
    ok !$retry->is_replay && $retry->status == 502, 'nor is the page if a second application cannot be reached either';
}

is_kept('/dead-then-app/a', 201, qr{^#\d+ POST /second}, 'an application in place of one that cannot be reached', '/second' => 1);

# try_files, rewrite, index

is_kept('/try/named', 201, qr{^#\d+ POST /second}, 'try_files with a named location', '/second' => 1);
is_kept('/try/location', 202, qr{^#1 POST /tried/try/location}, 'try_files with a location', query => '?status=202', '/tried/try/location' => 1);
is_kept('/try/file', 405, qr/<title>405 /, 'try_files with a file that a POST can\'t get');
my ($code, $again) = pair('/try/code');
ok $code->status == 404 && $again->status == 404 && !$again->is_replay, 'a code of try_files is a response of nginx, and claims nothing';
is_kept('/rewritten/to', 201, qr{^#1 POST /to}, 'rewrite ... last', '/to' => 1);
is_kept('/rewritten/unbuffered/to', 201, qr{^#1 POST /unbuffered/to}, 'rewrite ... last to another location', '/unbuffered/to' => 1);
is_kept('/broken-rewrite/to2', 201, qr{^#1 POST /to2}, 'rewrite ... break', '/to2' => 1);
is_kept('/index/', 201, qr{^#1 POST /index/index.app}, 'index', '/index/index.app' => 1);

# While the request runs there is one claim for all redirects, and the error page of a problem does not change it.
{
    my $client = $nginx->send_request(path => '/intercepted/gate?status=418&gate=open', key => 'gate', headers => ['X-API-Key: alice']);
    app()->await_arrival('/intercepted/gate');
    is_problem ask('/intercepted/gate?status=418&gate=open', 'gate'), 409, 'request_in_progress', 'a retry while the first request runs';
    app()->open_gate('open');
    my $first = $client->response;
    is_replay_of ask('/intercepted/gate?status=418&gate=open', 'gate'), $first, 'a retry after the redirect gets a replay';
    is app()->count('/intercepted/gate'), 1, 'of the only execution';

    $client = $nginx->send_request(path => '/answers/gate?gate=answers', key => 'answers', headers => ['X-API-Key: alice']);
    app()->await_arrival('/answers/gate');
    my $conflict = ask('/answers/gate?gate=answers', 'answers');
    is $conflict->status . $conflict->body, "409$content{'sorry.html'}", 'an error page for 409 replaces a problem response';
    app()->open_gate('answers');
    $first = $client->response;
    is_replay_of ask('/answers/gate?gate=answers', 'answers'), $first, 'and does not change the claim';
    is ask('/answers/other', 'answers')->body, $content{'sorry.html'}, 'so does an error page for 422';
    is app()->count('/answers/other'), 0, 'this request does not run';
}

ok $nginx->await_access_log(qr{^POST /intercepted/named\S* 201 \[NEW\]}), '$idempotency_status survives a redirect';
ok $nginx->await_access_log(qr{^POST /intercepted/named\S* 201 \[REPLAYED\]}), 'and is REPLAYED for its retry';

$nginx->stop;
done_testing;
