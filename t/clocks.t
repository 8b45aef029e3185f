# The time of day of a host is not trusted: leases, ages and times to live are correct with a clock that is wrong by hours, or jumps.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app new_prefix redis store_mode);
use IdempotencyTest::Faults;
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Requests qw(@who ask begin other_outcomes);
use Time::HiRes qw(sleep time);

my $is_redis = store_mode() eq 'redis';
my $hours = 3600;

my $server = <<'END';
        add_header X-Id $idempotency_key_id always;
        add_header X-Age "$idempotency_age" always;
        idempotency main;
        idempotency_ttl 100s;
        location / { proxy_pass http://app; }
        location /lease/ { idempotency_lease 1s; idempotency_unknown release; proxy_pass http://app; }
        location /brief/ { idempotency_ttl 2s; proxy_pass http://app; }
END

# An nginx with a shifted clock.
sub start_nginx {
    my ($seconds, %options) = @_;
    my $clock = IdempotencyTest::Faults->new('shifted_clock');
    $clock->shift_clock($seconds);
    my $nginx = IdempotencyTest::Nginx->new(memory => '1m', short_leases => 1, http => 'proxy_set_header Idempotency-Token $idempotency_token;',
        server => $server, clock => $clock, %options);
    $clock->preloaded(sub { $nginx->start });
    return $nginx;
}

# The difference between the clock of nginx, from its Date, and that of this test.
sub offset {
    my ($nginx) = @_;
    my $date = $nginx->request(method => 'GET', path => '/date')->header('Date');
    my ($day, $month, $year, $h, $m, $s) = $date =~ /(\d+) (\w+) (\d+) (\d+):(\d+):(\d+)/;
    my %month = map { (qw(Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec))[$_] => $_ } 0 .. 11;
    require Time::Local;
    return Time::Local::timegm($s, $m, $h, $day, $month{$month}, $year) - time;
}

for my $off (5 * $hours, -5 * $hours) {
    subtest "A clock that is off by $off seconds" => sub {
        my $nginx = start_nginx($off);
        cmp_ok abs(offset($nginx) - $off), '<', 60, 'nginx uses the shifted clock';

        my $running = begin($nginx, "/lease/runs$off", "runs$off");
        is join(', ', other_outcomes($nginx, "/lease/runs$off?gate=runs$off", "runs$off", 3)), '', 'a lease is kept for several times its length';
        is app()->count("/lease/runs$off"), 1, 'and the request runs once';
        app()->open_gate("runs$off");
        my $first = $running->response;
        is_first $first, 201, 1, 'and gets its response';

        my $kept = time;
        sleep 1.2;
        my $replay = ask($nginx, "/lease/runs$off?gate=runs$off", "runs$off");
        ok $replay->is_replay && $replay->body eq $first->body, 'and replayed';
        cmp_ok $replay->header('X-Age'), '>=', 1, 'the replay has an age';
        cmp_ok $replay->header('X-Age'), '<=', time - $kept + 1, 'the age is the number of seconds that have passed';

        if ($is_redis) {
            my $left = redis()->command('PTTL', $nginx->{prefix} . $replay->header('X-Id')) / 1000;
            cmp_ok $left, '<=', 100, 'its time to live is not longer than it should be';
            cmp_ok $left, '>=', 100 - 1 - (time - $kept), 'and not shorter than it should be';
        }

        my $start = time;
        is_first ask($nginx, "/brief/$off", "brief$off"), 201, 1, 'a response is kept for two seconds';
        my $again;
        ok await(sub { $again = ask($nginx, "/brief/$off", "brief$off"); !$again->is_replay }, 10), 'and is then forgotten';
        cmp_ok time - $start, '>=', 2, 'not earlier';
        $nginx->stop;
    };
}

subtest 'A clock that jumps' => sub {
    my $nginx = start_nginx(0, workers => 1);
    my $first = ask($nginx, '/jumps', 'jumps');
    my $running = begin($nginx, '/lease/jumps', 'lease-jumps');
    my @tokens = token('/lease/jumps');

    for my $to (5 * $hours, -5 * $hours, 0) {
        $nginx->{clock}->shift_clock($to);
        ok await(sub { abs(offset($nginx) - $to) < 60 }), "the clock jumps to $to";
        my $replay = ask($nginx, '/jumps', 'jumps');
        cmp_ok $replay->header('X-Age'), '<=', 60, 'what is kept is no older';
        is_replay_of bare($replay), bare($first), 'and its retry gets a replay';
        sleep 1.5;
        is_problem ask($nginx, '/lease/jumps?gate=lease-jumps', 'lease-jumps'), 409, 'request_in_progress', 'the lease is still valid';
        ask($nginx, "/token$to", "token$to");
        push @tokens, token("/token$to");
    }

    is join(' ', map { $tokens[$_] > $tokens[$_ - 1] ? 'grows' : "@tokens[$_ - 1, $_]" } 1 .. $#tokens), 'grows grows grows', 'tokens still grow';
    is app()->count('/lease/jumps'), 1, 'the request ran once';
    app()->open_gate('lease-jumps');
    is_first $running->response, 201, 1, 'and gets its response';
    ok ask($nginx, '/lease/jumps?gate=lease-jumps', 'lease-jumps')->is_replay, 'and its response is kept';
    $nginx->stop;
};

sub token {
    my ($path) = @_;
    my %field = map { lc $_->[0] => $_->[1] } @{app()->last_request($path)->{headers}};
    return $field{'idempotency-token'};
}

# Without the fields that this test adds.
sub bare {
    my ($answer) = @_;
    $answer->{fields} = [grep { $_->[0] ne 'X-Age' } @{$answer->{fields}}];
    return $answer;
}

subtest 'Two hosts whose clocks differ by ten hours' => sub {
    plan skip_all => 'a memory store has one host' if !$is_redis;
    my $prefix = new_prefix();
    my ($ahead, $behind) = map { start_nginx($_, prefix => $prefix, workers => 1) } 5 * $hours, -5 * $hours;

    for my $pair ([$ahead, $behind, 'ahead'], [$behind, $ahead, 'behind']) {
        my ($one, $other, $name) = @$pair;
        my $first = ask($one, "/hosts/$name", "hosts-$name");
        my $replay = ask($other, "/hosts/$name", "hosts-$name");
        cmp_ok $replay->header('X-Age'), '<=', 60, "the other host gives the correct age of a response ($name)";
        is_replay_of bare($replay), bare($first), "and is replayed ($name)";

        my $running = begin($one, "/lease/$name", "lease-$name");
        my $begun = time;
        sleep 2;
        my $refused = ask($other, "/lease/$name?gate=lease-$name", "lease-$name");
        is_problem $refused, 409, 'request_in_progress', "a claim is respected ($name)";
        my @workers = $one->workers;
        kill KILL => @workers;
        my $next;
        ok await(sub {
            $next = $other->send_request(path => "/lease/$name?gate=lease-$name", key => "lease-$name", @who);
            await(sub { app()->count("/lease/$name") > 1 || !$next->is_silent_for(0.01) });
            app()->count("/lease/$name") > 1;
        }, 8), "until its lease has expired ($name)";
        app()->open_gate("lease-$name");
        is_first $next->response, 201, 2, "and the next request runs ($name)";
        await(sub { my ($new) = $one->workers; $new && $new != $workers[0] });
    }

    $_->stop(allowed => qr/exited on signal 9/) for $ahead, $behind;
};

done_testing;
