# A stale response of a cache, in place of one that is lost, is the response to another request: it is never kept for this key.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Nginx;
use IdempotencyTest::Requests qw(ask);

my $nginx = IdempotencyTest::Nginx->new;
my $directory = $nginx->directory;

$nginx->set(http => "proxy_cache_path $directory/cache keys_zone=cache:1m;", server => <<'END')->start;
        idempotency main;
        location / {
            proxy_cache cache; proxy_cache_methods POST; proxy_cache_key $uri;
            proxy_cache_use_stale error timeout invalid_header http_500 http_503;
            proxy_read_timeout 1s;
            add_header X-Cache $upstream_cache_status;
            proxy_pass http://app;
        }
END

# `acted`: the application may have acted on the request.
my %lost = ('abort=before' => 1, 'abort=garbage' => 1, 'gate=never' => 1, 'status=500' => 1, 'status=503' => 0);

for my $query (sort keys %lost) {
    my $path = '/' . $query =~ s/=/-/r;
    # it expires at once
    is_first my $cached = ask($nginx, "$path?header=X-Accel-Expires:\@1", "cached-$query"), 201, 1, "a response that the cache has ($query)";
    my $stale = ask($nginx, "$path?$query", $query);
    is $stale->header('X-Cache'), 'STALE', "another request gets it, stale, because its own is lost ($query)" or diag $stale->head;
    ok !$stale->is_replay, "this is no replay ($query)";
    my $retry = ask($nginx, "$path?$query", $query);

    if ($lost{$query}) {
        is_problem $retry, 409, 'outcome_unknown', "the outcome of this request is unknown ($query)";
        is app()->count($path), 2, "and it does not run again ($query)";
    }
    else {
        ok !$retry->is_replay, "its key is free ($query)";
        is app()->count($path), 3, "and it runs again ($query)";
    }

    ok ask($nginx, "$path?header=X-Accel-Expires:\@1", "cached-$query")->is_replay, "the response in the cache is kept for its own key ($query)";
}

$nginx->stop;
done_testing;
