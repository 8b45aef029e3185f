# Authentication with Redis: the ACL in docs/redis.md is sufficient and minimal; credentials from every source; errors of
# Redis are logged by their code, and no password is logged.

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
use IdempotencyTest::Redis;
use IdempotencyTest::RedisCluster;
use IdempotencyTest::RedisSentinel;
use IdempotencyTest::Requests qw(@who ask);

plan skip_all => 'is about the Redis store' if store_mode() ne 'redis';

# From the reference: a user's line, and the additions that some directives need.
my $page = slurp("$FindBin::Bin/../docs/redis.md");
my ($line) = $page =~ /^    (user idempotency on >SECRET ~idempotency:\* .*)$/m or die "docs/redis.md has no ACL\n";
my ($rest) = $page =~ /^\| with \| more \|\n\|[- |]+\|\n((?:\|.*\n)+)/m or die "docs/redis.md has no table of further commands\n";
my %more = map { my ($with, $more) = /^\| (.*?) \| (.*) \|$/; $more =~ s/\\\|/|/g; ($with => join ' ', $more =~ /`(.*?)`/g) } split /\n/, $rest;

# The commands of the line, with their `+`.
my @commands = $line =~ /(\+\S+)/g;

my $places = 0;
sub locations {
    my ($store) = @_;
    return <<"END";
        add_header X-Id \$idempotency_key_id always;
        add_header X-Status \$idempotency_status always;
        idempotency $store;
        location / { proxy_pass http://app; }
        location ~ /short/ { idempotency_lease 6s; proxy_pass http://app; }
END
}

# All operations of a store. Returns the first failure, or ''. `servers`, and `at`, which finds the server of a key, are
# used with a user that may do everything; `extra` is code for more operations.
sub first_failure {
    my ($nginx, $store, %options) = @_;
    my $at = $options{at};
    my $place = "$store-" . ++$places;
    my $complains = sub { $nginx->error_log =~ /NOPERM/ };
    my $name = sub { 'idempotency:' . $_[0]->header('X-Id') };

    $_->command('SCRIPT', 'FLUSH') for @{$options{servers}};
    my $first = ask($nginx, "/$place/first", "$store-first");
    return 'claim' if $first->status != 201;
    return 'keep' if $first->header('X-Status') ne 'NEW';
    my $retry = ask($nginx, "/$place/first", "$store-first");
    return 'replay' if !$retry->is_replay || $retry->lasting ne $first->lasting;

    my $failure = $options{extra} ? $options{extra}->($nginx, $place, $store, $first) : '';
    return $failure if $failure;

    my $running = $nginx->send_request(path => "/$place/short/run?gate=$place", key => "$store-run", @who);
    app()->await_arrival("/$place/short/run");
    my $refused = ask($nginx, "/$place/short/run?gate=$place", "$store-run");
    return 'conflict' if $refused->status != 409;

    my $claim = $name->($refused);
    my $least = 1e18;
    my $renewed = await(sub {
        my $left = $at->($claim)->command('PTTL', $claim);
        return -1 if $left < 0 || $complains->();
        return 1 if $left > $least + 50;
        $least = $left if $left < $least;
        return 0;
    });
    app()->open_gate($place);
    my $settled = $running->response;
    return 'renewal' if $renewed != 1;
    return 'settle' if $settled->status != 201 || !ask($nginx, "/$place/short/run?gate=$place", "$store-run")->is_replay;

    # a claim that was deleted before its response
    $running = $nginx->send_request(path => "/$place/gone?gate=$place-gone", key => "$store-gone", @who);
    app()->await_arrival("/$place/gone");
    my $gone = $name->(ask($nginx, "/$place/gone?gate=$place-gone", "$store-gone"));
    $at->($gone)->command('DEL', $gone);
    app()->open_gate("$place-gone");
    $settled = $running->response;
    return 'settle without a claim' if $settled->status != 201 || $complains->();
    $retry = ask($nginx, "/$place/gone?gate=$place-gone", "$store-gone");
    return 'settle without a claim' if !$retry->is_replay;

    my $busy = ask($nginx, "/$place/busy?status=503,201", "$store-busy");
    return 'release' if $busy->status != 503 || !await(sub { $complains->() || !$at->($name->($busy))->command('EXISTS', $name->($busy)) }) || $complains->();
    return 'release' if ask($nginx, "/$place/busy?status=503,201", "$store-busy")->status != 201;

    my $large = ask($nginx, "/$place/large?kind=binary&size=300000", "$store-large");
    $retry = ask($nginx, "/$place/large?kind=binary&size=300000", "$store-large");
    return 'large' if $large->status != 201 || !$retry->is_replay || $retry->lasting ne $large->lasting;

    return $complains->() ? 'something' : '';
}

# A user with this line, and for each command a user without it. `urls` of the servers, `more` commands, `store` directives.
sub is_smallest {
    my ($what, %options) = @_;
    my @all = (@commands, split ' ', $options{more} // '');
    my %user = (all => [@all], map { my $less = $_; ('less' . $less =~ tr/+|-/_/r => [grep { $_ ne $less } @all]) } @all);

    for my $user (sort keys %user) {
        my $acl = $line =~ s/ \+.*//r =~ s/^user idempotency/$user/r =~ s/>SECRET/>of-$user/r;
        $_->command('ACL', 'SETUSER', split(' ', $acl), @{$user{$user}}) for @{$options{servers}};
    }

    # an nginx for each user, so that errors can be assigned
    for my $user (sort keys %user) {
        my $nginx = IdempotencyTest::Nginx->start(workers => 1, server => locations($user),
            stores => "idempotency_store $user { redis $options{urls}; user $user; password of-$user; connect_timeout 1s; timeout 5s; $options{store} }");
        my $failure = first_failure($nginx, $user, %options);

        if ($user eq 'all') {
            is $failure, '', "$what: the ACL is enough" or diag $nginx->error_log;
            unlike $nginx->error_log, qr/NOPERM/, "$what: no command is forbidden";
            $nginx->stop;
        } else {
            isnt $failure, '', "$what: $user fails";
            ok $nginx->await_error_log(qr/\[error\] .*idempotency: .*NOPERM/), "$what: the error log says NOPERM ($failure)";
            $nginx->check_error_log;
        }

        unlike $nginx->error_log, qr/of-$user/, "$what: no password is in the log";
    }
}

{
    my $redis = IdempotencyTest::Redis->new;
    my $url = 'redis://' . $redis->address;
    my %here = (servers => [$redis], at => sub { $redis });
    subtest 'One server' => sub { is_smallest('one server', %here, urls => $url, store => '') };

    $redis->command('SELECT', 3);
    subtest 'Another database' => sub {
        is_smallest('a database', %here, urls => "$url/3", store => '', more => $more{'`database` other than 0'} // die);
    };
}

subtest 'Replicas' => sub {
    my $master = IdempotencyTest::Redis->new;
    my $replica = IdempotencyTest::Redis->new(replica_of => $master);
    $master->await_replicas(1);
    is_smallest('replicas', servers => [$master], at => sub { $master }, urls => 'redis://' . $master->address,
        store => 'wait_replicas 1 20s;', more => $more{'`wait_replicas`'} // die);
};

subtest 'A cluster' => sub {
    my $cluster = IdempotencyTest::RedisCluster->new;

    # a slot that is moving to another node, which already has its keys, and then a slot that has moved
    my $moves = sub {
        my ($nginx, $place, $store, $first) = @_;
        my $slot = $cluster->slot_of('idempotency:' . $first->header('X-Id'));
        my ($to) = grep { $_ != $cluster->node_of_slot($slot) } $cluster->masters;
        my $from = $cluster->begin_move($slot, $to);
        $cluster->move_keys($slot, $from, $to);
        my $asks = ask($nginx, "/$place/first", "$store-first")->is_replay;
        $cluster->end_move($slot, $to);
        return !$asks ? 'ASK' : ask($nginx, "/$place/first", "$store-first")->is_replay ? '' : 'MOVED';
    };

    is_smallest('a cluster', servers => [$cluster->nodes], at => sub { $cluster->node_of($_[0]) }, urls => $cluster->urls(2),
        store => 'topology cluster;', more => $more{'`topology cluster`'} // die, extra => $moves);
};

subtest 'Sentinels' => sub {
    my $watched = IdempotencyTest::RedisSentinel->new(sentinel_user => 'owl', sentinel_password => 'owl-secret');
    my ($line) = $page =~ /^    (user idempotency on >SECRET &\+switch-master .*)$/m or die "docs/redis.md has no ACL for sentinels\n";
    my $give = sub {
        my ($user, @rules) = @_;
        my $acl = $line =~ s/ &.*//r =~ s/^user idempotency/$user/r =~ s/>SECRET/>word-of-$user/r;
        $_->command('ACL', 'SETUSER', split(' ', $acl), @rules) for $watched->sentinels;
    };
    my @rules = $line =~ /([&+]\S+)/g;
    my $with = sub { my ($user) = @_; return join ' ', map { s{//}{//$user:word-of-$user@}r } split / /, $watched->urls };

    $give->('all', @rules);
    is_smallest('sentinels', servers => [$watched->redis], at => sub { $watched->master }, urls => $with->('all'),
        store => 'topology sentinel ' . $watched->name . ';', more => $more{'`topology sentinel`'} // die);

    # and the commands to the sentinels
    for my $less ('', @rules) {
        my $user = 'watcher' . $less =~ tr/&+|-/_/r;
        $give->($user, grep { $_ ne $less } @rules);
        my $urls = $with->($user);
        my $nginx = IdempotencyTest::Nginx->start(workers => 1, server => locations('main'),
            stores => "idempotency_store main { redis $urls; topology sentinel " . $watched->name . '; }');

        if ($less eq '') {
            my $old = $watched->master;
            is_first ask($nginx, '/watched/1', 'watched-1'), 201, 1, 'sentinels: the ACL is enough to find the master';
            my $new = $watched->failover;
            ok $nginx->await_error_log(qr/\[notice\].*redis "127.0.0.1:${\ $new->port}" is the master/), 'and to learn of a new master';
            unlike $nginx->error_log, qr/NOPERM/, 'no command is forbidden';
            $nginx->stop;
        } else {
            ok $nginx->await_error_log(qr/idempotency: .*redis.*NOPERM/), "sentinels: the error log says NOPERM without $less";
        }

        unlike $nginx->error_log, qr/word-of/, 'no password is in the log';
    }
};

subtest 'Credentials, and what the log says about them' => sub {
    my $redis = IdempotencyTest::Redis->new(user => 'admin', password => 'admin-secret', acl => <<'END');
user default on >default-secret ~* &* +@all
user admin on >admin-secret ~* &* +@all
user shop on >shop/secret:1 ~* +@all
END
    my $address = $redis->address;
    my $nginx = IdempotencyTest::Nginx->new(workers => 1);
    my $file = $nginx->write_file('password', "shop/secret:1\nnot this line\n");
    my $wrong_file = $nginx->write_file('wrong', "file-secret\n");

    my %right = (
        in_url => "redis redis://shop:shop%2Fsecret%3A1\@$address",
        in_url_without_user => "redis redis://:default-secret\@$address",
        in_words => "redis redis://$address; user shop; password shop/secret:1",
        in_file => "redis redis://$address; user shop; password_file $file",
    );
    my %wrong = (
        no_password => ['NOAUTH', "redis redis://$address"],
        wrong_password => ['WRONGPASS', "redis redis://shop:url-secret\@$address"],
        wrong_user => ['WRONGPASS', "redis redis://nobody:url-secret\@$address"],
        wrong_word => ['WRONGPASS', "redis redis://$address; user shop; password word-secret"],
        wrong_file => ['WRONGPASS', "redis redis://$address; user shop; password_file $wrong_file"],
    );
    my %store = (%right, map { $_ => $wrong{$_}[1] } keys %wrong);

    $nginx->set(stores => join("\n", map { "idempotency_store $_ { $store{$_}; prefix $_:; connect_timeout 1s; timeout 5s; }" } sort keys %store),
        server => join "\n", map { "location /$_ { idempotency $_; proxy_pass http://app; }" } sort keys %store);
    unlike(($nginx->test_configuration)[1], qr/secret/, 'nginx -t prints no password');
    $nginx->start;

    for my $name (sort keys %right) {
        my $first = ask($nginx, "/$name", $name);
        is_first $first, 201, 1, "credentials $name are accepted";
        is_replay_of ask($nginx, "/$name", $name), $first, "and the response is kept ($name)";
    }

    for my $name (sort keys %wrong) {
        is_problem ask($nginx, "/$name", $name), 503, 'store_unavailable', "a request is refused with $name";
    }

    my %codes = map { $_->[0] => 1 } values %wrong;
    ok $nginx->await_error_log(qr/\[error\].*redis "\Q$address\E".*AUTH with $_/), "the error log says $_" for grep { $_ eq 'WRONGPASS' } sort keys %codes;
    ok $nginx->await_error_log(qr/\[error\].*redis "\Q$address\E".*NOAUTH/), 'the error log says NOAUTH';
    unlike $nginx->error_log . $nginx->output, qr/secret/, 'and contains no password';

    # a new password: Redis accepts both for some time
    $redis->command('ACL', 'SETUSER', 'shop', '>new-secret');
    $nginx->write_file('password', "new-secret\n");
    $nginx->reload;
    $redis->command('ACL', 'SETUSER', 'shop', '<shop/secret:1');
    $redis->command('CLIENT', 'KILL', 'USER', 'shop');
    my $answer;
    await(sub { $answer = ask($nginx, '/in_file/again', 'again'); $answer->status != 503 });
    is_first $answer, 201, 1, 'a reload uses the new password of the file';
    is_problem ask($nginx, '/in_words/again', 'again'), 503, 'store_unavailable', 'and the old password is not valid any more';
    $nginx->stop;
    unlike $nginx->error_log . $nginx->output, qr/secret/, 'no password is in the log';
};

done_testing;
