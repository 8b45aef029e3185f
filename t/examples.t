# Every example of the README and the reference is correct: nginx starts with the configurations, and the request gets the documented response.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Certificates;
use IdempotencyTest::Client;
use IdempotencyTest::Environment qw(app module redis store_mode);
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Nginx;

plan skip_all => 'names its stores itself: run with the memory store alone' if store_mode() ne 'memory';

my $repository = "$FindBin::Bin/..";
my $nginx = IdempotencyTest::Nginx->new;
my $directory = $nginx->directory;

# The indented blocks of a page, without their indentation.
sub blocks_of {
    my ($page) = @_;
    my $text = slurp("$repository/$page");
    my @blocks = $text =~ /(?:\A|\n)\n((?:    .*\n|\n(?=    ))+)/g;
    s/^    //mg for @blocks;
    return @blocks;
}

# The blocks of all pages that begin with this text.
my @pages = ('README.md', 'docs/logs.md', 'docs/directives.md', 'docs/responses.md', 'docs/redis.md', 'docs/encryption.md');
sub examples { my ($beginning) = @_; return grep { /\A$beginning/ } map { blocks_of($_) } @pages }

my ($whole) = examples('load_module ');
my @stores = grep { !/NAME/ } examples('idempotency_store ');
my @locations = examples('location ');
my @upstreams = examples('upstream ');
my @formats = examples('(?:log_format|map) ');
my ($request) = examples('POST ');

is scalar(@stores), 10, 'the examples of stores are found';
is scalar(@locations), 5, 'the examples of locations are found';
is scalar(@upstreams), 1, 'the example of an upstream is found';
is scalar(@formats), 3, 'the examples of log formats are found';

# The parts that depend on the machine are replaced; the rest is as a reader copies it.
sub at_home {
    my ($configuration) = @_;
    my ($app, $redis, $module) = (app()->port, redis()->port, module());
    $configuration =~ s/127\.0\.0\.1:8080/127.0.0.1:$app/g;
    $configuration =~ s/127\.0\.0\.1:6379/127.0.0.1:$redis/g;
    # no name server knows these names
    $configuration =~ s/[a-z0-9-]+\.internal\b/localhost/g;
    $configuration =~ s{/etc/nginx/}{$directory/}g;
    $configuration =~ s{modules/ngx_http_idempotency_module\.so}{$module};
    $configuration =~ s{listen 80;}{listen unix:$directory/http.sock;};
    return $configuration;
}

# The files that the examples name.
my $certificates = IdempotencyTest::Certificates->new;
my $shown = $certificates->client;
$nginx->write_file($_->[0], slurp($_->[1])) for ['redis-ca.pem', $certificates->authority],
    ['client.pem', $shown->{certificate}], ['client.key', $shown->{key}];
$nginx->write_file('redis.password', "word\n");
$nginx->write_file($_, unpack 'H*', pack 'N8', map { int rand 2**32 } 1 .. 8) for 'idempotency.key';

my ($status, $output) = $nginx->set(
    stores => at_home(join "\n", 'idempotency_store local { memory 1m; }', @stores, @upstreams, @formats),
    server => at_home(join "\n", 'access_log logs/example.log idempotency;', @locations))->test_configuration;
is $status, 0, 'the examples of the reference are right' or diag $output;

# The README's own configuration, and its request sent twice.
my $first_line = 'daemon off; user root; pid logs/nginx.pid; error_log logs/error.log info; worker_processes 2;';
$nginx->set(configuration => "$first_line\n" . at_home($whole))->start;

$request =~ s/\n/\r\n/g;
my ($body) = $request =~ /\r\n\r\n(.*)\r\n\z/s;
my $length = length $body;
$request =~ s/\r\n\r\n.*/\r\nContent-Length: $length\r\n\r\n$body/s;

my $client = $nginx->connect;
my $first = $client->send_raw($request, 'POST')->response;
ok $first->status == 201 && $first->body =~ /^#\d+ POST / && !$first->is_replay, "the README's request gets the application's response";
my $retry = $client->send_raw($request, 'POST')->response;
is_replay_of $retry, $first, 'sent again it gets the kept response';
$nginx->stop;

# The demo: the README shows what it prints.
my ($picture) = grep { /^1\. The client creates/m } blocks_of('README.md');

for my $store ('memory', 'redis') {
    my $shown = qx(DEMO_BUILT=1 $repository/tools/demo $store 2>&1);
    is $?, 0, "tools/demo $store ends well" or diag $shown;
    $shown =~ s/^   The store: \Kredis unix:\S+;$/memory 16m;/m if $store eq 'redis';
    is $shown, $picture, "the README shows the output of tools/demo $store";
}

done_testing;
