# Ways through nginx: handler x access check x way to the handler x protocol, each held against rules (IdempotencyTest::WaysRules) and not
# against recorded responses. Here each handler, check and way meet once; tools/ways takes more combinations.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use IdempotencyTest::StreamClient;
use IdempotencyTest::WaysRules qw(check_ways);

check_ways(listen => sub { 'listen unix:' . $_[0]->directory . '/h2.sock http2;' }, protocols => [
    ['HTTP/1.1', sub { $_[0]->connect }, sub { $_[0]->close }],
    ['HTTP/2', sub { IdempotencyTest::StreamClient->connect_http2($_[0]->directory . '/h2.sock') }, sub { $_[0]->reset($_[1]) }, 1],
]);
