# Internal redirects between the claim and the response: a replay passes them again, with the access checks of each location and the
# filters of the one that responded.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use MIME::Base64 ();
use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Nginx;

my @modules = IdempotencyTest::Nginx->available_modules(qw(ndk_http_module ngx_http_lua_module ngx_http_echo_module ngx_http_js_module));
my $has_js = grep { /ngx_http_js_module/ } @modules;
plan skip_all => 'nginx is here without Lua or echo' if @modules - $has_js < 3;

my $nginx = IdempotencyTest::Nginx->new(modules => \@modules, log_format => '$request_method $request_uri $status [$idempotency_status]');
my $files = $nginx->directory . '/files';
mkdir $_ or die "mkdir: $!\n" for $files, "$files/index", "$files/tried";
$nginx->write_file('files/index/index.php', '');
$nginx->write_file('files/tried/index.php', '');
$nginx->write_file('files/page.txt', "a page\n");
$nginx->write_file('users', "alice:{PLAIN}right\n");

$nginx->write_file('redirect.js', "export default { named, uri };\nfunction named(r) { r.internalRedirect('\@app'); }\nfunction uri(r) { r.internalRedirect('/app.php'); }\n");
my $users = $nginx->directory . '/users';
my $check = "auth_basic realm; auth_basic_user_file $users;";

