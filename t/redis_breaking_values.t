# A value for which Redis closes the connection harms no other request: neither small ones nor other large ones.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Client qw(finish);
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Redis;
use IdempotencyTest::Requests qw(@who ask);

plan skip_all => 'is about the Redis store' if store_mode() ne 'redis';

my $redis = IdempotencyTest::Redis->new;
my $server = <<'END';
        idempotency main;
        idempotency_max_body 4m;
        location / { proxy_pass http://app; }
END

# What makes Redis close the connection over which it gets a value of 2 MB: with an error reply, or without a word.
my @limits = (
    ['proto-max-bulk-len', 1024 * 1024, 512 * 1024 * 1024],
    ['client-query-buffer-limit', 1024 * 1024, 1024 * 1024 * 1024],
    ['maxmemory-clients', 1024 * 1024, 0],
);

for my $limit (@limits) {
    my ($name, $low, $high) = @$limit;

    subtest $name => sub {
        my $nginx = IdempotencyTest::Nginx->start(redis => "redis://" . $redis->address, workers => 1, server => $server);
        is ask($nginx, "/$name/first", "$name-first")->status, 201, 'a request runs';
        $redis->command('CONFIG', 'SET', $name, $low);

        # two values that Redis never takes, some that it takes, and small requests all the time
        my @path = ((map { "/$name/huge$_?size=2000000" } 1, 2), map { "/$name/large$_?size=100000" } 1 .. 4);
        my @running = map { $nginx->send_request(path => $_, key => $_ =~ tr{/?=}{---}r, @who) } @path;
        my @small = map { ask($nginx, "/$name/small$_", "$name-small$_") } 1 .. 40;
        is scalar(grep { $_->status == 201 && !$_->is_replay } @small), 40, 'all small requests run meanwhile';

        my @first = map { $_->response } @running;
        is scalar(grep { $_->status == 201 } @first), scalar @path, 'all large responses are delivered';

        my @again;
        ok await(sub {
            @again = finish(map { $nginx->send_request(path => $_, key => $_ =~ tr{/?=}{---}r, @who) } @path);
            return !grep { $_->code eq 'store_unavailable' || $_->code eq 'request_in_progress' } @again;
        }), 'each outcome is recorded';
        is join(' ', map { $_->code } @again[0, 1]), 'response_not_kept response_not_kept', 'what Redis does not take is recorded as not kept';
        is scalar(grep { $again[$_]->is_replay && $again[$_]->lasting eq $first[$_]->lasting } 2 .. $#path), 4, 'the others are kept';

        my @later = map { ask($nginx, "/$name/small$_", "$name-small$_") } 1 .. 40;
        is scalar(grep { $_->is_replay } @later), 40, 'and so are the small ones';
        is app()->count($_ =~ s/\?.*//r), 1, "$_ ran once" for @path;
        unlike $nginx->error_log, qr/is unavailable: /, 'Redis was never taken for unavailable';
        $redis->command('CONFIG', 'SET', $name, $high);
        $nginx->stop;
    };
}

# A value that Redis can't send: the connection is lost with each attempt to read it.
subtest 'client-output-buffer-limit' => sub {
    my $nginx = IdempotencyTest::Nginx->start(redis => "redis://" . $redis->address, workers => 1, server => $server);
    my %size = (huge => 3_000_000, map { ("large$_" => 100_000) } 1 .. 4);
    my %first = map { $_ => ask($nginx, "/out/$_?size=$size{$_}", "out-$_") } sort keys %size;
    is scalar(grep { $_->status == 201 } values %first), 5, 'responses are kept';

    $redis->command('CONFIG', 'SET', 'client-output-buffer-limit', 'normal 1000000 0 0');
    for my $round (1 .. 5) {
        my %running = map { $_ => $nginx->send_request(path => "/out/$_?size=$size{$_}", key => "out-$_", @who) } sort keys %size;
        my $small = ask($nginx, "/out/small$round", "out-small$round");
        is $small->status, 201, 'a small request runs meanwhile';
        my %again = map { $_ => $running{$_}->response } keys %running;
        my $huge = delete $again{huge};
        ok $huge->code eq 'store_unavailable' || $huge->is_replay, 'the largest value may be refused';
        is join(' ', grep { !$again{$_}->is_replay || $again{$_}->lasting ne $first{$_}->lasting } sort keys %again), '', 'the others are replayed';
    }
    $redis->command('CONFIG', 'SET', 'client-output-buffer-limit', 'normal 0 0 0');
    is_replay_of ask($nginx, "/out/huge?size=$size{huge}", 'out-huge'), $first{huge}, 'all of it is still there';
    $nginx->stop;
};

done_testing;
