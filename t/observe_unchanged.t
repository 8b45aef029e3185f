# `observe` changes nothing: each request goes to two servers with the same locations, of which one observes. The responses are equal
# to the byte, and so is what the application gets.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();
use Test::More;
use IdempotencyTest::App;
use IdempotencyTest::Environment qw(store_mode);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);

my $json = JSON::PP->new->canonical;
my $app = IdempotencyTest::App->new(gateways => 1);
my $files = IdempotencyTest::Process::temporary_directory();
IdempotencyTest::Files::write_file("$files/file.txt", "a file\n" x 1000);

# The ways of a request to its response. `$app_space` keeps the executions of the two servers apart.
my %gateway = map { my $name = $_; $name => join ' ', "${name}_pass " . $app->gateway($name) . ';', map { "${name}_param $_;" }
    'REQUEST_METHOD $request_method', 'REQUEST_URI $request_uri', 'CONTENT_LENGTH $content_length', 'CONTENT_TYPE $content_type',
    'HTTP_APP_SPACE $app_space', 'HTTP_X_BODY $request_body' } qw(fastcgi scgi uwsgi);
my $proxy = 'proxy_pass http://app;';
my %handlers = (
    proxy => $proxy,
    unbuffered => "$proxy proxy_buffering off;",
    streaming => "$proxy proxy_request_buffering off;",
    http10 => "$proxy proxy_http_version 1.0;",
    nobody => "$proxy idempotency_fingerprint \$request_uri body=off;",
    conditions => "$proxy idempotency_keepalive_idle 1ms;",
    ignoring => "$proxy proxy_ignore_client_abort on;",
    captures => "$proxy proxy_set_header X-Captured \$1; proxy_set_header X-Body \$request_body; proxy_set_header App-Space \$app_space; idempotency_scope \$mapped_key \$request_body any;",
    required => 'REQUIRED ' . $proxy,
    off => "$proxy idempotency off;",
    small_buffers => "$proxy client_body_buffer_size 1k; proxy_buffer_size 4k; proxy_buffers 2 4k; proxy_busy_buffers_size 4k;",
    intercepted => "$proxy proxy_intercept_errors on; error_page 409 502 504 =418 /static/file.txt; error_page 503 \@other;",
    dead => 'proxy_pass http://127.0.0.1:1; error_page 502 /static/file.txt;',
    dead_plain => 'proxy_pass http://127.0.0.1:1;',
    next => 'proxy_pass http://two;',
    filtered => "$proxy gzip on; gzip_types *; gzip_min_length 1; gzip_http_version 1.0; sub_filter POST PoSt; sub_filter_types *; add_header X-Added 1 always;",
    included => "$proxy ssi on; ssi_types *;",
    mirrored => "mirror /mirror; $proxy",
    refused => "deny all; error_page 403 \@other;",
    limited => "client_max_body_size 10; $proxy",
    no_body => "$proxy client_body_in_file_only on;",
    returning => 'return 201 "returned\n";',
    static => "alias $files/;",
    trying => 'try_files /nothing @other;',
    %gateway);

my $common = join "\n", (map { my $how = $handlers{$_} =~ s/^REQUIRED //r; my $required = $handlers{$_} =~ /^REQUIRED/;
    "location ~ ^/$_/(.*) { " . ($_ eq 'static' ? '' : ($required ? 'IDEMPOTENCY' : '') . " $how") . ' }' } grep { $_ ne 'static' } sort keys %handlers),
    "location /static/ { alias $files/; }", "location \@other { $proxy }", "location = /mirror { internal; $proxy }",
    'location /index/ { index file.txt; error_page 404 405 =200 @other; }';

sub server {
    my ($name, $idempotency) = @_;
    my $locations = $common =~ s/IDEMPOTENCY/$idempotency ? 'idempotency main required observe;' : ''/ger;
    return "set \$app_space $name; \n" . ($idempotency ? "idempotency main observe;\n" : '')
        . "idempotency_scope \$http_x_api_key any;\nproxy_set_header App-Space \$app_space; proxy_set_header Connection \"\"; proxy_set_header X-Id \$request_length;\n$locations\n";
}

