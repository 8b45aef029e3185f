# The filters of nginx are applied again, and once, to each replay, as its client accepts. A copy that the client has, a range, or a request
# for the head only do not change what is kept.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Uncompress::Gunzip ();
use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);

my @modules = IdempotencyTest::Nginx->available_modules('ngx_http_brotli_filter_module');
my $has_brotli = @modules > 0;

my $nginx = IdempotencyTest::Nginx->new(modules => \@modules);
my $directory = $nginx->directory;
my $space = app()->space;
mkdir "$directory/files" or die "mkdir: $!\n";
$nginx->write_file('files/file.txt', "a file\n" x 100);

my $brotli_location = $has_brotli ? 'location /brotli/ { brotli on; brotli_types *; brotli_min_length 1; proxy_pass http://app; }' : '';

# the server `encoder` makes `app` an application that compresses
$nginx->set(http => <<"END", server => <<"END")->start;
    server {
        listen unix:$directory/encoder.sock;
        location / { gzip on; gzip_types *; gzip_min_length 1; gzip_http_version 1.0; gzip_proxied any; proxy_pass http://app; }
    }
    charset_map windows-1251 utf-8 { E0 D0B0; E4 D0B4; }
    upstream encoder { server unix:$directory/encoder.sock; }
END
        idempotency main;
        location / { proxy_pass http://app; }

        location /added/ { add_header X-Added \$request_id always; proxy_pass http://app; }
        location /expires/ { expires 1h; proxy_pass http://app; }
        location /trailer/ { add_trailer X-Added \$request_id; proxy_pass http://app; }
        location /gzip/ { gzip on; gzip_types *; gzip_min_length 1; gzip_vary on; proxy_pass http://app; }
        location /encoded/ { proxy_set_header Accept-Encoding gzip; proxy_pass http://encoder; }
        location /encoded/gzip/ { gzip on; gzip_types *; gzip_min_length 1; proxy_set_header Accept-Encoding gzip; proxy_pass http://encoder; }
        location /encoded/gunzip/ { gunzip on; gzip_vary on; proxy_set_header Accept-Encoding gzip; proxy_pass http://encoder; }
        location /sub/ { sub_filter one 'one one'; sub_filter_once off; sub_filter_types *; proxy_pass http://app; }
        location /sub-unbuffered/ { proxy_buffering off; sub_filter one 'one one'; sub_filter_once off; sub_filter_types *; proxy_pass http://app; }
        location /ssi/ { ssi on; ssi_types *; proxy_pass http://app; }
        location /charset/ { charset windows-1251; source_charset utf-8; charset_types *; proxy_pass http://app; }
        location /named-charset/ { charset utf-8; charset_types *; proxy_pass http://app; }
        location /addition/ { addition_types *; add_before_body /before; add_after_body /after; proxy_pass http://app; }
        location /all/ {
            gzip on; gzip_types *; gzip_min_length 1; ssi on; ssi_types *; addition_types *; add_after_body /after;
            sub_filter one 'one one'; sub_filter_once off; sub_filter_types *; add_header X-Added \$request_id; expires 1h;
            proxy_pass http://app;
        }
        location /before { return 200 "before\\n"; }
        location /after { idempotency_methods GET POST; proxy_pass http://app/after?status=200; }
        location /included { idempotency_methods GET POST; proxy_pass http://app; }
        $brotli_location

        location /ranges/ { proxy_force_ranges on; proxy_pass http://app; }
        location /files/ { idempotency_methods GET POST; root $directory; }
        location /get/ { idempotency_methods GET; proxy_pass http://app; }
        location /tunnel/ { proxy_set_header App-Space $space; proxy_set_header Upgrade \$http_upgrade; proxy_set_header Connection upgrade; proxy_pass http://app; }
        location /streamed/ {
            idempotency_fingerprint "\$request_method \$request_uri" body=off;
            proxy_request_buffering off;
            proxy_pass http://app;
        }
        location /plain/ { idempotency off; proxy_pass http://app; }
END

my $keys = 0;

sub ask {
    my ($path, $key, @headers) = @_;
    return $nginx->request(path => $path, key => $key, headers => ['X-API-Key: alice', @headers]);
}

# A request and its retry with different headers.
sub pair {
    my ($path, @headers) = @_;
    my $key = 'key-' . ++$keys;
    return map { ask($path, $key, @$_) } $headers[0] || [], $headers[1] || $headers[0] || [];
}

sub ran {
    my ($path, $n, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is app()->count($path), $n, $name;
}

sub gunzipped {
    my ($answer) = @_;
    my ($from, $to) = ($answer->body, '');
    IO::Uncompress::Gunzip::gunzip(\$from, \$to) or return "no gzip: $IO::Uncompress::Gunzip::GunzipError";
    return $to;
}

sub encoding { return join ',', $_[0]->headers('Content-Encoding') }

# Fields

{
    my ($first, $retry) = pair('/added/a');
    ok $retry->is_replay, 'a response with add_header is replayed';
    is scalar($_->headers('X-Added')), 1, 'add_header adds one field to the first response' for $first, $retry;
    isnt $retry->header('X-Added'), $first->header('X-Added'), 'and one field to the replay';
    ran '/added/a', 1, 'the application ran once (add_header)';

    ($first, $retry) = pair('/added/b?header=X-Added:app&status=404');
    is scalar($_->headers('X-Added')), 2, "beside the application's own" for $first, $retry;
    is +($retry->headers('X-Added'))[0], 'app', 'the replay has both fields too';
    ran '/added/b', 1, 'the application ran once (add_header always)';
}

for my $query ('?status=200', '?status=200&header=Cache-Control:no-store', '?status=200&header=Cache-Control:a&header=Cache-Control:b&header=Expires:0') {
    my $path = '/expires/a' . ++$keys;
    my ($first, $retry) = pair("$path$query");
    ok $retry->is_replay, "a response with expires is replayed ($query)";
    is join('|', $_->headers('Cache-Control')), 'max-age=3600', "it has one Cache-Control ($query)" for $first, $retry;
    like join('|', $_->headers('Expires')), qr/^\w+, [\w -]+ [\d:]+ GMT$/, "and one Expires ($query)" for $first, $retry;
    ran $path, 1, "the application ran once (expires, $query)";
}

{
    my ($first, $retry) = pair('/trailer/a?framing=chunked');
    ok $retry->is_replay, 'a response with add_trailer is replayed';
    is scalar(grep { $_->[0] eq 'X-Added' } @{$_->trailers}), 1, 'add_trailer adds one trailer' for $first, $retry;
    ran '/trailer/a', 1, 'the application ran once (add_trailer)';
}

# Encodings

for my $case (['gzip', 'gzip'], ['gzip', ''], ['', 'gzip'], ['', '']) {
    my $path = '/gzip/a' . ++$keys;
    my $name = join ', then ', map { $_ || 'nothing' } @$case;
    my ($first, $retry) = pair("$path?status=200&size=5000&header=ETag:\"e\"", map { ["Accept-Encoding: $_"] } @$case);
    ok $retry->is_replay, "gzip, Accept-Encoding $name: the response is a replay";

    for my $n (0, 1) {
        my $answer = ($first, $retry)[$n];
        my $is_gzip = $case->[$n] eq 'gzip';
        is encoding($answer), $case->[$n], "it has the encoding ($name: $n)";
        is length($is_gzip ? gunzipped($answer) : $answer->body), 5000, "it is complete ($name: $n)";
        is join('|', $answer->headers('ETag')), $is_gzip ? 'W/"e"' : '"e"', "its ETag is weak where it is compressed ($name: $n)";
        is join('|', $answer->headers('Vary')), 'Accept-Encoding', "and it has one Vary ($name: $n)";
    }

    ran $path, 1, "the application ran once ($name)";
}

SKIP: {
    skip 'brotli is not installed', 4 if !$has_brotli;
    my ($first, $retry) = pair('/brotli/a?status=200&size=5000', ['Accept-Encoding: br'], ['Accept-Encoding: br']);
    is_replay_of $retry, $first, 'a response is compressed by brotli, and so is its replay';
    is encoding($retry), 'br', 'once';
    is encoding(ask('/brotli/a?status=200&size=5000', "key-$keys")), '', 'and not for a client that does not accept it';
    ran '/brotli/a', 1, 'the application ran once (brotli)';
}

for my $case (['gzip', 'gzip'], ['gzip', ''], ['', 'gzip']) {
    my $name = join ', then ', map { $_ || 'nothing' } @$case;
    my @accept = map { ["Accept-Encoding: $_"] } @$case;

    for my $where ('', 'gzip/') {
        my $path = "/encoded/${where}a" . ++$keys;
        my ($first, $retry) = pair("$path?status=200&size=5000", @accept);
        is encoding($first), 'gzip', "an application's own gzip ($name) is delivered ($where)";
        is_replay_of $retry, $first, "and replayed without a change, and the replay has the Content-Encoding ($where)";
        is length gunzipped($retry), 5000, "it was compressed once ($where)";
        ran $path, 1, "the application ran once ($name, $where)";
    }

    my $path = '/encoded/gunzip/a' . ++$keys;
    my ($first, $retry) = pair("$path?status=200&size=5000", @accept);
    ok $retry->is_replay, "gunzip, Accept-Encoding $name: the response is a replay";

    for my $n (0, 1) {
        my $answer = ($first, $retry)[$n];
        is encoding($answer), $case->[$n], "it has an encoding that its client accepts ($name: $n)";
        is length($case->[$n] eq 'gzip' ? gunzipped($answer) : $answer->body), 5000, "it is complete ($name: $n)";
        is join('|', $answer->headers('Vary')), 'Accept-Encoding', "and has one Vary ($name: $n)";
    }

    ran $path, 1, "the application ran once (gunzip, $name)";
}

# Bodies

for my $where ('sub', 'sub-unbuffered') {
    my $path = "/$where/a";
    my ($first, $retry) = pair("$path?text=one,two,one&framing=chunked");
    is $first->body, "#1 one one,two,one one\n", "$where: sub_filter replaces";
    is_replay_of $retry, $first, "$where: and does so once on a replay";
    ran $path, 1, "$where: the application ran once";
}

{
    my $ssi = '%3C!--%23include%20virtual%3D%22/included%3Fstatus%3D200%22%20--%3E';
    my ($first, $retry) = pair("/ssi/a?text=$ssi,$ssi");
    like $first->body, qr{^#1 #\d GET /included\?status=200 -\n,#\d GET /included\?status=200 -\n\n$}, 'SSI includes are in the response';
    ok $retry->is_replay, 'a response with SSI is replayed';
    like $retry->body, qr{^#1 #\d GET /included\?status=200 -\n,#\d GET /included\?status=200 -\n\n$}, 'and the includes are requested again';
    ran '/ssi/a', 1, 'the application ran once for the page';
    ran '/included', 4, 'and for each include, which is not covered though it has the key';

    # the includes have the same key as the page
    is app()->count('/after'), 0, 'nothing else ran';
}

{
    my ($first, $retry) = pair('/charset/a?text=%D0%B4%D0%B0');
    is $first->body, "#1 \xe4\xe0\n", 'charset converts';
    is $first->header('Content-Type'), 'text/plain; charset=windows-1251', 'and Content-Type has the charset';
    is_replay_of $retry, $first, 'a replay is converted once, too';
    ran '/charset/a', 1, 'the application ran once (charset)';

    ($first, $retry) = pair('/named-charset/a');
    is $first->header('Content-Type'), 'text/plain; charset=utf-8', 'a charset is added to Content-Type';
    is_replay_of $retry, $first, 'and once to that of a replay';

    ($first, $retry) = pair('/charset/b?text=%D0%B4&header=Content-Type:text/html;%20charset%3Dutf-8');
    is_replay_of $retry, $first, "an application's own charset is replayed";
    is $first->body, "#1 \xd0\xb4\n", 'without a change';
    ran '/charset/b', 1, "the application ran once (own charset)";
}

{
    my ($first, $retry) = pair('/addition/a?status=200');
    my $after = qr{#\d GET /after\?status=200 -\n};
    like $first->body, qr{^before\n#1 POST /addition/a\?status=200 -\n$after$}, 'addition adds';
    ok $retry->is_replay, 'a response with additions is replayed';
    like $retry->body, qr{^before\n#1 POST /addition/a\?status=200 -\n$after$}, 'with one addition';
    ran '/addition/a', 1, 'the application ran once (addition)';
    ran '/after', 2, 'the added subrequests are not covered';
}

{
    my $ssi = '%3C!--%23include%20virtual%3D%22/before%22%20--%3E';
    my ($first, $retry, $plain) = (pair("/all/a?status=200&text=one,$ssi", ['Accept-Encoding: gzip']), ask("/all/a?status=200&text=one,$ssi", "key-$keys"));
    my $expected = qr{^#1 one one,before\n\n#\d GET /after\?status=200 -\n$};
    like gunzipped($first), $expected, 'all filters at once';
    like gunzipped($retry), $expected, 'each is applied once to a replay';
    like $plain->body, $expected, 'and to one for a client that does not accept gzip';
    is join('|', map { scalar $retry->headers($_) } qw(X-Added Expires Cache-Control Content-Encoding)), '1|1|1|1', 'it has each field once';
    ok $_->is_replay, 'it is a replay' for $retry, $plain;
    ran '/all/a', 1, 'the application ran once (all filters)';
}

# Ranges and conditions

{
    my ($first, $retry) = pair('/ranges/a?status=200&size=100', ['Range: bytes=0-3']);
    is $first->status . length $first->body, 200 . 100, 'a range does not cut a first response';
    is_replay_of $retry, $first, 'nor a replay';
    ran '/ranges/a', 1, 'the application ran once (range)';

    ($first, $retry) = pair('/ranges/b?status=206&size=10&header=Content-Range:bytes%200-9/100', ['Range: bytes=0-9'], []);
    is $first->status, 206, "a partial response of the application is delivered";
    is_replay_of $retry, $first, 'and replayed without a change';
    ran '/ranges/b', 1, 'the application ran once (206)';
}

my $date = 'Tue, 15 Nov 1994 12:45:26 GMT';
my $answer = 'status=200&header=ETag:"e"&header=Last-Modified:Tue,%2015%20Nov%201994%2012:45:26%20GMT';

for my $condition ('If-None-Match: "e"', "If-Modified-Since: $date", 'If-Match: "other"', 'If-Unmodified-Since: Tue, 15 Nov 1990 12:45:26 GMT',
    'If-None-Match: *')
{
    for my $case ([[$condition], [$condition]], [[], [$condition]], [[$condition], []]) {
        my $path = '/condition' . ++$keys;
        my $name = join ', then ', map { $_->[0] // 'nothing' } @$case;
        my ($first, $retry) = pair("$path?$answer", @$case);
        is $first->status, 200, "$name: the first response is the application's";
        is_replay_of $retry, $first, "$name: and so is its replay";
        ran $path, 1, "$name: the application ran once";
    }
}

ask('/conditional', 'conditional', 'If-None-Match: "e"');
is scalar(grep { lc $_->[0] eq 'if-none-match' } @{app()->last_request('/conditional')->{headers}}), 1, 'the application gets the condition';

{
    my $file = $nginx->request(method => 'GET', path => '/files/file.txt');
    my @conditions = ('If-None-Match: ' . $file->header('ETag'), 'If-Modified-Since: ' . $file->header('Last-Modified'), 'Range: bytes=0-3');

    for my $condition (@conditions) {
        my @answers = map { $nginx->request(method => 'GET', path => '/files/file.txt', key => $condition =~ s/:.*//r,
            headers => ['X-API-Key: alice', @$_]) } [$condition], [$condition], [];
        is $answers[0]->body, $file->body, "a covered GET of a file gets all of it ($condition)";
        is_replay_of $answers[$_], $answers[0], "and so does its retry ($condition)" for 1, 2;
    }
}

# What is never covered

{
    my @answers = map { $nginx->request(method => $_, path => '/get/head', key => 'head', headers => ['X-API-Key: alice']) } qw(HEAD HEAD GET HEAD GET);
    ok !$answers[$_]->is_replay, "a HEAD is never covered ($_)" for 0, 1, 3;
    ok $answers[4]->is_replay, 'the GET is covered';
    ran '/get/head', 4, 'the application ran for each HEAD, and once for the GET';
}

{
    my $client = $nginx->connect->send_raw("CONNECT /connect HTTP/1.1\r\nHost: localhost\r\nX-API-Key: alice\r\nIdempotency-Key: connect\r\n\r\n", 'CONNECT');
    my $status = $client->response->status;
    ok $status == 405 || $status == 400, 'a CONNECT is refused by nginx (405 before nginx 1.31, then 400)' or diag $status;
    is_first ask('/connect', 'connect'), 201, 1, 'and claims nothing';
}

{
    my $upgrade = '/tunnel/a?status=101&kind=none&header=Upgrade:count&header=Connection:upgrade';
    my @clients;

    for my $n (1, 2) {
        my $client;
        # the key is released while the tunnel is open
        ok await(sub {
            $client = $nginx->send_request(path => $upgrade, key => 'tunnel', headers => ['X-API-Key: alice', 'Upgrade: count', 'Connection: upgrade']);
            $client->response->status == 101;
        }), "an upgrade is passed through ($n)";
        $client->send_raw("GET /count/tunnel/a HTTP/1.1\r\nApp-Space: " . app()->space . "\r\n\r\n");
        shift @{$client->{awaited}};
        is $client->response->body, "$n\n", "and so is the data in the tunnel ($n)";
        push @clients, $client;
    }

    $_->close for @clients;
    is_first ask('/tunnel/a?status=201', 'tunnel'), 201, 3, 'it holds no key';
}

for my $where ('', 'streamed/') {
    my $path = "/${where}continue";
    my @answers;

    for my $n (1, 2) {
        my $client = $nginx->connect->send_raw("POST $path HTTP/1.1\r\nHost: localhost\r\nX-API-Key: alice\r\nIdempotency-Key: continue$where\r\n"
            . "Expect: 100-continue\r\nContent-Length: 4\r\n\r\n", 'POST');
        my $answer = $client->response;

        # with body=off a replay does not need the body
        if ($where eq '' || $n == 1) {
            is $answer->status, 100, "a 100 Continue asks for the body ($path, $n)";
            $client->send_raw('body');
            $answer = $client->response;
        }

        push @answers, $answer;
    }

    is_first $answers[0], 201, 1, "and the request runs ($path)";
    is_replay_of $answers[1], $answers[0], "its retry gets a replay ($path)";
    is app()->last_request($path)->{length}, 4, "the application has got the body ($path)";
    ran $path, 1, "the application ran once ($path)";
}

$nginx->stop;
done_testing;
