# The programs of docs/for-api-clients.md, taken from the page and run against nginx: each ends with one execution. The page knows
# every code of docs/responses.md. A program whose language is not installed is skipped.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Files qw(slurp write_file);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await free_port temporary_directory);
use IdempotencyTest::Redis;

plan skip_all => 'is about the clients: run with the memory store alone' if store_mode() ne 'memory';

my $repository = "$FindBin::Bin/..";
my $page = slurp("$repository/docs/for-api-clients.md");
my $directory = temporary_directory();

sub path_of {
    my ($program) = @_;
    return (grep { -x } map { "$_/$program" } split(/:/, $ENV{PATH}))[0];
}

# In the order of the page. `needs`: programs; `build`: a command before the first run.
my @samples = (
    {language => 'sh', file => 'create_listing.sh', needs => ['sh', 'curl'], command => ['sh']},
    {language => 'python', file => 'create_listing.py', needs => ['python3'], command => ['python3', '-B']},
    {language => 'javascript', file => 'create_listing.mjs', needs => ['node'], command => ['node']},
    {language => 'go', file => 'create_listing.go', needs => ['go'], build => ['go', 'build', '-o', "$directory/create_listing"], binary => 'create_listing'},
    {language => 'java', file => 'CreateListing.java', needs => ['java', 'javac'], build => ['javac', '-Xlint:all', '-Werror', '-d', "$directory"],
        command => ['java', '-XX:TieredStopAtLevel=1', '-cp', "$directory", 'CreateListing']},
);