my $nginx = IdempotencyTest::Nginx->new(workers => 1, application => $app, memory => '32m');
my $plain = $nginx->directory . '/plain.sock';
my ($spaces, @socket) = ({}, 'unix:' . $plain, $nginx->address);
$nginx->set(
    http => join("\n", 'upstream two { server 127.0.0.1:1; server 127.0.0.1:' . $app->port . '; }',
        'map $http_idempotency_key $mapped_key { "~^(.)(.*)" $2; }',
        "server { listen unix:$plain; server_name localhost; " . server(sprintf('%s-plain', $app->space), 0) . '}'),
    server => server(sprintf('%s-other', $app->space), 1));
$nginx->start;

# What the application got last for a path, without what is different in each exchange.
sub received {
    my ($space, $path) = @_;
    local $app->{space} = $app->space . "-$space";
    my $last = eval { $app->last_request($path) } || {};
    delete $last->{headers};
    my $headers = eval { $app->last_request($path)->{headers} } || [];
    $last->{headers} = [grep { lc $_->[0] ne 'app-space' } map { ref ? $_ : [$_] } ref $headers eq 'HASH' ? map { [$_, $headers->{$_}] } sort keys %$headers : @$headers];
    return $json->encode([$last, $app->count($path)]);
}

# The bytes of a response, without the value of Date.
sub bytes {
    my ($response) = @_;
    # how much of a response that breaks off comes depends on the time
    return 'incomplete' if $response->status == 0;
    my $head = $response->head =~ s/^Date: .*$/Date:/mr;
    return join "\n", $response->status_line, $head, $response->body, map { "$_->[0]: $_->[1]" } @{$response->trailers};
}

my $n = 0;

sub is_unchanged {
    my ($name, $path, %request) = @_;
    my @bytes = map { bytes(IdempotencyTest::Client->connect($_)->send(path => $path, %request)->response) } @socket;
    my @received = map { received($_, $path =~ s/\?.*//r) } qw(plain other);
    $n++;
    is $bytes[1], $bytes[0], "$name: the response" or diag $path;
    is $received[1], $received[0], "$name: the request at the application" or diag $path;
}

my @who = ('X-API-Key: alice');
my %requests = (
    'a first request' => {body => 'one'},
    'its retry' => {body => 'one'},
    'another body' => {body => 'two'},
    'chunks' => {chunks => ['x' x 3000, 'y' x 9000]},
    'a large body' => {body => 'x' x 70_000},
    'no body' => {method => 'DELETE'},
    'an ill-formed key' => {key => 'a b', body => 'one'},
    'two keys' => {headers => [@who, 'Idempotency-Key: two'], body => 'one'},
    'no key' => {key => undef, body => 'one'},
    'no scope' => {headers => [], body => 'one'},
    'conditions' => {headers => [@who, 'If-Match: "a"', 'Range: bytes=0-1', 'If-None-Match: "b"', 'Expect: 200-ok'], method => 'PUT', body => 'one'},
    'HTTP/1.0' => {version => 'HTTP/1.0', body => 'one'},
    'GET' => {method => 'GET'},
);

for my $handler (sort keys %handlers, 'index') {
    for my $what ('a first request', grep { $_ ne 'a first request' } sort keys %requests) {
        is_unchanged("$handler, $what", "/$handler/file.txt", key => 'key', headers => \@who, %{$requests{$what}});
    }
}

# What the application may respond.
for my $query (qw(status=204&kind=none status=503 status=409 status=500 framing=chunked&trailer=X-T:1 framing=close abort=before abort=reset abort=mid
        abort=garbage abort=chunk&framing=chunked size=60000 size=1200000 header=X-Accel-Idempotency:release header=Idempotent-Replayed:true
        header=X-Accel-Redirect:/static/file.txt header=X-Accel-Redirect:@other header=Content-Type:text/event-stream&pieces=3
        header=X-Accel-Buffering:no&pieces=3 header=Link:a&header=Link:b&header=ETag:"x")) {
    for my $handler (qw(proxy unbuffered nobody small_buffers intercepted included filtered), $query =~ /garbage|X-Accel|mid/ ? () : 'fastcgi') {
        my $name = $query =~ s/[^\w=]/_/gr;
        is_unchanged("$handler, $query, $_", "/$handler/$name?$query", key => $name, headers => \@who, body => 'body') for qw(first again);
    }
}

cmp_ok $n, '>', 500, 'requests were compared';
$nginx->stop(allowed => qr/upstream sent|\[crit\]/);
done_testing;
