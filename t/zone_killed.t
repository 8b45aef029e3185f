# A worker is killed while it changes the zone. The next call undoes the change: no other request waits, and each key is as it was.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Requests qw(@who ask);
use Time::HiRes qw(time);

plan skip_all => 'is about the memory store' if store_mode() ne 'memory';

# In bytes from the beginning of the zone, see src/zone/zone_layout.h.
my ($magic, $undo_count) = (scalar reverse('IDMZONE5'), 28);

# Of the store `main`, in the memory of any worker: where its segment and its zone begin.
my ($segment, $zone);

sub peek {
    my ($worker, $address, $size) = @_;
    open my $memory, '<:raw', "/proc/$worker/mem" or return;
    sysseek $memory, $address, 0;
    sysread $memory, my $bytes, $size // 4;
    return $size ? $bytes : unpack 'L', $bytes;
}

sub find_zone {
    my ($worker, $size) = @_;
    no warnings 'portable';
    for (slurp("/proc/$worker/maps") =~ m{^(\S+) rw-s }mg) {
        my ($start, $end) = map { hex } split /-/;
        my $at = $end - $start == $size ? index(peek($worker, $start, 1 << 20) // '', $magic) : -1;
        ($segment, $zone) = ($start, $start + $at) if $at >= 0;
    }
}

my $nginx = IdempotencyTest::Nginx->start(
    stores => 'idempotency_store main { memory 64m; } idempotency_store other { memory 1m; }',
    server => <<'END');
        idempotency main;
        idempotency_max_body 20m;
        location / { proxy_pass http://app; }
        location /other/ { idempotency other; proxy_pass http://app; }
        location /brief/ { idempotency_lease 1s; idempotency_unknown release; proxy_pass http://app; }
        location = /plain { idempotency off; return 200 plain; }
        location = /figures { idempotency_status json; }
END

sub free_blocks { return $nginx->request(method => 'GET', path => '/figures')->body =~ /"memory_free_blocks":\s*(\d+)/ ? $1 : undef }

find_zone(($nginx->workers)[0], 64 << 20);
ok $zone, 'the zone is found in the memory of a worker' or die "its layout is not that of this test\n";

my %first = map { ("/kept/$_" => ask($nginx, "/kept/$_", "kept-$_")) } 1 .. 100;
my $elsewhere = ask($nginx, '/other/kept', 'other');
my $free;
my $kills = 0;

# The worker writes the blocks of a large response for some milliseconds: by then it has saved where the free blocks begin.
sub kill_within_change {
    my ($n) = @_;
    my %workers = map { $_ => 1 } $nginx->workers;
    my ($one) = keys %workers;

    $free = free_blocks();

    my $large = $nginx->send_request(path => "/brief/large-$n?kind=binary&size=16000000", key => "large-$n", @who);
    my ($worker, $until) = (undef, time + 10);

    while (!$worker && time < $until) {
        # the first word of the segment is the mutex: the worker that holds it
        my $changes = peek($one, $zone + $undo_count);
        my $holder = $changes ? peek($one, $segment) : 0;
        $worker = $holder if $workers{$holder} && kill KILL => $holder;
    }

    # of a worker that lives
    my ($other) = grep { $_ != ($worker // 0) } keys %workers;
    my $left = peek($other, $zone + $undo_count);
    $large->close;
    return $worker && $left;
}

for my $n (1 .. 30) {
    last if kill_within_change($n) && ++$kills;
    # too late, or not at all
    await(sub { 2 == $nginx->workers && ask($nginx, "/brief/large-$n?kind=binary&size=16000000", "large-$n")->status == 201 });
}

ok $kills, 'a worker is killed within a change';

my $began = time;
is $nginx->request(path => '/plain', method => 'GET')->status, 200, 'a plain location responds';
is_replay_of ask($nginx, '/other/kept', 'other'), $elsewhere, 'a request of another store gets its replay';
is_replay_of ask($nginx, '/kept/1', 'kept-1'), $first{'/kept/1'}, 'and one of this store, too';
note sprintf 'after %.3f s', time - $began;

ok await(sub { 2 == $nginx->workers }), 'a new worker is there';
cmp_ok free_blocks(), '>=', $free - 1, 'the blocks of the response are free again: only its claim has one';
is scalar(grep { my $retry = ask($nginx, $_, 'kept-' . s{.*/}{}r); !$retry->is_replay || $retry->lasting ne $first{$_}->lasting } keys %first), 0, 'each kept response is replayed';
is scalar(grep { app()->count($_) != 1 } keys %first), 0, 'and was executed once';
is ask($nginx, '/new', 'new')->status, 201, 'a new key runs';

ok await(sub { ask($nginx, '/brief/large-1?kind=binary&size=16000000', 'large-1')->status == 201 }), 'the key of the killed worker is free after its lease, and there is space for its response';
$nginx->stop(allowed => qr/exited on signal 9|shared memory zone "idempotency_store main" was locked by/);

done_testing;
