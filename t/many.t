# Many requests at once: duplicates that wait, of one key and of many, and large responses to slow clients. Each key is executed once, all requests get
# responses, and the worker uses no more memory than docs/guarantees.md says.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Client qw(finish);
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Requests qw(@who);

use constant {DUPLICATES => 1000, KEYS => 100, LARGE => 50, SIZE => 1 << 20};

my $is_sanitized = ($ENV{IDEMPOTENCY_MODULE} // '') =~ /asan/;

# The connections of this process and those of nginx: each connection has two ends.
sub limit_of_files { return (grep { defined } map { /^Max open files\s+(\d+)/ } split /\n/, slurp('/proc/self/limits'))[0] }
plan skip_all => 'needs 4000 open files' if limit_of_files() < 4000;

my $nginx = IdempotencyTest::Nginx->new(
    workers => 1,
    log_format => '$request_uri $status $idempotency_status',
    main => 'worker_rlimit_nofile 4000;',
    # HTTP/1.0: since nginx 1.29.7 idle connections to the application are kept by default, and would be counted
    server => <<'END');
        idempotency main;
        idempotency_conflict wait 19s;
        location / { proxy_http_version 1.0; proxy_pass http://app; }
        location /large/ { proxy_buffers 8 4k; proxy_buffer_size 4k; proxy_max_temp_file_size 0; proxy_http_version 1.0; proxy_pass http://app; }
END
$nginx->set(stores => 'idempotency_store main { memory 80m; }') if store_mode() eq 'memory';

# sockets for all of them, and for the side of the application
$nginx->configure;
$nginx->set(configuration => slurp($nginx->directory . '/nginx.conf') =~ s/worker_connections \d+/worker_connections 3000/r);
$nginx->start;
my ($worker) = $nginx->workers;

# The worker's own memory in bytes, without the shared zone.
sub memory {
    my $status = slurp("/proc/$worker/status");
    return 1024 * ($status =~ /^RssAnon:\s+(\d+) kB/m)[0];
}

sub send_many {
    my ($path_of, $key_of, $count) = @_;
    my @clients;

    for my $n (1 .. $count) {
        my $client;
        # the listen queue may be full for a moment
        await(sub { $client = eval { $nginx->send_request(path => $path_of->($n), key => $key_of->($n), @who) } }) or die "cannot connect: $@";
        push @clients, $client;
    }

    return @clients;
}

sub nginx_connections { return scalar(() = glob "/proc/$worker/fd/*") }

# The files that nginx has open without a connection.
my $idle = nginx_connections();

sub await_connections {
    my ($count, $name) = @_;
    return ok await(sub { nginx_connections() >= $idle + $count }), $name;
}

sub close_all {
    $_->close for @_;
    ok await(sub { nginx_connections() <= $idle + 1 }), 'their connections end';
}

# The first requests allocate memory once, which is not to be measured.
{
    my @clients = send_many(sub { "/warm/$_[0]" }, sub { "warm-$_[0]" }, 100);
    finish(@clients);
    close_all(@clients);
}

# Duplicates of one key.
{
    my $before = memory();
    my $first = $nginx->send_request(path => '/one?gate=one', key => 'one', @who);
    app()->await_arrival('/one');
    my @duplicates = send_many(sub { '/one?gate=one' }, sub { 'one' }, DUPLICATES);
    # the first request has a connection to the application too
    await_connections(DUPLICATES + 2, DUPLICATES . ' duplicates of one key are there');
    is scalar(grep { !$_->is_silent_for(0) } @duplicates), 0, 'and wait';
    my $growth = memory() - $before;

    app()->open_gate('one');
    my $answer = $first->response;
    is_first $answer, 201, 1, 'the first request gets its response';
    my @answers = finish(@duplicates);
    is scalar(grep { $_->is_replay && $_->lasting eq $answer->lasting } @answers), DUPLICATES, 'each of them is replayed the response';
    is app()->count('/one'), 1, 'the application executed the request once';

    # each request has 4 KB of the module and, of nginx, 1 KB of a header buffer, a pool of 4 KB for the request and the pool of the connection
    my $each = int($growth / DUPLICATES);
    note "a waiting duplicate takes $each bytes";
    cmp_ok $each, '<', 4096 + 12 * 1024, 'a waiting duplicate uses as much memory as documented' if !$is_sanitized;
    close_all($first, @duplicates);
}

# The same again needs no more memory, because freed memory is used again. The size of the heap varies a little, so this may take a few rounds.
{
    my ($executed, $answered, $growth, $rounds) = (0, 0, undef, 0);

    while ($rounds < ($is_sanitized ? 1 : 5) && !(defined $growth && $growth < 1 << 20)) {
        my $name = 'again' . ++$rounds;
        my $before = memory();
        my $first = $nginx->send_request(path => "/$name?gate=$name", key => $name, @who);
        app()->await_arrival("/$name");
        my @duplicates = send_many(sub { "/$name?gate=$name" }, sub { $name }, DUPLICATES);
        app()->open_gate($name);
        my @answers = finish($first, @duplicates);
        $answered += grep { $_->body eq $answers[0]->body && $_->status == 201 } @answers;
        $executed += app()->count("/$name");
        close_all($first, @duplicates);
        $growth = memory() - $before;
        note "round $rounds: $growth bytes more";
    }

    is $answered, $rounds * (DUPLICATES + 1), 'later times all get their responses';
    is $executed, $rounds, 'from one execution each';
    cmp_ok $growth, '<', 1 << 20, 'and the worker does not go on growing' if !$is_sanitized;
}

# Duplicates of many keys.
{
    my @first = send_many(sub { "/each/$_[0]?gate=each" }, sub { "each-$_[0]" }, KEYS);
    app()->await_arrival("/each/$_") for 1 .. KEYS;
    my $of = sub { 1 + $_[0] % KEYS };
    my @duplicates = send_many(sub { '/each/' . $of->($_[0]) . '?gate=each' }, sub { 'each-' . $of->($_[0]) }, 9 * KEYS);
    await_connections(11 * KEYS, 'nine duplicates of each of a hundred keys are there');
    is scalar(grep { !$_->is_silent_for(0) } @duplicates), 0, 'and wait';

    app()->open_gate('each');
    my @answers = finish(@first, @duplicates);
    my $right = 0;
    for my $n (0 .. $#answers) {
        my $key = $n < KEYS ? $n + 1 : $of->($n - KEYS + 1);
        $right++ if $answers[$n]->status == 201 && $answers[$n]->body =~ m{^#1 POST /each/$key\?} && ($n < KEYS xor $answers[$n]->is_replay);
    }
    is $right, 10 * KEYS, 'each of them gets the response of its own key';
    is scalar(grep { app()->count("/each/$_") != 1 } 1 .. KEYS), 0, 'and each key had one execution';
    close_all(@first, @duplicates);
}

# Responses at the limit on many connections, and clients that do not read them.
{
    my $before = memory();
    my $path = sub { "/large/$_[0]?kind=binary&size=" . SIZE };
    my @slow = send_many($path, sub { "large-$_[0]" }, LARGE);
    # responses are delivered only after they were kept: the first byte shows that
    ok((LARGE == grep { $_->await_bytes } @slow), 'responses at the limit begin to come');
    my $growth = memory() - $before;
    note 'a large answer on its way takes ' . int($growth / LARGE) . ' bytes';

    # the held response, its fields, and the buffers of nginx; the store has the response
    cmp_ok $growth, '<', LARGE * (SIZE + 192 * 1024), 'the worker has each response once at the most' if !$is_sanitized;

    my @answers = finish(@slow);
    is scalar(grep { $_->status == 201 && length $_->body == SIZE } @answers), LARGE, 'all responses are complete';
    close_all(@slow);

    # replays to slow clients
    my @retries = send_many($path, sub { "large-$_[0]" }, LARGE);
    ok((LARGE == grep { $_->await_bytes } @retries), 'the first bytes of their replays arrive');
    my $more = memory() - $before;
    note 'a large replay on its way takes ' . int($more / LARGE) . ' bytes';
    cmp_ok $more, '<', LARGE * (SIZE + 192 * 1024) + ($growth > 0 ? $growth / 2 : 0), 'a replay takes its record once at the most' if !$is_sanitized;
    my @replays = finish(@retries);
    is scalar(grep { $replays[$_]->is_replay && $replays[$_]->lasting eq $answers[$_]->lasting } 0 .. $#replays), LARGE, 'and the replays are equal byte for byte';
    is scalar(grep { app()->count("/large/$_") != 1 } 1 .. LARGE), 0, 'no request ran twice';
}

$nginx->stop;
done_testing;
