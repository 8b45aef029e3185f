package IdempotencyTest::SingleAllocations;

# For tests in which allocations fail, to be loaded before all other modules: the pools of their nginx allocate each piece of memory
# separately (tools/nginx-palloc), or IDEMPOTENCY_TEST_PALLOC with the module IDEMPOTENCY_TEST_PLAIN.

use strict;
use warnings;

use File::Basename qw(dirname);
use File::Spec;

my $project = File::Spec->rel2abs(dirname(__FILE__) . '/../../..');

# a sanitized module has its own allocator
$ENV{IDEMPOTENCY_MODULE} = $ENV{IDEMPOTENCY_TEST_PLAIN} // "$project/build/ngx_http_idempotency_module.so";
$ENV{TEST_NGINX_BINARY} = $ENV{IDEMPOTENCY_TEST_PALLOC} // qx{"$project/tools/nginx-palloc"};
chomp $ENV{TEST_NGINX_BINARY};
die "there is no nginx in '$ENV{TEST_NGINX_BINARY}': run tools/nginx-palloc\n" if !-x $ENV{TEST_NGINX_BINARY};

1;
