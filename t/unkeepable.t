# Responses that are strange, or that the store does not take: whatever nginx delivers is replayed byte for byte, or recorded as not kept.
# The request is never executed again.
#
# IDEMPOTENCY_TEST_SEED, IDEMPOTENCY_TEST_RESPONSES: of the generated responses.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IO::Select;
use IdempotencyTest::App;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Files qw(write_file);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await temporary_directory);
use IdempotencyTest::RawApp;
use IdempotencyTest::Redis;
use IdempotencyTest::Requests qw(@who ask other_outcomes);
use Time::HiRes qw(sleep time);

my $is_redis = store_mode() eq 'redis';
my $seed = $ENV{IDEMPOTENCY_TEST_SEED} // int time;
my $number = $ENV{IDEMPOTENCY_TEST_RESPONSES} // 300;
my $raw = IdempotencyTest::RawApp->new;
my $n = 0;

# Each status counts as acted on.
my $server = <<'END';
        idempotency main;
        idempotency_retriable none;
        proxy_buffer_size 64k;
        proxy_buffers 8 64k;
        proxy_busy_buffers_size 128k;
        location / { proxy_pass http://app; }
        location /unbuffered/ { proxy_buffering off; proxy_pass http://app; }
        location /small/ { idempotency_max_body 100; proxy_pass http://app; }
        location /http10/ { proxy_http_version 1.0; proxy_pass http://app; }
        scgi_param CONTENT_LENGTH $content_length;
        scgi_param REQUEST_METHOD $request_method;
        scgi_param REQUEST_URI $request_uri;
        scgi_buffer_size 64k;
        scgi_buffers 8 64k;
        scgi_busy_buffers_size 128k;
        location /scgi/ { scgi_pass app; }
        location /scgi/unbuffered/ { scgi_buffering off; scgi_pass app; }
END

sub start_nginx { return IdempotencyTest::Nginx->start(application => $raw, server => $server, memory => '32m', workers => 1, @_) }

# All bytes of the response to a request whose connection nginx closes, without the fields that a replay may have otherwise: those of
# the connection, Date and Server.
my $not_replayed = qr/^(?:connection|keep-alive|proxy-connection|te|trailer|transfer-encoding|upgrade|date|server|idempotent-replayed)$/i;

sub exchange {
    my ($nginx, $path, $key, $body) = @_;
    my $client = $nginx->send_request(path => $path, key => $key, headers => [@{$who[1]}, 'Connection: close'], body => $body);
    my $select = IO::Select->new($client->{socket});
    my $deadline = time + 10;
    while ((my $left = $deadline - time) > 0) {
        last if $select->can_read($left) && !$client->read_some;
    }

    my ($head, $rest) = $client->{buffer} =~ /\A(.*?\r\n)\r\n(.*)\z/s or return {status => 0, bytes => $client->{buffer}, code => '', is_replay => 0};
    my ($status_line, @fields) = $head =~ /\G(.*?)\r\n/gs;
    my $is_chunked = grep { /^transfer-encoding:\s*chunked/i } @fields;
    my $body_bytes = $rest;

    if ($is_chunked) {
        $body_bytes = '';
        while ($rest =~ s/\A([0-9a-f]+)\r\n//i) {
            my $size = hex $1 or last;
            $body_bytes .= substr $rest, 0, $size, '';
            $rest =~ s/\A\r\n//;
        }
    }

    my ($status) = $status_line =~ m{^HTTP/1\.1 (\d+)};
    my ($type) = map { /^content-type:\s*(.*)/i ? $1 : () } @fields;
    my ($code) = ($type // '') eq 'application/problem+json' ? $body_bytes =~ /"code":"(\w+)"/ : ();
    return {
        status => $status // 0,
        bytes => join("\r\n", $status_line, (grep { !/^([^:]*):/ || $1 !~ $not_replayed } @fields), '', $body_bytes),
        code => $code // '',
        is_replay => scalar(grep { /^idempotent-replayed: true/i } @fields),
    };
}

sub shown {
    my ($bytes) = @_;
    $bytes = substr($bytes, 0, 600) . '...' if length $bytes > 600;
    return $bytes =~ s/([^\x20-\x7e\n])/sprintf '\\x%02x', ord $1/ger;
}

# Sends a request that the application responds to with these bytes, and retries it. Returns how the retries were answered, or what is
# wrong.
sub outcome_of {
    my ($nginx, $location, $response, $query) = @_;
    my $path = "/${location}raw" . ++$n;
    my $uri = $path . ($query // '');
    my $first = exchange($nginx, $uri, $path, $response);
    my @retries;

    for (1, 2) {
        my $retry;
        await(sub { $retry = exchange($nginx, $uri, $path, $response); $retry->{code} ne 'request_in_progress' }, 5);
        push @retries, $retry;
    }

    my $executions = $raw->count($path);
    my $wrong = sub { return "wrong: $_[0]\nthe application: " . shown($response) . "\nthe first response: " . shown($first->{bytes}) . "\nthe retry: " . shown($retries[0]{bytes}) };

    return $wrong->("$executions executions") if $executions != 1;
    return $wrong->('the first response is a replay') if $first->{is_replay};
    return $wrong->('two retries get different responses') if $retries[0]{bytes} ne $retries[1]{bytes};
    return $wrong->('the store is blamed') if grep { $_->{code} eq 'store_unavailable' } $first, @retries;
    return 'kept' if $retries[0]{is_replay} && $retries[0]{bytes} eq $first->{bytes};
    return $wrong->('a replay differs') if $retries[0]{is_replay};
    return 'not kept' if $retries[0]{status} == 409 && $retries[0]{code} eq 'response_not_kept';
    # nginx itself has not got a complete response
    return 'unknown' if $retries[0]{status} == 409 && $retries[0]{code} eq 'outcome_unknown' && ($first->{status} == 502 || $first->{status} == 0);
    return $wrong->('no replay');
}

sub http { my ($status_line, @lines) = @_; my $body = pop @lines; return join("\r\n", $status_line, @lines, '', $body) }

my $long = 'x' x 30_000;

# The status line, the fields, the body; the result: kept, or one of several.
my @strange = (
    ['a name that is no token', 'kept', http('HTTP/1.1 201 Created', 'X-Foo;: hello', 'X(Y): 1', 'X@Y: 2', 'Content-Length: 2', 'ok')],
    ['an 8-bit name', qr/^(?:kept|not kept|unknown)$/, http('HTTP/1.1 201 Created', "X-\xe4\xff: hello", 'Content-Length: 2', 'ok')],
    ['an 8-bit value', 'kept', http('HTTP/1.1 201 Created', "X-A: \xe4\xff\x80", 'Content-Length: 2', 'ok')],
    ['control bytes in a value', qr/^(?:kept|not kept|unknown)$/, http('HTTP/1.1 201 Created', "X-A: a\x01\x1b\x7f\tb", 'Content-Length: 2', 'ok')],
    ['a NUL in a reason phrase', qr/^(?:kept|not kept|unknown)$/, http("HTTP/1.1 201 Cre\0ated", 'Content-Length: 2', 'ok')],
    ['an 8-bit reason phrase', 'kept', http("HTTP/1.1 201 \xff\xfe\xe4", 'Content-Length: 2', 'ok')],
    ['no reason phrase', 'kept', http('HTTP/1.1 201 ', 'Content-Length: 2', 'ok')],
    ['no space after the status', 'kept', http('HTTP/1.1 201', 'Content-Length: 2', 'ok')],
    ['a long reason phrase', qr/^(?:kept|not kept)$/, http("HTTP/1.1 201 $long", 'Content-Length: 2', 'ok')],
    (map { ["status $_", 'kept', http("HTTP/1.1 $_ Strange", 'Content-Length: 2', 'ok')] } 200, 299, 399, 499, 599, 600, 777, 999),
    (map { ["status $_", qr/^(?:kept|not kept|unknown)$/, http("HTTP/1.1 $_ Strange", 'Content-Length: 2', 'ok')] } '000', '099', 205, 206, 304, 204),
    (map { ["an interim response $_ in place of a response", qr/^(?:not kept|unknown)$/, http("HTTP/1.1 $_ Interim", 'Content-Length: 2', 'ok')] } 100, 102, 103, 199),
    ['empty values', 'kept', http('HTTP/1.1 201 Created', 'X-A:', 'X-B: ', 'X-A:', 'ETag:', 'Location:', 'Cache-Control:', 'Content-Type:', 'Content-Length: 2', 'ok')],
    ['an empty name', qr/^(?:kept|not kept|unknown)$/, http('HTTP/1.1 201 Created', ': value', 'Content-Length: 2', 'ok')],
    ['a line without a colon', qr/^(?:kept|not kept|unknown)$/, http('HTTP/1.1 201 Created', 'no-colon', 'Content-Length: 2', 'ok')],
    ['a name with a space', qr/^(?:kept|not kept|unknown)$/, http('HTTP/1.1 201 Created', 'X Y: 2', 'Content-Length: 2', 'ok')],
    ['a huge field', 'kept', http('HTTP/1.1 201 Created', "X-A: $long", 'Content-Length: 2', 'ok')],
    ['a huge name', qr/^(?:kept|not kept|unknown)$/, http('HTTP/1.1 201 Created', "$long: a", 'Content-Length: 2', 'ok')],
    ['a thousand fields', 'kept', http('HTTP/1.1 201 Created', (map { "X-$_: $_" } 1 .. 1000), 'Content-Length: 2', 'ok')],
    ['repeated fields', 'kept', http('HTTP/1.1 201 Created', ('Set-Cookie: a=b', 'Set-Cookie: a=c') x 5, 'Link: </a>', 'Link: </b>', 'Content-Length: 2', 'ok')],
    ['repeated fields of which nginx knows one', qr/^(?:kept|not kept|unknown)$/,
        http('HTTP/1.1 201 Created', 'ETag: "a"', 'ETag: "b"', 'Location: /a', 'Location: /b', 'Content-Type: a/b', 'Content-Type: c/d', 'Content-Length: 2', 'ok')],
    ['two lengths', qr/^(?:kept|not kept|unknown)$/, http('HTTP/1.1 201 Created', 'Content-Length: 2', 'Content-Length: 3', 'ok')],
    ['a bad length', qr/^(?:kept|not kept|unknown)$/, http('HTTP/1.1 201 Created', 'Content-Length: two', 'ok')],
    ['a length that is too large', 'unknown', http('HTTP/1.1 201 Created', 'Content-Length: 20', 'ok')],
    ['a length that is too small', 'kept', http('HTTP/1.1 201 Created', 'Content-Length: 1', 'ok')],
    ['no length', 'kept', http('HTTP/1.1 201 Created', 'ok')],
    ['chunks', 'kept', http('HTTP/1.1 201 Created', 'Transfer-Encoding: chunked', "2\r\nok\r\n0\r\n\r\n")],
    ['chunks with strange trailers', 'kept', http('HTTP/1.1 201 Created', 'Transfer-Encoding: chunked', "2\r\nok\r\n0\r\nX-T;: 1\r\n\r\n")],
    ['chunks that end early', 'unknown', http('HTTP/1.1 201 Created', 'Transfer-Encoding: chunked', "2\r\nok\r\n5\r\n")],
    ['chunks with a strange encoding', qr/^(?:kept|not kept|unknown)$/, http('HTTP/1.1 201 Created', 'Transfer-Encoding: gzip, chunked', "2\r\nok\r\n0\r\n\r\n")],
    ['a body of every byte', 'kept', http('HTTP/1.1 201 Created', 'Content-Length: 256', join '', map { chr } 0 .. 255)],
    ['continued lines', qr/^(?:kept|not kept|unknown)$/, http('HTTP/1.1 201 Created', 'X-A: a', ' b', 'Content-Length: 2', 'ok')],
    ['bare line feeds', 'kept', "HTTP/1.1 201 Created\nX-A: a\nContent-Length: 2\n\nok"],
    ['HTTP/1.0', 'kept', http('HTTP/1.0 201 Created', 'ok')],
    ['HTTP/0.9', qr/^(?:kept|not kept|unknown)$/, "just a body\n\n\0\xff"],
    ['a foreign protocol', qr/^(?:kept|not kept|unknown)$/, "SSH-2.0-OpenSSH_9\r\n\r\n"],
    ['types of streams', 'kept', http('HTTP/1.1 200 OK', 'Content-Type: text/event-stream', "data: 1\n\n")],
    ['problem responses of the application', 'kept', http('HTTP/1.1 409 Conflict', 'Content-Type: application/problem+json', 'Content-Length: 12', '{"code":"x"}')],
    ['a forged replay', 'kept', http('HTTP/1.1 201 Created', 'Idempotent-Replayed: true', 'Content-Length: 2', 'ok')],
    ['fields that nginx heeds', 'kept', http('HTTP/1.1 201 Created', 'X-Accel-Expires: 10', 'X-Accel-Limit-Rate: 100000', 'X-Accel-Buffering: yes', 'X-Accel-Charset: utf-8',
        'Content-Type: text/plain', 'Last-Modified: nonsense', 'Expires: 0', 'Accept-Ranges: bytes', 'Content-Range: x', 'WWW-Authenticate: x', 'Refresh: 1',
        'Vary: *', 'Content-Length: 2', 'ok')],
    (map { ["Content-Type: $_", 'kept', http('HTTP/1.1 201 Created', "Content-Type: $_", 'Content-Length: 2', 'ok')] }
        'text/plain; charset=', 'text/plain; charset="', 'text/plain;charset=utf-8', 'text/html; charset="utf-8"; x=y', ';', '; charset=utf-8', 'a; charset=b; charset=c', 'application/grpc'),
);

my $nginx = start_nginx();

subtest 'Strange responses' => sub {
    for my $strange (@strange) {
        my ($name, $expected, $response) = @$strange;
        my $outcome = outcome_of($nginx, '', $response);
        ref $expected ? like $outcome, $expected, $name : is $outcome, $expected, $name;
    }
};

subtest 'Strange responses over SCGI' => sub {
    for my $location ('scgi/', 'scgi/unbuffered/') {
        for my $line ('Status: 201 Created', 'HTTP/1.1 201 Created', "Status: 299 \xff", 'Status: 600 Strange', 'X-First: 1', 'Location: /a') {
            is outcome_of($nginx, $location, http($line, 'X-Foo;: hello', 'X-A:', "X-B: \xe4", 'Content-Length: 2', 'ok')), 'kept', "$line ($location)";
        }
        like outcome_of($nginx, $location, http('Status: 103 Early', 'X-A: 1', 'ok')), qr/^(?:not kept|unknown)$/, "an interim status ($location)";
        is outcome_of($nginx, $location, http('Status: 201 Created', 'Content-Length: 20', 'ok')), 'unknown', "a length that is too large ($location)";
        like outcome_of($nginx, $location, http('Status: 201 Cre\0ated', "\xff: 1", 'ok')), qr/^(?:kept|not kept|unknown)$/, "strange bytes ($location)";
    }
};

# nginx finds the charset in a Content-Type in its own way. The replay must be converted as the first response was.
subtest 'A charset that nginx converts' => sub {
    my $nginx = start_nginx(http => 'charset_map koi8-r utf-8 { C1 D0B0; D4 D182; }',
        server => 'idempotency main; location /charset/ { charset utf-8; override_charset on; proxy_pass http://app; }');

    for my $type ('text/html; charset=koi8-r', 'text/html;;charset=koi8-r', 'text/html; ;charset=koi8-r', 'text/html;charset =x', "text/html;\tcharset=koi8-r",
        'text/html; a=";charset=koi8-r"', 'text/html; charset="koi8-r"; x', 'text/html; charset=a; charset=b', 'text/html;', 'text/html; ;')
    {
        is outcome_of($nginx, 'charset/', http('HTTP/1.1 201 Created', "Content-Type: $type", 'Content-Length: 2', "\xc1\xd4")), 'kept', $type;
    }
    $nginx->stop;
};

# An interim response (1xx) and the response, in one piece and in two. nginx before 1.29 takes the first one for the response.
subtest 'Interim responses' => sub {
    my $response = http('HTTP/1.1 201 Created', 'Content-Length: 2', 'ok');

    for my $interim (http('HTTP/1.1 103 Early Hints', 'Link: </a>; rel=preload', ''), http('HTTP/1.1 100 Continue', ''), http('HTTP/1.1 102 Processing', ''),
        http('HTTP/1.1 103 Early Hints', 'Link: </a>', '') x 3, http('HTTP/1.1 103 Early Hints', 'Content-Length: 0', ''))
    {
        for my $location ('', 'unbuffered/', 'small/', 'http10/') {
            for my $query ('', '?delay=0.1') {
                my $outcome = outcome_of($nginx, $location, $interim . $response, $query);
                like $outcome, qr/^(?:kept|not kept|unknown)$/, (split /\r\n/, $interim)[0] . " ($location$query)";
            }
        }
    }
};

# Generated responses.
sub any { return $_[rand @_] }
sub bytes { my ($length, @from) = @_; return join '', map { any(@from) } 1 .. int rand $length + 1 }

my @letters = ('a' .. 'z', 'A' .. 'Z', '0' .. '9', '-', '_');
my @visible = map { chr } 0x21 .. 0x7e;
my @any_byte = grep { !/[\r\n]/ } map { chr } 0 .. 255;
# which nginx takes in a value
my @value_byte = ("\t", map { chr } 0x20 .. 0x7e, 0x80 .. 0xff);
my @name_byte = grep { !/:/ } @visible, map { chr } 0x80 .. 0xff;
my @known = qw(Content-Type Location ETag Last-Modified Cache-Control Link Set-Cookie Expires Refresh WWW-Authenticate Vary Content-Encoding Content-Language
    Accept-Ranges Content-Range Retry-After Allow Content-Disposition Pragma Age Via Warning X-Powered-By P3P Strict-Transport-Security Trailer Upgrade);

sub generated_location { any('', '', 'unbuffered/', 'small/', 'http10/', 'scgi/', 'scgi/unbuffered/') }

sub generated_field {
    my $name = any((sub { any(@known) }) x 4, (sub { 'X-' . bytes(10, @letters) }) x 4, (sub { 'a' . bytes(8, @name_byte) }) x 4)->();
    my $value = any(sub { '' }, sub { bytes(20, @letters) }, sub { bytes(40, @visible, ' ') }, sub { bytes(40, @value_byte) }, sub { bytes(3000, @letters) },
        sub { any('text/html; charset=utf-8', 'text/plain', 'Sun, 06 Nov 1994 08:49:37 GMT', '"tag"', 'W/"tag"', 'bytes', 'bytes 0-1/2', '0', 'no-cache', '/path', 'gzip', '*') })->();
    # nginx refuses most of these
    ($name, $value) = (bytes(8, @any_byte), bytes(40, @any_byte)) if rand() < 0.02;
    return $name . any(':', ': ', ':  ', ":\t") . $value;
}

sub generated_response {
    my $status = any(200, 201, 201, 201, 202, 203, 204, 205, 206, 300, 304, 307, 400, 401, 404, 409, 418, 422, 429, 499, 500, 502, 503, 504, 599, 600, 999, int 200 + rand 800);
    my $reason = any(sub { '' }, sub { ' ' }, sub { ' Created' }, sub { ' ' . bytes(20, @visible, ' ') }, sub { ' ' . bytes(20, @any_byte) })->();
    my @fields = map { generated_field() } 1 .. rand 12;
    my $body = any(sub { '' }, sub { bytes(50, @visible) }, sub { bytes(300, @any_byte, "\r", "\n") })->();

    my $framing = any(qw(length length chunked close));
    push @fields, 'Content-Length: ' . length $body if $framing eq 'length';
    if ($framing eq 'chunked') {
        push @fields, 'Transfer-Encoding: chunked';
        my @trailers = rand > 0.7 ? map { generated_field() . "\r\n" } 1 .. 2 : ();
        $body = join '', (length $body ? sprintf("%x\r\n%s\r\n", length $body, $body) : ''), "0\r\n", @trailers, "\r\n";
    }

    # the last one is SCGI's; over HTTP it is no status line
    return http(any('HTTP/1.1 ', 'HTTP/1.1 ', 'HTTP/1.1 ', 'HTTP/1.1 ', 'HTTP/1.0 ', 'Status: ') . "$status$reason", sort({ rand() <=> 0.5 } @fields), $body);
}

subtest "$number generated responses, seed $seed" => sub {
    srand $seed;
    my (%outcomes, @wrong);

    for (1 .. $number) {
        my $outcome = outcome_of($nginx, generated_location(), generated_response());
        $outcome =~ /^wrong/ ? push @wrong, $outcome : $outcomes{$outcome}++;
    }

    is scalar(@wrong), 0, 'each is replayed byte for byte or recorded as not kept, and no request is executed again' or diag join "\n\n", @wrong[0 .. ($#wrong > 4 ? 4 : $#wrong)];
    note join ', ', map { "$_: $outcomes{$_}" } sort keys %outcomes;
    cmp_ok $outcomes{kept} // 0, '>', $number / 4, 'many are kept';
};

$nginx->stop;

if (!$is_redis) {
    done_testing;
    exit;
}

# Values that Redis does not take. Both with records as they are and with sealed ones.

my $directory = temporary_directory();
write_file("$directory/key", ('1f' x 32) . "\n");
my %store = (plain => '', sealed => "encryption_key_file $directory/key;");
my $redis = IdempotencyTest::Redis->new;

sub start_over_redis {
    my ($store) = @_;
    return IdempotencyTest::Nginx->start(redis => 'unix:' . $redis->socket, short_leases => 1, store => $store, log_format => '$uri $idempotency_status',
        server => <<'END');
        idempotency main;
        idempotency_lease 1s;
        idempotency_max_body 8m;
        location / { proxy_pass http://app; }
END
}

for my $name (sort keys %store) {
    subtest "A Redis that is full for longer than a lease ($name)" => sub {
        my $nginx = start_over_redis($store{$name});
        my $path = "/full-$name";
        my $uri = "$path?gate=$path&size=5000";
        my $running = $nginx->send_request(path => $uri, key => $path, @who);
        app()->await_arrival($path);
        $redis->command('CONFIG', 'SET', 'maxmemory', '1', 'maxmemory-policy', 'noeviction');
        app()->open_gate($path);
        my $first = $running->response;
        is_first $first, 201, 1, 'the client gets its response';

        is join(', ', other_outcomes($nginx, $uri, $path, 4)), '', 'for several leases each retry gets request_in_progress';
        is_problem ask($nginx, '/full-new', "$path-new"), 503, 'store_unavailable', 'a new request is refused';
        $redis->command('CONFIG', 'SET', 'maxmemory', '0');
        my $retry;
        await(sub { $retry = ask($nginx, $uri, $path); $retry->status == 201 });
        is_replay_of $retry, $first, 'when Redis has memory again the response is kept';
        is app()->count($path), 1, 'the application executed the request once';
        $nginx->stop;
    };

    subtest "A response that is too large for Redis ($name)" => sub {
        my $nginx = start_over_redis($store{$name});
        my $path = "/large-$name";
        my $uri = "$path?size=2000000";
        $redis->command('CONFIG', 'SET', 'proto-max-bulk-len', 1024 * 1024);
        my $first = ask($nginx, $uri, $path);
        is $first->status, 201, 'the client gets its response';
        is length $first->body, 2_000_000, 'completely';
        is_problem ask($nginx, $uri, $path), 409, 'response_not_kept', 'it is recorded as not kept';
        sleep 2.5;
        is_problem ask($nginx, $uri, $path), 409, 'response_not_kept', 'and stays so for several leases';
        is app()->count($path), 1, 'the application executed the request once';

        # the connection that Redis has closed is replaced, and calls of other requests go on
        my @answers = IdempotencyTest::Client::finish(map { $nginx->send_request(path => "$path/$_" . ($_ % 5 ? '' : '?size=2000000'), key => "$path/$_", @who) } 1 .. 50);
        is scalar(grep { $_->status == 201 } @answers), 50, 'among other requests, too, each gets its response' or diag join ' ', map { $_->status } @answers;
        my @retries = IdempotencyTest::Client::finish(map { $nginx->send_request(path => "$path/$_" . ($_ % 5 ? '' : '?size=2000000'), key => "$path/$_", @who) } 1 .. 50);
        my @wrong = grep { $_ % 5 ? !$retries[$_ - 1]->is_replay : $retries[$_ - 1]->code ne 'response_not_kept' } 1 .. 50;
        is "@wrong", '', 'and each retry gets a replay or response_not_kept';
        is join(' ', grep { app()->count("$path/$_") != 1 } 1 .. 50), '', 'the application executed each request once';
        $redis->command('CONFIG', 'SET', 'proto-max-bulk-len', 512 * 1024 * 1024);
        $nginx->stop;
    };
}

done_testing;
