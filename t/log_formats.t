# The log formats of docs/logs.md, and the attributes of its traces: nginx-otel evaluates them in the LOG phase, as the access log does.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Requests qw(@who ask);
use JSON::PP ();

my $page = slurp("$FindBin::Bin/../docs/logs.md");
my @blocks = map { s/^    //mgr } $page =~ /\n\n((?:    .*\n)+)/g;
my ($recipe) = grep { /^otel_exporter/ } @blocks;
my %attribute = $recipe =~ /^otel_span_attr (\S+) (\$\w+);$/mg;
is scalar(grep { /^otel_span_attr/ } split /\n/, $recipe), scalar(keys %attribute), 'the attributes of the recipe are found';

my $directory;
my $nginx = IdempotencyTest::Nginx->new;
$directory = $nginx->directory;
$nginx->set(
    workers => 1,
    http => join('', grep { /^(?:log_format|map)/ } @blocks)
        . 'log_format otel escape=json \'{' . join(',', map { qq("$_":"$attribute{$_}") } sort keys %attribute) . "}';\n"
        . "log_format part '\$uri [\$idempotency_status] [\$idempotency_outcome] [\$idempotency_code] [\$idempotency_store] [\$idempotency_key_id]';\n",
    server => <<"END");
        access_log logs/text.log idempotency;
        access_log logs/all.json idempotency_json;
        access_log logs/some.json idempotency_json if=\$idempotency_status;
        access_log logs/otel.json otel;
        add_header X-Id \$idempotency_key_id always;
        idempotency main;
        location / { proxy_pass http://app; }
        location /off/ { idempotency off; proxy_pass http://app; }
        location /page/ { error_page 409 422 = /other; proxy_pass http://app; }
        location = /other { internal; idempotency off; return 200 sorry; }
        location /ssi/ { ssi on; proxy_pass http://app; }
        location = /part { log_subrequest on; access_log logs/part.log part; return 200 part; }
END
$nginx->start;

my $first = ask($nginx, '/a?token=secret-argument', 'secret-key');
my $replay = ask($nginx, '/a?token=secret-argument', 'secret-key');
ask($nginx, '/a?other', 'secret-key');
ask($nginx, '/a', qq{quote"\\}, headers => [@{$who[1]}, 'User-Agent: "\\']);
ask($nginx, "/caf\xe9\"\\?x", 'path');
ask($nginx, '/off/', 'secret-key');
ask($nginx, '/page/', $_) for 'page', 'page';
ask($nginx, '/page/other', 'page');
ask($nginx, '/broken?abort=reset', 'broken');

sub lines { my ($name) = @_; return split /\n/, slurp("$directory/logs/$name") }

ok await(sub { lines('all.json') == 10 }), 'each request has a line';
my @logged = map { JSON::PP->new->utf8->decode($_) } lines('all.json');
is_deeply [map { join ' ', @$_{qw(method path status)}, @{$_->{idempotency}}{qw(status outcome code)} } @logged], [
    'POST /a 201 NEW kept ',
    'POST /a 201 REPLAYED  ',
    'POST /a 422 REUSED  idempotency_key_reused',
    'POST /a 201 NEW kept ',
    'POST /caf 201 NEW kept ',
    'POST /off/ 201   ',
    'POST /page/ 201 NEW kept ',
    'POST /page/ 201 REPLAYED  ',
    'GET /page/other 200 REUSED  idempotency_key_reused',
    'POST /broken 502 UNKNOWN unknown ',
], 'the JSON format';
is $logged[$_]{idempotency}{key_id}, $first->header('X-Id'), "the id of the key ($_)" for 0 .. 2;
is $logged[1]{idempotency}{store}, 'main', 'the store';
like $logged[1]{idempotency}{age}, qr/^\d+$/, 'the age of the replay';
cmp_ok abs(time - $logged[1]{idempotency}{since}), '<', 60, 'and since when it is kept';
like $logged[0]{idempotency}{store_time}, qr/^\d+\.\d{6}$/, 'the time of the store has microseconds';
like $logged[0]{idempotency}{token}, qr/^\d+$/, 'the token';
is join('', values %{$logged[5]{idempotency}}), '', 'an uncovered request has no value';
is scalar(lines('some.json')), 9, 'with if= it has no line';

my @spans = map { JSON::PP->new->utf8->decode($_) } lines('otel.json');
is_deeply [map { join ' ', @$_{qw(idempotency.status idempotency.outcome idempotency.code)} } @spans],
    [map { join ' ', @{$_->{idempotency}}{qw(status outcome code)} } @logged], 'the attributes of the spans';
is $spans[1]{'idempotency.key_id'}, $spans[0]{'idempotency.key_id'}, 'a replay has the id of the first request';

my $id = $first->header('X-Id');
like +(lines('text.log'))[0], qr/^\S+ \[.*\] "POST \/a" 201 idempotency=NEW outcome=kept code=- store=main store_time=\d+\.\d{6} age=- since=- key=$id token=\d+$/, 'the text format';
like +(lines('text.log'))[1], qr/ 201 idempotency=REPLAYED outcome=- code=- store=main store_time=\d+\.\d{6} age=\d+ since=\d+ key=$id token=-$/, 'of a replay';
like +(lines('text.log'))[5], qr/ 201 idempotency=- outcome=- code=- store=- store_time=- age=- since=- key=- token=-$/, 'of an uncovered request';
is scalar(grep { /secret/ } map { lines($_) } qw(text.log all.json some.json otel.json)), 0, 'no line has a key or an argument';

my $included = '/ssi/page?header=Content-Type:text/html&text=%3C!--%23include%20virtual%3D%22/part%22--%3E';
my $whole = ask($nginx, $included, 'ssi');
like $whole->body, qr/part/, 'a response with a subrequest';
ask($nginx, $included, 'ssi');
ok await(sub { lines('part.log') == 2 }), 'each subrequest has a line';
my $part = $whole->header('X-Id');
is_deeply [lines('part.log')], ["/part [NEW] [kept] [-] [main] [$part]", "/part [REPLAYED] [-] [-] [main] [$part]"], 'with the variables of the main request';

$nginx->stop;

# A module as nginx-otel is: loaded before this one, with a handler in the LOG phase.
SKIP: {
    my @lua = IdempotencyTest::Nginx->available_modules(qw(ndk_http_module ngx_http_lua_module));
    skip 'nginx is here without Lua', 1 if @lua < 2;

    subtest 'Another module in the LOG phase' => sub {
        my $lua = IdempotencyTest::Nginx->start(workers => 1, modules => \@lua, server => <<"END");
        idempotency main;
        log_by_lua_block {
            local v = ngx.var
            ngx.log(ngx.NOTICE, "span ", v.request_uri, " [", v.idempotency_status, "] [", v.idempotency_outcome, "]")
        }
        location / { proxy_pass http://app; }
        location /upload/ { idempotency_fingerprint x body=off; proxy_request_buffering off; proxy_pass http://app; }
END
        ask($lua, '/a', 'a') for 1 .. 2;
        ok $lua->await_error_log(qr{span /a \[NEW\] \[kept\]}), 'the first request';
        ok $lua->await_error_log(qr{span /a \[REPLAYED\] \[nil\]}), 'a replay';

        my $client = $lua->connect->send_raw(join("\r\n", 'POST /upload/gone?part=3&gate=upload HTTP/1.1', 'Host: localhost', @{$who[1]},
            'Idempotency-Key: upload', 'Content-Length: 9', '', 'abc'), 'POST');
        app()->await_arrival('/upload/gone');
        $client->close;
        my $outcome = store_mode() eq 'redis' ? qr/released|untold/ : qr/released/;
        ok $lua->await_error_log(qr{span /upload/gone\S* \[NEW\] \[$outcome\]}), 'a request that ends without a response';
        $lua->stop;
    };
}

done_testing;
