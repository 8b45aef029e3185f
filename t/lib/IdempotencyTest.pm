package IdempotencyTest;

# Test::Nginx with what every block of these tests has in common: the module, a store `main` of the kind that the run uses, an
# upstream `app` with the test application, and an error log without a crash in it. So a block says:
#
#   === TEST 1: a retry gets the kept response
#   --- key: k
#   --- request eval
#   ["POST /orders", "POST /orders", "GET /count/orders"]
#
# A block without --- config has a covered location for everything. Sections that Test::Nginx does not have:
#
#   --- location          more directives of this covered location; it is in addition to --- config
#   --- key: k            the headers of a client `alice` with this idempotency key
#   --- executions: 1 1 2 POST /orders is sent once for each number; each response is 201 from the execution with this number
#
# $TEST_NGINX_STORE in a configuration stands for the directives of another store, $TEST_NGINX_SPACE for the value by which the
# application separates the counts of one block from those of another.

use strict;
use warnings;

use Digest::SHA ();
use IdempotencyTest::App;
use IdempotencyTest::Environment;
use IdempotencyTest::Process;

# it exists until the run ends
our $directory;

BEGIN {
    if (!defined $ENV{TEST_NGINX_SERVROOT}) {
        $directory = IdempotencyTest::Process::temporary_directory();
        $ENV{TEST_NGINX_SERVROOT} = "$directory/servroot";
    }

    # Test::Nginx looks for the next free port upwards
    $ENV{TEST_NGINX_SERVER_PORT} ||= IdempotencyTest::Process::free_port();
}

use Test::Nginx::Socket -Base;

# As it runs in production: requests and their retries meet over two workers.
master_on();
workers(2);
worker_connections(256);

log_level('info');
no_long_string();
no_root_location();
timeout(20);

# The questions to the application are never covered.
config_preamble(<<'END');
        location ~ ^/(count|last|arrived|answered|open)/ {
            idempotency off;
            proxy_pass http://app;
        }
END

# The prototypes keep these from becoming methods: -Base does that to each sub without one.
sub covered_location ($) {
    my ($directives) = @_;
    return "location / {\n    idempotency main;\n    proxy_pass http://app;\n$directives}\n";
}

sub expect_executions ($@) {
    my ($block, @executions) = @_;
    $block->set_value('request', [('POST /orders') x @executions]);
    $block->set_value('response_body', [map { Test::Base::Filter::echo($_, 'POST /orders') } @executions]);
    $block->set_value('error_code', [(201) x @executions]);
}

add_block_preprocessor(sub {
    my $block = shift;

    my $module = IdempotencyTest::Environment::module();
    my $app = IdempotencyTest::Environment::app()->port;
    my $space = IdempotencyTest::App->new_space;
    my $store = IdempotencyTest::Environment::store_directives();

    $ENV{TEST_NGINX_SPACE} = $space;
    $ENV{TEST_NGINX_STORE} = IdempotencyTest::Environment::store_directives();

    $block->set_value('config', ($block->config // '') . covered_location($block->location // ''))
        if defined $block->location || !defined $block->config;
    $block->set_value('more_headers', "X-API-Key: alice\nIdempotency-Key: " . $block->key) if defined $block->key;
    expect_executions($block, split ' ', $block->executions) if defined $block->executions;

    $block->set_value('main_config', "load_module $module;\n" . ($block->main_config // ''));
    $block->set_value('http_config', <<"END" . ($block->http_config // ''));
    idempotency_store main { $store }
    upstream app { server 127.0.0.1:$app; }
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header App-Space $space;
END

    # checked after nginx has ended, because leaks are reported then
    $block->set_value('no_shutdown_error_log', IdempotencyTest::Environment::bad_log_lines());
});

# Perl in a block is evaluated in this package.
package Test::Base::Filter;

# The body of the application's response to the Nth execution of a request.
sub echo ($$;$) {
    my ($n, $request, $body) = @_;
    my $digest = defined $body ? substr(Digest::SHA::sha256_hex($body), 0, 12) : '-';
    return "#$n $request $digest\n";
}

# Matches the body of a problem response with this code.
sub problem ($) {
    my ($code) = @_;
    return qr/\A\{.*"code"\s*:\s*"$code".*\}\s*\z/s;
}

1;
