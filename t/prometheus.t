# Prometheus reads the metrics; the rules, the dashboard and the documentation name the metrics that there are.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use IPC::Open2 qw(open2);
use JSON::PP qw(decode_json);
use Test::More;
use IdempotencyTest::Client;
use IdempotencyTest::Environment qw(redis store_mode);
use IdempotencyTest::Files qw(slurp write_file);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await free_port temporary_directory);
use IdempotencyTest::Requests qw(ask);

my $root = "$FindBin::Bin/..";
my $is_redis = store_mode() eq 'redis';
my $prefix = "prometheus:$$:";
my $port = free_port();
my $main = $is_redis ? 'redis unix:' . redis()->socket . "; prefix $prefix; near_cache 1m;" : 'memory 1m;';
my $nginx = IdempotencyTest::Nginx->start(
    stores => qq{idempotency_store main { $main } idempotency_store 'o"t\\\\\\\\h' { memory 256k; }},
    server => "listen 127.0.0.1:$port; idempotency main; location / { proxy_pass http://app; } location = /idempotency { idempotency_status; }", prefix => $prefix);
my $page;

sub page { return $nginx->request(method => 'GET', path => '/idempotency', headers => ['Accept: text/plain;version=0.0.4']) }

# The output of a command, which must succeed.
sub output_of {
    my ($input, @command) = @_;
    my $pid = open2(my $out, my $in, 'sh', '-c', 'exec "$@" 2>&1', 'sh', @command);
    print $in $input;
    close $in;
    my $output = join '', <$out>;
    waitpid $pid, 0;
    return $? == 0 ? $output : "failed: $output";
}

subtest 'promtool' => sub {
    ask($nginx, '/one', 'one') for 1 .. 3;
    # the first worker asks Redis what it is
    ok await(sub { $page = page(); !$is_redis || $page->body =~ /^idempotency_redis_info\{/m }), 'the page is complete';
    is output_of($page->body, 'promtool', 'check', 'metrics'), '', 'promtool finds no fault in the metrics';
    like output_of('', 'promtool', 'check', 'rules', "$root/contrib/prometheus/rules.yml"), qr/SUCCESS/, 'nor in the rules';
    like output_of('', 'promtool', 'test', 'rules', "$root/contrib/prometheus/rules_test.yml"), qr/SUCCESS/, 'each alert fires when it should';
};

subtest 'Prometheus' => sub {
    my $directory = temporary_directory();
    my $own_port = free_port();
    write_file("$directory/prometheus.yml", <<"END");
global: { scrape_interval: 200ms, evaluation_interval: 200ms }
rule_files: ['$root/contrib/prometheus/rules.yml']
scrape_configs:
  - job_name: idempotency
    metrics_path: /idempotency
    static_configs: [{ targets: ['127.0.0.1:$port'] }]
END
    my $prometheus = IdempotencyTest::Process->start(
        name => 'prometheus', output => "$directory/log",
        command => ['prometheus', "--config.file=$directory/prometheus.yml", "--storage.tsdb.path=$directory/data", "--web.listen-address=127.0.0.1:$own_port"]);
    my $api = sub {
        my ($path) = @_;
        return eval { IdempotencyTest::Client->connect("127.0.0.1:$own_port")->send(method => 'GET', path => "/api/v1/$path")->response->json->{data} };
    };
    my $value = sub {
        my ($query) = @_;
        $query =~ s/([^\w])/sprintf '%%%02X', ord $1/ge;
        my $data = $api->("query?query=$query");
        return $data && @{$data->{result}} == 1 ? $data->{result}[0]{value}[1] : '';
    };

    ok await(sub { $value->('idempotency_requests_total{store="main",status="replayed"}') eq '2' }), 'it has the counters'
        or diag slurp("$directory/log");
    is $value->('idempotency_healthy{store="main"}'), 1, 'and gauges';
    is $value->('idempotency_memory_full_seconds{store="o\"t\\\\\\\\h"}'), '+Inf', 'and a store with a strange name';
    cmp_ok $value->('histogram_quantile(0.99, idempotency_store_call_seconds_bucket{store="main",call="claim"})'), '>', 0, 'and the histogram';
    my ($target) = @{$api->('targets')->{activeTargets}};
    is "$target->{health} $target->{lastError}", 'up ', 'the target is up';
    is $api->('metadata?metric=idempotency_store_call_seconds')->{idempotency_store_call_seconds}[0]{type}, 'histogram', 'it knows the types';
    my ($group) = @{$api->('rules')->{groups}};
    is join(' ', map { $_->{name} } grep { $_->{lastError} } @{$group->{rules}}), '', 'and has loaded the rules';
    $prometheus->stop('TERM');
};

# The names of the metrics, with the suffixes of a histogram.
sub names_of { my %names = map { $_ => 1 } $_[0] =~ /(?<!\$)\b(idempotency_\w+)/g; return sort keys %names }

subtest 'What names metrics' => sub {
    plan skip_all => 'the page has all metrics only with Redis' if !$is_redis;
    my %type = $page->body =~ /^# TYPE (\w+) (\w+)$/mg;
    my %exists = map { $_ => 1 } keys %type, map { my $name = $_; map { "${name}_$_" } qw(bucket sum count) } grep { $type{$_} eq 'histogram' } keys %type;

    for my $file ('contrib/prometheus/rules.yml', 'contrib/prometheus/rules_test.yml', 'contrib/grafana/idempotency.json') {
        my @names = names_of(slurp("$root/$file"));
        cmp_ok scalar(@names), '>', 5, "$file names metrics";
        is join(' ', grep { !$exists{$_} } @names), '', 'and the page has all of them';
    }

    my $docs = slurp("$root/docs/metrics.md");
    my %documented = map { $_ => 1 } map { /`(\w+)`/g } map { /^\| ((?:`\w+`(?:, )?)+) \|/ ? $1 : () } split /\n/, $docs;
    my %named = map { s/^idempotency_//r => 1 } map { $type{$_} eq 'counter' ? s/_total$//r : $_ } keys %type;
    is join(' ', grep { !$documented{$_} } sort keys %named), '', 'docs/metrics.md has all metrics of the page';

    my $dashboard = decode_json(slurp("$root/contrib/grafana/idempotency.json"));
    my %drawn = map { $_ => 1 } map { names_of($_->{expr}) } map { @{$_->{targets} || []} } @{$dashboard->{panels}};
    my @missing = grep { !$drawn{$_} && !$drawn{"${_}_bucket"} } sort keys %type;
    is join(' ', @missing), 'idempotency_memory_free_blocks', 'the dashboard draws all metrics but one';

    my $operations = slurp("$root/docs/operations.md");
    my $rules = slurp("$root/contrib/prometheus/rules.yml");
    my @alerts = $rules =~ /- alert: (\w+)/g;
    is join(' ', grep { $operations !~ /^### $_\n\n\*\*What it means\.\*\* .+?\*\*How to look\.\*\*.+?\*\*What to do\.\*\*/ms } @alerts), '', 'docs/operations.md has a section for each alert';
    is_deeply [$rules =~ /runbook: (\S+)/g], [map { 'docs/operations.md#' . lc } @alerts], 'which the alert names';
};

$nginx->stop;
done_testing;
