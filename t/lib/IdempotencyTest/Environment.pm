package IdempotencyTest::Environment;

# What a test run is given by its environment, with a default for each, so that a
# single test file runs by itself:
#
#   IDEMPOTENCY_MODULE            the module; build/ngx_http_idempotency_module.so
#   IDEMPOTENCY_TEST_STORE        memory or redis; memory
#   IDEMPOTENCY_TEST_APP_PORT     where the application listens; one is started
#   IDEMPOTENCY_TEST_REDIS        the unix socket of a Redis; one is started
#   IDEMPOTENCY_TEST_REDIS_PORT   its TCP port
#   IDEMPOTENCY_TEST_REDIS_SERVER redis-server or valkey-server; the first one that is found

use strict;
use warnings;

use Exporter 'import';
use File::Basename qw(dirname);
use File::Spec;

use IdempotencyTest::App;
use IdempotencyTest::Redis;

our @EXPORT_OK = qw(app bad_log_lines module nginx_binary redis store_directives store_mode);

my ($app, $redis);
my $prefixes = 0;

sub module {
    my $repository = File::Spec->rel2abs(dirname(__FILE__) . '/../../..');
    my $module = $ENV{IDEMPOTENCY_MODULE} || "$repository/build/ngx_http_idempotency_module.so";
    die "there is no $module: run tools/test, or cmake --build build\n" if !-e $module;
    return $module;
}

sub nginx_binary { return $ENV{TEST_NGINX_BINARY} || 'nginx' }

sub store_mode {
    my $mode = $ENV{IDEMPOTENCY_TEST_STORE} || 'memory';
    die "IDEMPOTENCY_TEST_STORE is memory or redis, not $mode\n" if $mode !~ /^(?:memory|redis)$/;
    return $mode;
}

sub app {
    my $port = $ENV{IDEMPOTENCY_TEST_APP_PORT};
    return $app ||= IdempotencyTest::App->new(port => $port, is_running => defined $port);
}

sub redis {
    return $redis ||= defined $ENV{IDEMPOTENCY_TEST_REDIS}
        ? IdempotencyTest::Redis->new(
            socket => $ENV{IDEMPOTENCY_TEST_REDIS}, port => $ENV{IDEMPOTENCY_TEST_REDIS_PORT})
        : IdempotencyTest::Redis->new;
}

# No two tests share a prefix, so keys of one never meet those of another.
sub store_directives {
    return 'memory 8m;' if store_mode() eq 'memory';
    return sprintf 'redis unix:%s; prefix test:%s:;', redis()->socket, join '-', $$, int time, $prefixes++;
}

# What an error log never holds, whatever a test does.
my $bad_log_lines = join '|', map { quotemeta } (
    '[alert]',
    '[crit]',
    '[emerg]',
    'exited on signal',
    'AddressSanitizer',
    'LeakSanitizer',
    'runtime error:',
);

sub bad_log_lines { return qr/$bad_log_lines/ }

1;