is join(' ', $page =~ /^```(\w+)$/mg), join(' ', map { $_->{language} } @samples), 'every program of the page is tested';

# The program as the page has it; only its timeout is shorter.
sub extract {
    my ($sample) = @_;
    my ($text) = $page =~ /^```$sample->{language}\n(.*?)^```$/ms;
    my $replaced = $text =~ s/(\btimeout\s*=\s*)30\b/${1}3/i;
    ok $replaced, "$sample->{language}: the timeout is found";
    return write_file("$directory/$sample->{file}", $text);
}

my @installed;

for my $sample (@samples) {
    my ($missing) = grep { !path_of($_) } @{$sample->{needs}};

    SKIP: {
        diag "the program in $sample->{language} is skipped: no $missing" if $missing;
        skip "no $missing", 2 if $missing;
        my $file = "$directory/$sample->{file}";
        extract($sample);

        if (my $build = $sample->{build}) {
            my $process = IdempotencyTest::Process->start(name => $build->[0], output => "$directory/build.$sample->{language}",
                environment => {HOME => $ENV{HOME} // "$directory", GOFLAGS => '-mod=mod -p=1'}, command => ['nice', @$build, $file]);
            await(sub { !$process->is_running }, 300);
            is $process->{status}, 0, "$sample->{language}: it compiles" or diag slurp("$directory/build.$sample->{language}");
        }
        else {
            pass "$sample->{language}: it needs no compiler";
        }

        $sample->{line} = $sample->{binary} ? ["$directory/$sample->{binary}"]
            : [@{$sample->{command}}, $sample->{build} ? () : $file];
        push @installed, $sample;
    }
}

# The 503 comes from a store of Redis that is started later.
my $redis = IdempotencyTest::Redis->new;
my $port = free_port();
my $nginx = IdempotencyTest::Nginx->start(
    workers => 1,
    http => 'idempotency_store distant { redis unix:' . $redis->socket . '; connect_timeout 200ms; timeout 500ms; }',
    log_format => '$uri $status [$idempotency_code] [$sent_http_idempotent_replayed] $http_idempotency_key $request_time',
    server => <<"END");
        listen 127.0.0.1:$port;
        idempotency_scope \$http_x_api_key;
        location / { idempotency main required; proxy_pass http://app; }
        location /distant/ { idempotency distant required; proxy_pass http://app; }
        location /denied/ { idempotency main required; proxy_pass http://app; }
END

# Runs each program with a path of its own, all at the same time. `meanwhile` is called with the paths.
my $runs = 0;

sub run_all {
    my ($path, $query, %options) = @_;
    my $run = ++$runs;
    my %path = map { $_->{language} => "$path$_->{language}/$run" } @installed;
    $options{before}->($path{$_}, "key-$run-$_") for $options{before} ? sort keys %path : ();

    my %process = map { my $sample = $_; my $language = $sample->{language}; ($language => IdempotencyTest::Process->start(
        name => $language, output => "$directory/$run.$language",
        environment => {API_URL => "http://127.0.0.1:$port$path{$language}$query", API_KEY => 'alice'},
        command => [@{$sample->{line}}, $options{without_key} ? () : "key-$run-$language"])) } @installed;
    $options{meanwhile}->(values %path) if $options{meanwhile};

    my %result;

    for my $language (sort keys %process) {
        ok await(sub { !$process{$language}->is_running }, 60), "$language: it ends";
        $result{$language} = {
            status => ($process{$language}{status} // -1) >> 8,
            output => slurp("$directory/$run.$language"),
            log => [map { /^\Q$path{$language}\E (.*)/ ? $1 : () } $nginx->access_log],
            executions => app_count($path{$language}),
        };
    }

    return \%result;
}

sub app_count { my ($path) = @_; my ($space, $app) = ($nginx->{space}, app()); local $app->{space} = $space; return $app->count($path) }
sub open_gate { my ($name) = @_; my $app = app(); local $app->{space} = $nginx->{space}; $app->open_gate($name) }

# What the client met, as STATUS/CODE, and 'replay'.
# An empty variable is '-' in the log.
sub met { my ($result) = @_; return join ' ', map { /^(\d+) \[(.*?)\] \[(.*?)\]/ ? $1 . ($2 ne '-' ? "/$2" : '') . ($3 eq 'true' ? '/replay' : '') : () } @{$result->{log}} }

sub check {
    my ($name, $result, %expected) = @_;

    for my $language (sort keys %$result) {
        my $got = $result->{$language};
        subtest "$language: $name" => sub {
            is $got->{status}, $expected{status}, 'its exit status';
            is $got->{executions}, $expected{executions} // 1, 'the number of executions';
            like met($got), $expected{met}, 'the responses';
            like $got->{output}, $expected{output}, 'its output' if $expected{output};
        } or diag "$language: $got->{output}\n", join "\n", @{$got->{log}};
    }
}

my $first = run_all('/first/', '?text=caf%C3%A9', without_key => 1);
check 'the first request, with a key of its own', $first, status => 0, met => qr/^201$/, output => qr/^operation (\S+)\n#1 caf\xc3\xa9\n\z/;
my %keys;

for my $language (sort keys %$first) {
    my ($key) = ($first->{$language}{log}[0] // '') =~ /\] (\S+) \S+$/;
    like lc($key // ''), $language eq 'sh' ? qr/^[0-9a-f]{32}$/ : qr/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/, "$language: the key is random";
    ok !$keys{lc($key // '')}++, "$language: that no other one has";
}

# nginx logs the 499 of a client that has timed out when the exchange ends.
check 'a timeout, a 409 while the request runs, a replay', run_all('/slow/', '?gate=slow', meanwhile => sub {
    for my $path (@_) {
        ok $nginx->await_access_log(qr{^\Q$path\E 409 \[request_in_progress\]}), "$path: a retry meets the running request";
    }
    open_gate('slow');
}), status => 0, met => qr{^(?=.*\b409/request_in_progress)(?!.*(?:[45]\d\d/(?!request_in_progress)|50\d))(?=.*\b20\d/replay\b)}, output => qr/\n#1 /;

check 'a key that another request has used', run_all('/reused/', '', before => sub {
    my ($path, $key) = @_;
    is $nginx->request(path => $path, key => $key, headers => ['X-API-Key: alice', 'Content-Type: application/json'], body => '{"assetId":"model-7"}', host => "127.0.0.1:$port")->status, 201, "$path: another body";
}), status => 1, met => qr{^201 422/idempotency_key_reused$}, output => qr/^422 idempotency_key_reused/m;

check 'the application loses the request', run_all('/lost/', '?abort=reset'), status => 1,
    met => qr{^502 409/outcome_unknown$}, output => qr/^409 outcome_unknown/m;

check 'the application is busy first', run_all('/busy/', '?status=503,201'), status => 0, executions => 2, met => qr/^503 201$/, output => qr/\n#2 /;

check 'an error of the application that is kept', run_all('/failed/', '?status=500'), status => 1, met => qr/^500$/, output => qr/^500 /m;

check 'a kept 502 is final', run_all('/bad/', '?status=502'), status => 1, met => qr{^502 502/replay$}, output => qr/^502 /m;

check 'a redirection is not followed', run_all('/moved/', '?status=307&header=Location:/first/'), status => 1, met => qr/^307$/;

check 'a conflict of the application', run_all('/conflict/', '?status=409'), status => 1, met => qr/^409$/, output => qr/^409 /m;

$redis->kill;
check 'a store that is unavailable at first', run_all('/distant/', '', meanwhile => sub {
    for my $path (@_) {
        ok $nginx->await_access_log(qr{^\Q$path\E 503 \[store_unavailable\]}), "$path: 503";
    }
    $redis->start;
}), status => 0, met => qr{^(?:503/store_unavailable )+201$}, output => qr/\n#1 /;

# Every code of the reference is on the page with its status.
for (slurp("$repository/docs/responses.md") =~ /^\|[^|]*\| \d{3}[^|]*\| `\w+` \|$/mg) {
    my ($status, $code) = /\| (\d{3})[^|]*\| `(\w+)` \|$/;
    like $page, qr/^\| $status \| `$code` \| [^|]+ \| [^|]+ \|$/m, "the page has $status $code";
}

my %anchor = map { my $text = lc; $text =~ s/[^\w -]//g; $text =~ s/ /-/g; ("#$text" => 1) } $page =~ /^#+ (.*)/mg;
is join(' ', grep { !$anchor{$_} } $page =~ /\]\((#[^)]+)\)/g), '', 'the links within the page lead somewhere';

$nginx->stop(allowed => qr/\[crit\].*connect\(\)/);

done_testing;
