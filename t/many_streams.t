# Ten thousand duplicates of one key wait in one worker, each a stream of HTTP/2: one execution, all are answered alike, and the worker
# takes no more memory than docs/guarantees.md says. An nginx of its own, which has not had any memory for something else before.

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

# a sanitized worker on a busy machine has not read ten thousand answers of Redis within a second
my $patient = store_mode() eq 'redis' ? 'timeout 60s;' : '';
my $nginx = IdempotencyTest::Nginx->new(workers => 1, stores => 'idempotency_store main { ' . store_directives() . " $patient }");
my $h2 = $nginx->directory . '/h2.sock';
$nginx->set(server => <<"END")->start;
        listen unix:$h2 http2;
        idempotency main;
        idempotency_conflict wait 300s;
        location / { proxy_pass http://app; }
END
my ($worker) = $nginx->workers;

# Sends one request `connections` x `streams` times; what is to be read of the client begins once nginx has all of them.
sub send_many {
    my ($name, $connections, $streams) = @_;
    open my $client, '-|', python_command('h2_many.py',
        '--socket', $h2, '--connections', $connections, '--streams', $streams, '--path', "/$name?gate=$name",
        '--header', 'x-api-key:alice', '--header', "idempotency-key:$name") or die "h2_many.py: $!\n";
    return $client;
}

# The kinds of their answers: [COUNT, STATUS, FIELDS, BODY].
sub answers { my ($client) = @_; return map { JSON::PP::decode_json($_) } readline $client }

sub begin {
    my ($name) = @_;
    my $first = $nginx->send_request(path => "/$name?gate=$name", key => $name, headers => ['X-API-Key: alice']);
    app()->await_arrival("/$name");
    return $first;
}

# What the worker has for itself, in bytes: the zone is shared and is no part of it.
sub memory {
    my $status = slurp("/proc/$worker/status");
    return 1024 * ($status =~ /^RssAnon:\s+(\d+) kB/m)[0];
}

# The worker's time.
sub seconds_used {
    my @fields = split ' ', slurp("/proc/$worker/stat") =~ s/.*\) //sr;
    return ($fields[11] + $fields[12]) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

# What the first requests allocate once is not of those that are measured.
{
    my $first = begin('warm');
    my $client = send_many('warm', 2, 10);
    is readline $client // '', "here 0\n", 'a few duplicates wait';
    app()->open_gate('warm');
    is_first $first->response, 201, 1, 'the first is answered';
    is_deeply [map { [@$_[0, 1]] } answers($client)], [[20, 201]], 'and they are';
    close $client;
    $first->close;
}

my $before = memory();
my $first = begin('many');
my $began = time;
my $client = send_many('many', CONNECTIONS, STREAMS);
is readline $client // '', "here 0\n", DUPLICATES . ' duplicates of one key are there, and wait';
note sprintf 'they are there after %.1f s', time - $began;

# by now each of them asks as rarely as they come to
sleep 1;
my $used = seconds_used();
$began = time;
sleep 2;
note sprintf 'while they wait the worker uses %.2f of a processor', (seconds_used() - $used) / (time - $began);
my $each = int((memory() - $before) / DUPLICATES);

$began = time;
app()->open_gate('many');
my $answer = $first->response;
is_first $answer, 201, 1, 'the first is answered';
note sprintf 'the first after %.1f s', time - $began;
my @kinds = answers($client);
note sprintf 'and the last after %.1f s', time - $began;
is_deeply [map { [@$_[0, 1, 3]] } @kinds], [[DUPLICATES, 201, $answer->body]], 'all of them are replayed the answer, and all alike'
    or diag map { "$_->[0] times $_->[1]: " . substr($_->[3], 0, 150) . "\n" } @kinds;
ok close $client, 'whole';
is app()->count('/many'), 1, 'the application acted once';

# the module's 4 KB, and of nginx's own a request's pool of 4 KB and the stream: 12.2 KB were measured, and up to 12.6 KB with
# the calls that are on their way to Redis
note "a waiting duplicate takes $each bytes";
cmp_ok $each, '<', 14 * 1024, 'a waiting duplicate takes what the documentation says' if !$is_sanitized;

$first->close;
$nginx->stop;
done_testing;