sub configuration {
    my (%change) = (app => "location \@app { $check add_header X-Answered app; proxy_pass http://app; }", @_);
    return <<"END";
        root $files;
        idempotency main;
        idempotency_scope off;
        @{[$has_js ? 'js_import redirect from redirect.js; location /njs { js_content redirect.named; } location /njs-uri { js_content redirect.uri; }' : '']}

        $change{app}
        location ~ [.]php\$ { $check add_header X-Answered php; proxy_pass http://app; }
        location ~ [.]txt\$ { internal; $check add_header X-Answered file; }

        location /index/ { index index.php; }
        location /tried/ { try_files \$uri/ =404; index index.php; }
        location /echo { echo_exec \@app; }
        location /echo-uri { echo_exec /app.php; }
        location /lua { content_by_lua_block { ngx.exec("\@app") } }
        location /lua-uri { content_by_lua_block { ngx.exec("/app.php") } }
        location /two { echo_exec \@second; }
        location \@second { add_header X-Answered second; echo_exec \@app; }
        location /intercepted { proxy_intercept_errors on; error_page 404 = \@app; proxy_pass http://app; }
        location /page { proxy_intercept_errors on; error_page 410 /page.txt; proxy_pass http://app; }
        location /accel { proxy_pass http://app; }
        location /denied { internal; deny all; }
        location = /returned { return 202 "returned\\n"; }
        location /asked/ { echo_exec /found\$uri; }
        location /found/ { if (\$http_x_other) { rewrite ^ /app.php last; } proxy_pass http://app; }
        location /long { echo_exec \@a${\('x' x 600)}; }
        location \@a${\('x' x 600)} { echo_exec \@b${\('x' x 600)}; }
        location \@b${\('x' x 600)} { proxy_pass http://app; }
END
}

$nginx->set(http => $has_js ? 'js_path ' . $nginx->directory . ';' : '', server => configuration())->start;

my %who = (alice => ['Authorization: Basic ' . MIME::Base64::encode('alice:right', '')], nobody => []);

sub ask {
    my ($path, $key, $who) = @_;
    return $nginx->request(path => $path, key => $key, headers => $who{$who});
}

my %answered = ('/index/' => 'php', '/tried/' => 'php', '/echo-uri' => 'php', '/lua-uri' => 'php', '/njs-uri' => 'php');

for my $path (qw(/index/ /tried/ /echo /echo-uri /lua /lua-uri /two), $has_js ? qw(/njs /njs-uri) : ()) {
    is ask($path, $path, 'nobody')->status, 401, "$path: without a password the first request is refused";
    my $first = ask($path, $path, 'alice');
    is $first->status, 201, "$path: the key is free for a request with it";
    is ask($path, $path, 'nobody')->status, 401, "$path: without a password there is no replay";
    my $retry = ask($path, $path, 'alice');
    is_replay_of $retry, $first, "$path: with a password there is one";
    is $retry->header('X-Answered'), $answered{$path} // 'app', "$path: with the filters of the location that responded";
}

# the application has responded with 404 before the check refuses: its response is kept
{
    my $path = '/intercepted/kept?status=404';
    my $first = ask($path, 'intercepted', 'alice');
    is $first->status, 404, 'a location of an intercepted error responds';
    is_replay_of ask($path, 'intercepted', 'alice'), $first, 'its response is replayed';
    is ask($path, 'intercepted', 'nobody')->status, 401, 'but not for a client that it refuses';
}

# X-Accel-Redirect and error pages with a URI make the request a GET: so does the replay

for my $path ('/accel?header=X-Accel-Redirect:/page.txt', '/page?status=410') {
    my $first = ask($path, $path, 'alice');
    like $first->body, qr/a page/, "$path: a file responds";
    my $retry = ask($path, $path, 'alice');
    is_replay_of $retry, $first, "$path: it is replayed";
    is $retry->header('X-Answered'), $first->header('X-Answered'), "$path: with the same filters";
    is ask($path, $path, 'nobody')->status, 401, "$path: but not without a password";
}

{
    my $path = '/accel/denied?header=X-Accel-Redirect:/denied';
    is ask($path, 'denied', 'alice')->status, 403, "a location that refuses everyone responds";
    is ask($path, 'denied', 'alice')->status, 403, 'also to the retry';
    is app()->count('/accel/denied'), 1, 'for which the application does not run';

    $path = '/accel/returned?header=X-Accel-Redirect:/returned';
    is ask($path, 'returned', 'alice')->body, "returned\n", 'a location with "return" responds';
    is ask($path, 'returned', 'alice')->body, "returned\n", 'also to the retry';
    is app()->count('/accel/returned'), 1, 'for which the application does not run';
}

# too long for a record

is ask('/long', 'long', 'alice')->status, 201, 'a response whose redirects are too long for a record';
is_problem ask('/long', 'long', 'alice'), 409, 'response_not_kept', 'is not kept';

# a redirect that depends on the request, to a URI with bytes that the client has chosen

{
    my $path = '/asked/a%0A2026/11/28%2000:00:00%20[line]%20"';
    is ask($path, 'line', 'alice')->status, 201, 'a request whose URI has a line feed is redirected';
    is_problem $nginx->request(path => $path, key => 'line', headers => [@{$who{alice}}, 'X-Other: 1']), 409, 'response_not_kept', 'a redirect to another location';
    ok $nginx->await_error_log(qr/to "\/found\/asked\/a[?]2026\/11\/28 00:00:00 \[line\] [?]" does/), 'is logged in one line';
}

# another configuration

{
    my $first = ask('/echo', 'changed', 'alice');
    is $first->status, 201, 'a request is redirected to a named location';
    my $runs = app()->count('/echo');

    $nginx->set(server => configuration(app => "location \@other { proxy_pass http://app; }"));
    $nginx->reload;
    is_problem ask('/echo', 'changed', 'alice'), 409, 'response_not_kept', 'a named location that is gone';
    ok $nginx->await_error_log(qr/the kept response is not replayed: an internal redirect to "\@app"/), 'is logged';

    $nginx->set(server => configuration(app => "location \@app { rewrite ^ /app.php last; }"));
    $nginx->reload;
    is_problem ask('/echo', 'changed', 'alice'), 409, 'response_not_kept', 'one that leads to another location';

    $nginx->set(server => configuration());
    $nginx->reload;
    is_replay_of ask('/echo', 'changed', 'alice'), $first, 'the old configuration replays again';
    is app()->count('/echo'), $runs, 'and the application ran once';
}

$nginx->stop;
done_testing;
