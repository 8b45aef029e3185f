# What is not covered is not changed: with the module loaded and enabled the response to a request without a key is the same as without the module.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Select;
use IO::Socket::INET;
use Test::More;
use IdempotencyTest::App;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await temporary_directory);

my $DEADLINE = $IdempotencyTest::Process::DEADLINE;

# a server in this test
my $played = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 16, ReuseAddr => 1) or die "listen: $!\n";
my $port = $played->sockport;

my $files = temporary_directory();
mkdir "$files/static" or die "mkdir: $!\n";

sub file {
    my ($name, $content) = @_;
    open my $out, '>:raw', "$files/static/$name" or die "$name: $!\n";
    print $out $content;
    close $out;
}

file 'file.txt', join '', map { "line $_\n" } 1 .. 2000;
file 'page.html', '<p>one <!--#include virtual="/app/included" --></p>';
file 'sorry.html', 'sorry';
file 'index.html', 'the index';

# Each nginx has its own space at the application, whose counts begin with one.
my $other_app = IdempotencyTest::App->new(port => app()->port, is_running => 1);

sub nginx {
    my ($is_on, %options) = @_;
    my $nginx = IdempotencyTest::Nginx->new(workers => 1, %options, $is_on ? () : (without_module => 1, stores => ''));
    my $directory = $nginx->directory;
    my $space = ($options{application} || app())->space;
    my $on = $is_on ? 'idempotency main;' : '';

    $nginx->set(http => <<"END", server => <<"END")->start;
    proxy_cache_path $directory/cache keys_zone=cache:1m;
    upstream pair { server 127.0.0.1:$port max_fails=0; server 127.0.0.1:${\ app()->port} backup; }
END
        $on
        root $files/static;
        location / { }
        location /app/ { proxy_pass http://app; }
        location /unbuffered/ { proxy_buffering off; proxy_request_buffering off; proxy_pass http://app; }
        location /gzip/ { gzip on; gzip_types *; gzip_min_length 1; gzip_vary on; proxy_pass http://app; }
        location /filters/ { ssi on; ssi_types *; sub_filter one two; sub_filter_types *; add_header X-Added 1 always; expires 1h; proxy_pass http://app; }
        location = /page.html { ssi on; sub_filter one two; add_after_body /app/after; }
        location /intercepted/ {
            proxy_intercept_errors on; error_page 500 502 /sorry.html; error_page 404 = \@second; error_page 410 =200 /app/third; proxy_pass http://app;
        }
        location \@second { rewrite ^ /second? break; proxy_pass http://app; }
        location /try/ { try_files /none \@second; }
        location /rewritten/ { rewrite ^/rewritten/(.*) /app/\$1 last; }
        location /returned { return 202 "returned\\n"; }
        location /denied/ { deny all; }
        location /asked/ { auth_request /auth; proxy_pass http://app; }
        location = /auth {
            internal;
            proxy_pass_request_body off; proxy_set_header Content-Length ''; proxy_set_header App-Space $space; proxy_pass http://app/app/auth;
        }
        location /mirrored/ { mirror /app/mirror; proxy_pass http://app; }
        location /cached/ { proxy_cache cache; proxy_cache_valid any 1h; add_header X-Cache \$upstream_cache_status; proxy_pass http://app; }
        location /small-body/ { client_max_body_size 10; proxy_pass http://app; }
        location /limit/ { limit_except GET { deny all; } proxy_pass http://app; }
        location /dead/ { proxy_pass http://127.0.0.1:1; }
        location /played/ { proxy_pass http://127.0.0.1:$port; }
        location /played/unbuffered/ { proxy_buffering off; proxy_pass http://127.0.0.1:$port; }
        location /pair/ { proxy_next_upstream error timeout http_503 non_idempotent; proxy_pass http://pair; }
        location /pair/careful/ { proxy_next_upstream error timeout http_503; proxy_pass http://pair; }
END
    return $nginx;
}

my %nginx = (on => nginx(1), without => nginx(0, application => $other_app));
my @both = qw(on without);

sub shown {
    my ($response) = @_;
    my $head = $response->head;
    return $response->status_line if !$response->status;
    $head =~ s/^(Date: |Expires: ).*?\r\n/$1...\r\n/mg;
    my $shown = join "\n", $head, $response->body, map { join ': ', @$_ } @{$response->trailers};
    # the Nth request of its nginx
    return $shown =~ s/\b0{12}\d{8}\b/boundary/gr;
}

sub is_same {
    my ($name, $ask) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my %got = map { $_ => $ask->($nginx{$_}) } @both;
    isnt $got{without}, 'no response in time', "$name gets a response";
    ok $got{on} eq $got{without}, "$name gets its response as without the module"
        or diag "with\n", substr($got{on}, 0, 2000), "\nwithout\n", substr($got{without}, 0, 2000);
}

# Responses

my $etag = $nginx{without}->request(method => 'GET', path => '/file.txt')->header('ETag');
my $modified = $nginx{without}->request(method => 'GET', path => '/file.txt')->header('Last-Modified');
my $binary = join '', map { chr } 0 .. 255;

my @requests = (
    (map { [$_, '/app/a', body => 'body'] } qw(POST PUT PATCH DELETE GET OPTIONS)),
    ['POST', '/app/none'], ['HEAD', '/app/head'], ['POST', '/app/empty', body => ''],
    (map { ['POST', "/${_}upload", body => $binary x 400] } qw(app/ unbuffered/)),
    (map { ['POST', "/${_}chunks", chunks => [$binary, 'x' x 20_000, 'end']] } qw(app/ unbuffered/)),
    (map { ['POST', $_] } '/app/b?framing=chunked', '/app/b?framing=close', '/app/b?status=204&kind=none', '/app/b?status=304&kind=none',
        '/app/b?kind=binary&size=300000', '/app/b?kind=binary&size=300000&framing=chunked', '/app/b?kind=binary&size=2000000',
        '/unbuffered/b?framing=chunked', '/unbuffered/b?kind=binary&size=300000', '/unbuffered/b?framing=close',
        '/app/b?status=503', '/app/b?status=429', '/app/b?status=299&reason=Odd', '/app/b?framing=chunked&trailer=X-T:1',
        '/app/b?header=X-B:1&header=X-A:2&header=X-B:3&header=Set-Cookie:a&header=Set-Cookie:b&header=ETag:"e"&header=Link:1&header=Cache-Control:no-store',
        '/app/b?header=X-Accel-Redirect:/file.txt',
        '/app/b?header=X-Accel-Redirect:/none.txt', '/app/b?header=Content-Type:text/event-stream&framing=chunked', '/app/b?abort=before',
        '/app/b?header=X-Accel-Buffering:no', '/app/b?header=Accept-Ranges:bytes&status=206&header=Content-Range:bytes%200-9/100'),
    ['POST', '/app/c?abort=mid&size=1000&framing=chunked'],
    (map { ['GET', '/file.txt', headers => [@$_]] } [], ['Range: bytes=0-9'], ['Range: bytes=0-1,5-9'], ['Range: bytes=99999-'], ["If-None-Match: $etag"],
        ["If-Modified-Since: $modified"], ['If-Match: "x"'], ["If-Range: $etag", 'Range: bytes=-5'], ['Accept-Encoding: gzip']),
    ['GET', '/'], ['GET', '/none.txt'], ['POST', '/file.txt'], ['HEAD', '/file.txt'], ['GET', '/page.html'],
    (map { ['GET', '/app/d?status=200&header=ETag:"e"&size=100', headers => [$_]] } 'If-None-Match: "e"', 'Range: bytes=0-3', 'Expect: nothing'),
    ['POST', '/gzip/a?size=5000', headers => ['Accept-Encoding: gzip']], ['POST', '/gzip/a?size=5000'],
    ['POST', '/filters/a?text=one,%3C!--%23include%20virtual%3D%22/app/included%22%20--%3E'],
    (map { ['POST', "/intercepted/a?status=$_", body => 'body'] } 201, 500, 404, 410, 503), ['POST', '/intercepted/b?abort=before'],
    ['POST', '/try/a', body => 'body'], ['POST', '/rewritten/a'], ['POST', '/returned'], ['POST', '/denied/a'],
    ['POST', '/asked/a?status=200', body => 'body'], ['POST', '/mirrored/a', body => 'body'],
    (map { ['GET', '/cached/a?status=200&header=ETag:"e"', headers => [@$_]] } [], [], ['Range: bytes=0-3'], ['If-None-Match: "e"']),
    ['POST', '/small-body/a', body => 'more than ten bytes'], ['POST', '/small-body/a', chunks => ['more than ', 'ten bytes']],
    ['POST', '/limit/a'], ['GET', '/limit/a'], ['POST', '/dead/a'], ['POST', '/app/old?framing=chunked', version => 'HTTP/1.0'],
    # requests with a key that are not covered
    ['GET', '/app/key', key => 'k'], ['GET', '/app/key', key => 'a b'], ['HEAD', '/file.txt', key => 'k'], ['POST', '/app/scopeless', key => 'k'],
    ['POST', '/app/scopeless', key => 'k'], ['POST', '/returned', key => 'k', headers => ['X-API-Key: alice']],
);

for my $request (@requests) {
    my ($method, $path, %more) = @$request;
    my $name = join ' ', $method, $path, @{$more{headers} || []}, exists $more{key} ? "with the key $more{key}" : ();
    is_same $name, sub { shown($_[0]->request(method => $method, path => $path, %more)) };
}

is app()->count($_), $other_app->count($_), "$_ ran as often" for qw(/app/a /app/b /app/included /app/auth /app/mirror /second /app/scopeless /app/key);
is app()->count('/app/scopeless'), 2, 'and each time';
is_deeply [map { [grep { lc $_->[0] ne 'app-space' } @{$_->last_request('/mirrored/a')->{headers}}] } app()],
    [map { [grep { lc $_->[0] ne 'app-space' } @{$_->last_request('/mirrored/a')->{headers}}] } $other_app], 'the application sees the same headers';

# Connections

for my $case (
    ['a request that is none', "nonsense\r\n\r\n"],
    ['a request with a bad field', "POST /app/x HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n"],
    ['a request without a host', "POST /app/x HTTP/1.1\r\n\r\n"],
    ['a long field', "GET /app/x HTTP/1.1\r\nHost: a\r\nX: " . 'x' x 40_000 . "\r\n\r\n"],
    ['bad chunks', "POST /app/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
    ['a connection that is to close', "POST /app/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody"],
    ['a body that nobody asked for', "POST /returned HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody"])
{
    my ($name, $bytes) = @$case;
    is_same $name, sub {
        my $client = $_[0]->connect->send_raw($bytes, 'POST');
        my $answer = $client->response;
        return shown($answer) . ($client->is_closed_within($DEADLINE) ? 'closed' : 'open');
    };
}

is_same 'a pipeline', sub {
    my $client = $_[0]->connect;
    my $bytes = join '', map { "$_ HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody" } 'POST /app/p', 'GET /file.txt', 'POST /none.txt', 'POST /intercepted/p?status=404',
        'PUT /returned', 'POST /asked/p';
    $client->send_raw($bytes, ('POST') x 6);
    return join "\n", map { shown($client->response) } 1 .. 6;
};

is_same 'a body that is waited for', sub {
    my $client = $_[0]->connect->send_raw("POST /app/e HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n", 'POST');
    my $interim = $client->response;
    $client->send_raw('body');
    return shown($interim) . shown($client->response);
};

# A client that disconnects: its request to the application is ended too

sub accept_request {
    IO::Select->new($played)->can_read($DEADLINE) or return;
    my $socket = $played->accept;
    my $head = '';
    sysread $socket, $head, 65536, length $head or last while $head !~ /\r\n\r\n/;
    return $socket;
}

sub is_ended {
    my ($socket) = @_;
    my $select = IO::Select->new($socket);
    return scalar $select->can_read($DEADLINE) && !sysread $socket, my $bytes, 1;
}

# The only worker has handled that when it responds to another request.
sub goes_on { my ($nginx) = @_; return $nginx->request(method => 'GET', path => '/file.txt')->status == 200 }

for my $where ('', 'unbuffered/') {
    for my $method (qw(GET POST)) {
        for my $begun ('', "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" . 'x' x 5000) {
            for my $which (@both) {
                my $name = "$method /played/$where, " . ($begun ? 'in the middle of the answer' : 'before the answer') . ", $which";
                my $client = $nginx{$which}->send_request(method => $method, path => "/played/${where}a");
                my $server = accept_request();
                syswrite $server, $begun if $begun;
                $client->await_bytes if $begun && $where;
                $client->close;
                ok is_ended($server), "a client that disconnects ends an uncovered exchange ($name)";
            }
        }
    }
}

# Beside a covered request in the same location, which continues.
{
    my @covered = (path => '/played/covered', key => 'covered', headers => ['X-API-Key: alice']);
    my $covered = $nginx{on}->send_request(@covered);
    my $covered_server = accept_request();
    my $client = $nginx{on}->send_request(path => '/played/beside');
    my $server = accept_request();
    $_->close for $client, $covered;
    ok is_ended($server), 'a client that disconnects ends an uncovered exchange beside a covered one';
    ok goes_on($nginx{on}), 'nginx still runs';
    ok !IO::Select->new($covered_server)->can_read(0), 'the covered exchange is not ended';
    syswrite $covered_server, "HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nkept";
    my $retry;
    await(sub { $retry = $nginx{on}->request(@covered); $retry->code ne 'request_in_progress' });
    ok $retry->is_replay && $retry->body eq 'kept', 'its response is kept';
    ok !IO::Select->new($played)->can_read(0), 'and it ran once';
}

# proxy_next_upstream

for my $where ('', 'careful/') {
    for my $method (qw(GET PUT DELETE POST)) {
        for my $answer ('', "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy") {
            is_same "$method /pair/$where after " . ($answer ? 'a 503' : 'a connection that broke'), sub {
                my ($nginx) = @_;
                my $client = $nginx->send_request(method => $method, path => "/pair/${where}a", body => 'body');
                my $server = accept_request();
                syswrite $server, $answer;
                close $server;
                return shown($client->response);
            };
        }
    }
}

is app()->count("/pair/${_}a"), $other_app->count("/pair/${_}a"), "the second server was asked as often (/pair/$_)" for '', 'careful/';

$_->stop for @nginx{@both};
done_testing;
