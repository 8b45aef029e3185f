# The page of idempotency_status in headless Chromium: what it says, that it draws itself anew, its Content-Security-Policy, keyboard,
# screen reader (axe-core), phone and desktop, light and dark, and the page without JavaScript.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(sha256_base64);
use JSON::PP qw(decode_json);
use Test::More;
use IdempotencyTest::Browser;
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await free_port);
use IdempotencyTest::Python qw(python_command);
use IdempotencyTest::Redis;
use IdempotencyTest::Requests qw(@who ask);

plan skip_all => 'names its stores itself: run with the memory store alone' if store_mode() ne 'memory';

my $repository = "$FindBin::Bin/..";
my $checked = qx($repository/tools/embed-page --check);
is $?, 0, 'the page in the module is that of src/http/status/page' or diag $checked;

$ENV{TZ} = 'UTC';
my $name = q{<img src=x onerror="hurt()">&amp;"\\\\};
my $port = free_port();
my $redis = IdempotencyTest::Redis->new;
my $nginx = IdempotencyTest::Nginx->start(
    workers => 1,
    stores => "idempotency_store main { memory 1m; } idempotency_store '$name' { memory 256k; } idempotency_store payments { redis unix:" . $redis->socket
        . '; connect_timeout 200ms; timeout 500ms; }',
    server => <<"END");
        listen 127.0.0.1:$port;
        location / { idempotency main; proxy_pass http://app; }
        location /payments/ { idempotency payments; proxy_pass http://app; }
        location = /idempotency { idempotency_status; }
        location = /html { idempotency_status html; }
END
my $url = "http://127.0.0.1:$port/html";

my $page = $nginx->request(method => 'GET', path => '/html');
my ($style) = $page->body =~ m{<style>(.*?)</style>}s;
my ($script) = $page->body =~ m{<script>(.*?)</script>}s;
my %policy = map { /^(\S+) (.*)/ } split /; /, $page->header('Content-Security-Policy');
is $policy{'default-src'}, q{'none'}, 'the policy allows nothing';
is $policy{'style-src'}, q{'sha256-} . sha256_base64($style) . q{='}, 'but the style of the page';
is $policy{'script-src'}, q{'sha256-} . sha256_base64($script) . q{='}, 'and its script';
is $page->header('X-Content-Type-Options'), 'nosniff', 'its type is not guessed';
is $nginx->request(method => 'GET', path => '/idempotency')->header('Content-Security-Policy') // '', '', 'JSON has no policy';
is $nginx->request(method => 'GET', path => '/html?format=json')->header('Content-Type'), 'application/json', 'the location has the JSON for the page';
is $nginx->request(method => 'GET', path => '/html?format=word')->status, 400, 'and no other format';
unlike $page->body, qr{https?://(?!www\.w3\.org/2000/svg)|<link(?! rel="icon" href="data:,")|\@import|url\(}i, 'nothing is loaded from elsewhere';

if (!IdempotencyTest::Browser::program()) {
    diag 'no chromium: the page is not looked at';
    $nginx->stop;
    done_testing;
    exit;
}

my $browser = IdempotencyTest::Browser->start;
my $story = slurp("$FindBin::Bin/lib/status_story.js");
my $axe = $ENV{IDEMPOTENCY_TEST_AXE};
diag 'no axe-core: IDEMPOTENCY_TEST_AXE is not set' if !$axe;

# True for the part of an element that is wider than the window.
my $is_wide = 'document.documentElement.scrollWidth > document.documentElement.clientWidth';
my $now = 'document.getElementById("now").innerText';

sub text_of { my ($selector) = @_; return $browser->evaluate(qq{[...document.querySelectorAll('$selector')].map((found) => found.innerText).join('\\n')}) }

sub no_complaints { my ($what) = @_; is join("\n", $browser->complaints), '', "$what: the browser complains about nothing" }

sub is_accessible {
    my ($what, $is_narrow) = @_;

    SKIP: {
        skip 'no axe-core', 1 if !$axe;
        $browser->evaluate(slurp($axe) . ';0');
        # in a narrow window, what a table scrolls to has a contrast that axe-core can't measure
        my $incomplete = $is_narrow ? q{incomplete.filter(({ id }) => id !== 'color-contrast')} : 'incomplete';
        my $findings = $browser->evaluate("axe.run().then(({ violations, incomplete }) => [...violations, ...$incomplete]" . '.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).slice(0, 3)}`).join("\n"))');
        is $findings, '', "$what: axe-core finds nothing";
    }
}

subtest 'Figures of this nginx' => sub {
    ask($nginx, '/one', 'one') for 1 .. 3;
    ask($nginx, '/payments/one', 'one');
    $browser->open($url);
    ok $browser->await_true("$now == 'All stores work.'"), 'all stores work' or diag $browser->evaluate($now);
    is text_of('.name'), join("\n", 'main', q{<img src=x onerror="hurt()">&amp;"\\}, 'payments'), 'the stores have their names';
    like text_of('#store-0 table'), qr/replayed\s+\d+\s+2\b/, 'with their requests';

    ask($nginx, '/one', 'one') for 1 .. 3;
    ok $browser->await_true(q{/replayed\s+3\s+5\b/.test(document.getElementById('store-0').innerText)}), 'the page draws itself anew'
        or diag text_of('#store-0 table');
    is join(' ', grep { !m{^\Q$url\E(?:\?format=json)?$|^data:,$} } $browser->requested), '', 'and asks nothing but its own location';
    is_accessible('figures of this nginx');
    no_complaints('figures of this nginx');
};

subtest 'A store that fails' => sub {
    $redis->kill;
    is ask($nginx, '/payments/two', 'two')->status, 503, 'a request is refused';
    ok $browser->await_true("/^payments: it can't be reached, since \\d\\d:\\d\\d; 503 for every new key/.test($now)"), 'the page says so'
        or diag $browser->evaluate($now);
    like text_of('#store-2 table'), qr/store began to refuse calls\s+it can't be reached\s+[0-9a-f]{64}\b/, 'with the id of the key';
    $redis->start;
    await(sub { ask($nginx, '/payments/three', 'three')->status == 201 });
    ok $browser->await_true("$now == 'All stores work.'"), 'and says when it works again' or diag $browser->evaluate($now);
};

subtest 'A Redis that refuses writes' => sub {
    ok $browser->await_true(q{/Redis servers.*\bup\s+master\b/s.test(document.getElementById('store-2').innerText)}), 'the server has its role' or diag text_of('#store-2 table');
    $redis->command('CONFIG', 'SET', 'maxmemory', '1');
    is ask($nginx, '/payments/four', 'four')->status, 503, 'a request is refused';
    ok $browser->await_true("/^payments: Redis refuses writes: OOM, since \\d\\d:\\d\\d; 503 for every new key/.test($now)"), 'the page says so'
        or diag $browser->evaluate($now);
    like text_of('#store-2 table'), qr/store began to refuse calls\s+Redis refuses writes: OOM\s+[0-9a-f]{64}\b/, 'with the id of the key';
};

subtest 'What is wrong, in words' => sub {
    $browser->open($url, script => "$story story.until = 10;");
    is $browser->evaluate('storyTold()'), 'All stores work.', 'at first nothing is';
    $browser->open($url, script => $story);
    my @lines = split /\n/, $browser->evaluate('storyTold()');
    is $lines[0], 'payments: Redis refuses writes: OOM, since 12:03; 503 for every new key.', 'the worst is first';
    like $lines[1], qr/^Raise maxmemory/, 'with what to do';
    is_deeply [grep { /^payments: / } @lines[1 .. $#lines]], [
        'payments: 3 outcomes could not be recorded yet: retries of these keys get a 409 or 503 until then.',
        'payments: the server 10.0.0.5:6379 uses 100 % of maxmemory.',
        'payments: response delivered before it was kept: 2 keys in the last 10 minutes, the last one at 12:03.'], 'then the rest';
    is $browser->evaluate('document.title'), '(4) Idempotency', 'the title counts them';
    is text_of('h2 .badge'), "wrong\nworks", 'each store has its state';
    like text_of('#store-0'), qr/12:03:04\s+response delivered before it was kept\s+Redis refuses writes: OOM\s+(?:9f2c5e1ab7d04e6f8c3b2a1908f7e6d5){2}\b/, 'the events have key ids';
    is $browser->evaluate(q{document.querySelectorAll('#store-0 svg path').length}), 7, 'the charts have lines';
    no_complaints('a store that fails');
};

# Every word of the JSON has words on the page, and the story of these tests is JSON as the module sends it.
subtest 'The schema' => sub {
    my $schema = decode_json(slurp("$repository/docs/status.schema.json"))->{'$defs'};
    my $store = $schema->{store}{properties};
    my %named = (CAUSES => $schema->{cause}{enum}, EVENTS => $store->{events}{items}{properties}{event}{enum}, REQUESTS => $store->{requests}{required},
        RESULTS => $store->{results}{required}, REASONS => [map { @{$store->{$_}{required}} } 'not_kept', 'released'],
        OBSERVED => ['undecided', map { @{$store->{$_}{required}} } 'observed_replays', 'observed_differences']);

    for my $table (sort keys %named) {
        my %words = map { $_ => 1 } @{$named{$table}};
        is $browser->evaluate("Object.keys($table).sort().join(' ')"), join(' ', sort keys %words), "$table has all words";
    }

    my $file = $nginx->write_file('story.json', $browser->evaluate('JSON.stringify(storyPage(200))'));
    my $check = join ' ', python_command('check_status.py');
    is qx($check <$file 2>&1), '', 'the story is as the schema says';
};

subtest 'Observed' => sub {
    $browser->open($url, script => "$story story.until = 3; story.change = (page) => { Object.assign(page.stores.local.observed_requests, { new: 70, replayed: 9 }); Object.assign(page.stores.local.observed_replays, { equal: 7, different: 2 }); page.stores.local.observed_differences.body = 2; return page; };");
    $browser->evaluate('storyTold()');
    like text_of('#store-1 table'), qr/what would have happened\s+what\s+in all\s+new: sent to the application\s+70\s+replayed\s+9\s+a replay would have been equal\s+7\s+a replay would have differed\s+2\s+differed in the body\s+2/,
        'the page shows what a dry run has found';
    unlike text_of('#store-0 table'), qr/would have/, 'where there is one';
};

subtest 'Some workers' => sub {
    $browser->open($url, script => "$story story.until = 3; story.change = (page) => { Object.assign(page.stores.local.health, { ok: false, cause: 'connection', since: page.time, workers_up: 1 }); return page; };");
    like $browser->evaluate('storyTold()'), qr/^local: it can't be reached, since 12:02; 503 for the new keys of some workers\.\n.*\nlocal: 1 worker of 2 can't reach it\./, 'can\'t reach the store';
};

subtest 'The figures can\'t be read' => sub {
    $browser->open($url, script => $story);
    $browser->evaluate('storyTold()');
    $browser->evaluate('story.failure = 403, update()');
    like $browser->evaluate($now), qr/^this page: the figures can't be read: status 403; those below are of 12:03:\d\d/, 'the page says so';
    $browser->evaluate('story.failure = 0, update()');
    unlike $browser->evaluate($now), qr/this page/, 'until they can';
};

subtest 'Names that look like markup' => sub {
    $browser->open($url, script => "$story story.change = (page) => { page.stores = JSON.parse(JSON.stringify(page.stores).replace('\"payments\"', JSON.stringify('<script>hurt()</script>')).replace('\"local\"', '\"__proto__\"')); const s = page.stores['<script>hurt()</script>']; if (s.nodes[0]) s.nodes[0].node = '<img src=x onerror=hurt()>'; s.health.cause = s.health.cause && '<b>new</b>'; s.store_errors['<i>'] = 7; s.results['<u>'] = 8; for (const event of s.events) event.event = event.key_id = '<svg onload=hurt()>'; return page; };");
    like $browser->evaluate('storyTold()'), qr/^<script>hurt\(\)<\/script>: <b>new<\/b>, since 12:03/, 'they are text';
    is $browser->evaluate(q{document.querySelectorAll('main :is(script, img, b:not(figcaption b), i, u, svg[onload])').length}), 0, 'and never elements';
    is text_of('h2 .name'), "<script>hurt()</script>\n__proto__", 'whatever the name of the store is';
    no_complaints('names');
};

# What a screen reader is told.
sub has_role {
    my ($role, $name, $what) = @_;
    my @names = map { $_->{name}{value} // '' } grep { !$_->{ignored} && $_->{role}{value} eq $role } $browser->accessible;
    return ok((grep { ref $name ? /$name/ : $_ eq $name } @names), $what) || diag "$role: ", join ' | ', @names;
}

for my $look (['1280x900', 'light'], ['1280x900', 'dark'], ['390x844', 'light'], ['390x844', 'dark'], ['320x640', 'light']) {
    my ($viewport, $scheme) = @$look;

    subtest "$viewport, $scheme" => sub {
        # with a name as long as a socket may have
        my $long = q{story.change = (page) => { page.stores.payments.nodes[0].node = `unix:/run/redis/${'payments-'.repeat(9)}.sock`; return page; };};
        $browser->open($url, script => "$story $long", viewport => $viewport, scheme => $scheme);
        $browser->evaluate('storyTold()');
        ok !$browser->evaluate($is_wide), 'nothing is wider than the window';
        is $browser->evaluate('getComputedStyle(document.body).backgroundColor'), $scheme eq 'dark' ? 'rgb(15, 19, 24)' : 'rgb(244, 245, 247)', 'it has its colours';
        is_accessible("$viewport, $scheme", $viewport !~ /^1280/);
    };
}

subtest 'Keyboard and screen reader' => sub {
    $browser->open($url, script => $story);
    $browser->evaluate('storyTold()');
    my @focused;

    for (1 .. 5) {
        $browser->press('Tab');
        push @focused, $browser->evaluate(q{((found) => found.id || found.getAttribute('aria-labelledby') || found.innerText)(document.activeElement)});
    }

    is_deeply \@focused, ['Skip to the stores', 'pause', 'store-0-nodes', 'store-0-events', 'JSON'], 'the order of the keyboard';
    $browser->evaluate(q{document.querySelector('[aria-labelledby=store-0-events]').focus(), update()});
    is $browser->evaluate(q{document.activeElement.getAttribute('aria-labelledby')}), 'store-0-events', 'the focus stays where it is when the page is drawn anew';

    $browser->evaluate(q{document.getElementById('pause').focus(), 0});
    $browser->press(' ');
    is $browser->evaluate(q{document.getElementById('pause').getAttribute('aria-pressed')}), 'true', 'the page can be paused';
    like text_of('#updated'), qr/paused/, 'and says so';

    has_role('region', 'payments wrong', 'a store is a region with its name and state');
    has_role('image', qr/^new requests a second: 0, at most \d+ in the last \d+ s$/, 'a chart says what it shows');
    has_role('status', qr/^/, 'news are told');
    no_complaints('keyboard');
};

subtest 'Without JavaScript' => sub {
    $browser->open($url, without_script => 1);
    my $shown = $nginx->request(method => 'GET', path => '/html')->body;
    like $shown, qr{<th scope="row">requests replayed</th><td>\d+</td>}, 'the figures are in a table';
    like $shown, qr{>&lt;img src=x onerror=}, 'with names that are escaped';
    has_role('rowheader', 'requests replayed', 'that is shown');
    has_role('table', 'Figures', 'and has a name');
    has_role('StaticText', qr/^Without JavaScript this page shows the figures of one moment/, 'the page says what is missing');
    ok !(grep { !$_->{ignored} && $_->{role}{value} eq 'button' } $browser->accessible), 'and has no button that does nothing';
};

$browser->stop;
$nginx->stop(allowed => qr/\[crit\].*connect\(\)/);

done_testing;
