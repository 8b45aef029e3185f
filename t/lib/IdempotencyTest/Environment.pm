package IdempotencyTest::Environment;

# The environment of a test run, with defaults, so that a
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

our @EXPORT_OK = qw(app bad_log_lines module new_prefix nginx_binary no_resolver redis store_directives store_mode);

my ($app, $redis);
my $prefixes = 0;

sub module {
    my $repository = File::Spec->rel2abs(dirname(__FILE__) . '/../../..');
    my $module = $ENV{IDEMPOTENCY_MODULE} || "$repository/build/ngx_http_idempotency_module.so";
    die "there is no $module: run tools/test, or cmake --build build\n" if !-e $module;
    return $module;
}

sub nginx_binary { return $ENV{TEST_NGINX_BINARY} || 'nginx' }

# For http{}. Angie has a resolver by default.
sub no_resolver { return `${\nginx_binary()} -v 2>&1` =~ /Angie/ ? 'resolver off;' : '' }

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

# No two tests share a prefix, so the keys of one test never meet those of another.
sub new_prefix { return sprintf 'test:%s:', join '-', $$, int time, $prefixes++ }

# The timeouts of a Redis store with which a lease of one second is valid.
our $SHORT_TIMEOUTS = 'connect_timeout 300ms; timeout 700ms;';

# The directives of a store of the kind that the run uses. Options: `prefix`; `redis`, the URLs, which makes it a Redis store in any
# run; `memory`, the size; `short_leases`: a lease may be one second; `store`, more directives.
sub store_directives {
    my (%options) = @_;
    my $redis = $options{redis} // (store_mode() eq 'redis' ? 'unix:' . redis()->socket : undef);
    my $directives = defined $redis
        ? sprintf 'redis %s; prefix "%s";', $redis, $options{prefix} // new_prefix() : 'memory ' . ($options{memory} // '8m') . ';';
    my $timeouts = defined $redis && $options{short_leases} ? $SHORT_TIMEOUTS : undef;
    return join ' ', $directives, $timeouts // (), $options{store} // ();
}

# Lines that must never be in an error log.
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
