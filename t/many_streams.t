# Ten thousand duplicates of one key wait in one worker, each in a stream of HTTP/2: there is one execution, all get the same response, and
# the worker uses no more memory than docs/guarantees.md says. This nginx has not used memory for other requests before.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();
use POSIX ();
use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app store_directives store_mode);
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Nginx;
use IdempotencyTest::Python qw(python_command);
use Time::HiRes qw(sleep time);

use constant {CONNECTIONS => 80, STREAMS => 125};
use constant DUPLICATES => CONNECTIONS * STREAMS;

my $is_sanitized = ($ENV{IDEMPOTENCY_MODULE} // '') =~ /asan/;

# a sanitized worker on a busy machine needs more than a second to read ten thousand replies of Redis
my $patient = store_mode() eq 'redis' ? 'timeout 60s;' : '';
my $nginx = IdempotencyTest::Nginx->new(workers => 1, stores => 'idempotency_store main { ' . store_directives() . " $patient }");
my $h2 = $nginx->directory . '/h2.sock';
$nginx->set(server => <<"END")->start;
        listen unix:$h2 http2;
        idempotency main;
        # longer than the timeout of the store
        idempotency_lease 90s;
        idempotency_conflict wait 300s;
        location / { proxy_pass http://app; }
END
my ($worker) = $nginx->workers;

# Sends one request `connections` x `streams` times. The client's output begins when nginx has all of them.
sub send_many {
    my ($name, $connections, $streams) = @_;
    open my $client, '-|', python_command('h2_many.py',
        '--socket', $h2, '--connections', $connections, '--streams', $streams, '--path', "/$name?gate=$name",
        '--header', 'x-api-key:alice', '--header', "idempotency-key:$name") or die "h2_many.py: $!\n";
    return $client;
}

# The distinct responses: [COUNT, STATUS, FIELDS, BODY].
sub answers { my ($client) = @_; return map { JSON::PP::decode_json($_) } readline $client }

sub begin {
    my ($name) = @_;
    my $first = $nginx->send_request(path => "/$name?gate=$name", key => $name, headers => ['X-API-Key: alice']);
    app()->await_arrival("/$name");
    return $first;
}

# The worker's own memory in bytes, without the shared zone.
sub memory {
    my $status = slurp("/proc/$worker/status");
    return 1024 * ($status =~ /^RssAnon:\s+(\d+) kB/m)[0];
}

# The CPU time of the worker.
sub seconds_used {
    my @fields = split ' ', slurp("/proc/$worker/stat") =~ s/.*\) //sr;
    return ($fields[11] + $fields[12]) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

# The first requests allocate memory once, which is not to be measured.
{
    my $first = begin('warm');
    my $client = send_many('warm', 2, 10);
    is readline $client // '', "here 0\n", 'a few duplicates wait';
    app()->open_gate('warm');
    is_first $first->response, 201, 1, 'the first request gets its response';
    is_deeply [map { [@$_[0, 1]] } answers($client)], [[20, 201]], 'and the waiting duplicates get their responses';
    close $client;
    $first->close;
}

my $before = memory();
my $first = begin('many');
my $began = time;
my $client = send_many('many', CONNECTIONS, STREAMS);
is readline $client // '', "here 0\n", DUPLICATES . ' duplicates of one key are there, and wait';
note sprintf 'they are there after %.1f s', time - $began;

# by now each duplicate polls the store at the lowest rate
sleep 1;
my $used = seconds_used();
$began = time;
sleep 2;
note sprintf 'while they wait the worker uses %.2f of a processor', (seconds_used() - $used) / (time - $began);
my $each = int((memory() - $before) / DUPLICATES);

$began = time;
app()->open_gate('many');
my $answer = $first->response;
is_first $answer, 201, 1, 'the first request gets its response';
note sprintf 'the first after %.1f s', time - $began;
my @kinds = answers($client);
note sprintf 'and the last after %.1f s', time - $began;
is_deeply [map { [@$_[0, 1, 3]] } @kinds], [[DUPLICATES, 201, $answer->body]], 'all of them are replayed the response, and all alike'
    or diag map { "$_->[0] times $_->[1]: " . substr($_->[3], 0, 150) . "\n" } @kinds;
ok close $client, 'whole';
is app()->count('/many'), 1, 'the application executed the request once';

# the module uses 4 KB, nginx a pool of 4 KB for the request and the stream: 12.2 KB were measured, and up to 12.6 KB with
# the calls that wait for a reply of Redis
note "a waiting duplicate takes $each bytes";
cmp_ok $each, '<', 14 * 1024, 'a waiting duplicate uses as much memory as documented' if !$is_sanitized;

$first->close;
$nginx->stop;
done_testing;
