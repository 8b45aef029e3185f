# Ways through nginx over HTTP/3: the locations and the rules of t/matrix_ways.t. On Debian 12 with an nginx of its
# own, which is newer, does not load Debian's Lua, echo and njs, and has sanitizers (tools/nginx-h3).

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

# before any module that needs to know which nginx is tested
use IdempotencyTest::Http3;

use IdempotencyTest::WaysRules qw(check_ways);

check_ways(few => 1, listen => sub { IdempotencyTest::Http3->listener($_[0]) }, protocols => [
    ['HTTP/3, stream reset', sub { IdempotencyTest::Http3->connect($_[0]) }, sub { $_[0]->stop_and_reset($_[1]) }, 1],
    ['HTTP/3, connection closed', sub { IdempotencyTest::Http3->connect($_[0]) }, sub { $_[0]->close }],
]);
