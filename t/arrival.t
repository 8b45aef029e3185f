# A request arrives at the location that decides about it. What something else has refused is not covered on its way to its error
# page, and spoils no key.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Nginx;

my $nginx = IdempotencyTest::Nginx->new(log_format => '$request_method $request_uri $status [$idempotency_status]');
my $spool = $nginx->directory . '/no-spool';
mkdir $spool or die "mkdir: $!\n";
$nginx->write_file('page.html', "a page\n");
my $files = $nginx->directory;

$nginx->set(http => 'limit_req_zone $http_x_limit zone=once:1m rate=1r/m;', server => <<"END")->start;
        root $files;
        idempotency main;
        idempotency_scope off;

        location = /check { internal; idempotency off; if (\$http_x_session != good) { return 401; } return 204; }
        location \@login { rewrite ^ /login? break; proxy_pass http://app; }
        location \@busy { rewrite ^ /busy? break; proxy_pass http://app; }
        location = /page { internal; rewrite ^ /shown? break; proxy_pass http://app; }

        location /session { auth_request /check; error_page 401 = \@login; proxy_pass http://app; }
        location /recursive { recursive_error_pages on; auth_request /check; error_page 401 = \@login; proxy_pass http://app; }
        location /denied { satisfy any; deny all; auth_request /check; error_page 401 403 =200 \@login; proxy_pass http://app; }
        location /limited { limit_req zone=once; error_page 503 = \@busy; proxy_pass http://app; }
        location /returned {
            recursive_error_pages on;
            error_page 503 = \@busy;
            if (\$http_x_session != good) { return 503; }
            proxy_pass http://app;
        }
        location /variable {
            set \$page login;
            error_page 401 = \@\$page;
            auth_request /check;
            proxy_pass http://app;
        }
        location /arguments { error_page 403 =200 /with?a=1&b=2; deny all; }
        location = /with { internal; idempotency off; return 200 "\$uri \$args \$request_method\\n"; }

        location /body { error_page 400 413 500 = \@busy; error_page 501 /page; client_max_body_size 100; proxy_pass http://app; }
        location /late-body { error_page 400 413 500 = \@busy; idempotency_fingerprint \$request_uri body=off; client_max_body_size 100; proxy_pass http://app; }
        location /spool {
            error_page 500 = \@busy;
            client_body_temp_path $spool;
            client_body_in_file_only on;
            proxy_pass http://app;
        }

        location /try { try_files /nothing \@off; }
        location \@off { idempotency off; rewrite ^ /off? break; proxy_pass http://app; }
        location /file { try_files /nothing /else; }
        location /else { idempotency off; proxy_pass http://app; }
END

my $keys = 0;

sub ask {
    my ($path, $key, %request) = @_;
    return $nginx->request(path => $path, key => $key, %request);
}

my @good = (headers => ['X-Session: good']);

for my $path (qw(/session /recursive /denied /returned /variable)) {
    my $key = 'key-' . ++$keys;
    my $page = $path eq '/returned' ? '/busy' : '/login';
    my $before = app()->count($page);

    like ask($path, $key)->body, qr{^#\d+ POST $page}, "$path: a refused request gets its error page";
    ok !ask($path, $key)->is_replay, "$path: and so does its retry, which is no replay";
    is app()->count($page) - $before, 2, "$path: the page is not covered";
    is_first my $first = ask($path, $key, @good), 201, 1, "$path: a request that is allowed runs";
    is_replay_of ask($path, $key, @good), $first, "$path: its retry is replayed";
    like ask($path, $key)->body, qr{^#\d+ POST $page}, "$path: a request that is refused still gets its error page";
    is app()->count($path), 1, "$path: the application ran once";
}

{
    my @limited = (headers => ['X-Limit: a']);
    is_first my $first = ask('/limited', 'limited'), 201, 1, 'a request that counts for no limit runs';
    is ask('/limited', 'other', @limited)->status, 201, 'the first one of a limit too';
    like ask('/limited', 'busy', @limited)->body, qr{^#\d+ POST /busy}, 'the second one is refused';
    is_first ask('/limited', 'busy'), 201, 3, 'its key is free';
    is_replay_of ask('/limited', 'limited'), $first, 'and a kept response is replayed';
}

is ask('/arguments', 'arguments')->body, "/with a=1&b=2 GET\n", 'an error page has the arguments of its directive';

# a body that cannot be read

my $long = 'x' x 101;
for my $path (qw(/body /late-body)) {
    for my $chunked (0, 1) {
        my $key = "long$path-$chunked";
        my $response = $chunked
            ? $nginx->connect->send_raw("POST $path HTTP/1.1\r\nHost: a\r\nIdempotency-Key: $key\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n$long\r\n0\r\n\r\n")->response
            : ask($path, $key, body => $long);
        my $runs = app()->count($path);
        ok !$response->is_replay, "$path: a body that is too long gets the error page";
        my $good = ask($path, $key, body => 'a good body');
        is $good->status, 201, "$path: the key is free for a good one";
        is app()->count($path), $runs + 1, "$path: which runs";
        is_replay_of ask($path, $key, body => 'a good body'), $good, "$path: and is replayed";
    }
    my $key = "bad$path";
    my $bad = $nginx->connect->send_raw("POST $path HTTP/1.1\r\nHost: a\r\nIdempotency-Key: $key\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nnonsense")->response;
    isnt $bad->status, 422, "$path: a bad chunk gets the error page";
    my $runs = app()->count($path);
    is ask($path, $key, body => 'a good body')->status, 201, "$path: and leaves the key free";
    is app()->count($path), $runs + 1, "$path: for a request that runs";
}

# idempotency off where try_files leads to

for my $path (qw(/try /file)) {
    my ($first, $second) = map { ask($path, "try$path") } 1, 2;
    ok !$second->is_replay && $first->body ne $second->body, "$path: a location that try_files leads to can switch idempotency off";
}

$nginx->stop;
done_testing;
