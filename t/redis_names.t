# Addresses of a Redis: a name that nginx resolves at run time, all of its addresses, addresses that change, and
# unknown names.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Socket::INET;
use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app no_resolver store_mode);
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Names;
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Redis;
use IdempotencyTest::Requests qw(@who);

plan skip_all => 'is about the Redis store' if store_mode() ne 'redis';

# Two servers with one port, each at its own address, and none at 127.0.0.1 and 127.0.0.4.
my ($one, $two);
for (1 .. 5) {
    $one = IdempotencyTest::Redis->new(bind => ['127.0.0.2']);
    $two = eval { IdempotencyTest::Redis->new(bind => ['127.0.0.3', '::1'], port => $one->port) } and last;
}
my $port = $one->port;
my $names = IdempotencyTest::Names->new;
sub new_nginx {
    my ($url, %options) = @_;
    my $store = delete $options{store} // 'timeout 2s; connect_timeout 2s;';
    return IdempotencyTest::Nginx->new(workers => 1, stores => "idempotency_store main { redis $url; $store }", http => $names->directive,
        server => 'idempotency main; location / { proxy_pass http://app; }', %options);
}

sub start_nginx { return new_nginx(@_)->start }

sub ask {
    my ($nginx, $path, $key) = @_;
    return $nginx->request(path => $path, key => $key // $path, @who);
}

sub await_answer {
    my ($nginx, $path) = @_;
    my $answer;
    await(sub { $answer = ask($nginx, $path); $answer->status != 503 });
    return $answer;
}

my $size = sub { $_[0]->command('DBSIZE') };

subtest 'A name that only the resolver knows' => sub {
    $names->set('redis.test' => ['127.0.0.2']);
    my $nginx = new_nginx("redis://redis.test:$port");
    my ($status, $output) = $nginx->test_configuration;
    is $status, 0, 'is not resolved at the start';
    like $output, qr/\[warn\].*host not found.*redis\.test/, 'with a warning';
    ($status, $output) = new_nginx("redis://redis.test:$port", http => no_resolver)->test_configuration;
    isnt $status, 0, 'and is an error where there is none';
    like $output, qr/\[emerg\].*host not found.*redis\.test/, 'the error log has a line about it';

    $nginx->start;
    my $first = await_answer($nginx, '/named');
    is_first $first, 201, 1, 'a request runs';
    is_replay_of ask($nginx, '/named'), $first, 'and its response is kept';
    is $size->($one), 1, 'at this address';
    $nginx->stop;
};

subtest 'A changed address is followed' => sub {
    $_->command('FLUSHALL') for $one, $two;
    my $nginx = start_nginx("redis://redis.test:$port");
    is_first await_answer($nginx, '/moves/1'), 201, 1, 'a request runs at the first address';
    is $size->($one), 1, 'and its response is kept there';

    $names->set('redis.test' => ['127.0.0.3']);
    my $n = 1;
    ok await(sub { $n++; await_answer($nginx, "/moves/$n")->status == 201 && $size->($two) > 0 }), 'requests go to the new address without a reload and without an error';
    my $last = $size->($one);
    my $first = ask($nginx, '/moves/last');
    is_replay_of ask($nginx, '/moves/last'), $first, 'and responses are kept there';
    is $size->($one), $last, 'and the old address gets no more commands';

    $names->set('redis.test' => ['127.0.0.2']);
    ok await(sub { $n++; ask($nginx, "/moves/$n")->status == 201 && $size->($one) > $last }), 'the same with the first address again';
    unlike $nginx->error_log, qr/\[error\]/, 'no request failed';
    $nginx->stop;
};

subtest 'All addresses are tried' => sub {
    $names->set('many.test' => ['127.0.0.1', '127.0.0.4', '127.0.0.2']);
    my $nginx = start_nginx("redis://many.test:$port");
    my $first = await_answer($nginx, '/many');
    is_first $first, 201, 1, 'addresses without a server come first';
    is_replay_of ask($nginx, '/many'), $first, 'and the address with a server is used';
    $nginx->stop;

    # one of two servers is killed
    $_->command('FLUSHALL') for $one, $two;
    $names->set('pair.test' => ['127.0.0.2', '127.0.0.3']);
    $nginx = start_nginx("redis://pair.test:$port");
    is_first await_answer($nginx, '/pair/1'), 201, 1, 'a request runs';
    my ($first_one, $other) = $size->($one) ? ($one, $two) : ($two, $one);
    $first_one->kill;
    is_first await_answer($nginx, '/pair/2'), 201, 1, 'when its server is killed the next request runs at the other';
    is $size->($other), 1, 'and its response is kept there';
    $first_one->start;
    $nginx->stop(allowed => qr/\[crit\].*connect\(\)/);
};

subtest 'IPv6' => sub {
    $names->set('six.test' => ['::1'], 'both.test' => ['::1', '127.0.0.1']);
    for my $host ('six.test', 'both.test', '[::1]') {
        my $nginx = start_nginx("redis://$host:$port");
        my $path = '/' . $host =~ tr/a-z//cdr . '6';
        is_first await_answer($nginx, $path), 201, 1, "a request runs over $host";
        ok ask($nginx, $path)->is_replay, 'and its response is kept';
        $nginx->stop;
    }
};

subtest 'Addresses and known names are not queried' => sub {
    $names->stop;
    $names->start;
    my $socket = $one->socket;
    for my $url ("redis://127.0.0.2:$port", "redis://[::1]:$port", "unix:$socket") {
        my $nginx = start_nginx($url);
        is_first await_answer($nginx, "/literal/$url"), 201, 1, "a request runs over $url";
        $nginx->stop;
    }
    is slurp($names->output), "ready\n", 'and the resolver got no query';
};

subtest 'A resolver that is dead' => sub {
    $names->set('redis.test' => ['127.0.0.2']);
    $names->stop;

    # the system resolves it
    my $local = IdempotencyTest::Redis->new;
    my $nginx = start_nginx('redis://localhost:' . $local->port);
    is_first await_answer($nginx, '/dead/1'), 201, 1, 'the addresses from the start are used';
    ok $nginx->await_error_log(qr/\[error\].*redis "localhost:\d+" of store "main" cannot be resolved.*last known/), 'and the log has a line about it';
    my $answer = ask($nginx, '/dead/2');
    cmp_ok $answer->elapsed, '<', 1, 'requests do not wait for it';
    $nginx->stop(allowed => qr/\[crit\].*(?:recv|send)/);

    $nginx = start_nginx("redis://redis.test:$port");
    is_problem ask($nginx, '/dead/3'), 503, 'store_unavailable', 'an unknown name gives a 503';
    ok $nginx->await_error_log(qr/\[error\].*redis "redis\.test:$port" of store "main" is unavailable: its name cannot be resolved/), 'the log has a line about it';
    $names->start;
    is_first await_answer($nginx, '/dead/3'), 201, 1, 'until the resolver is available';

    $names->stop;
    $one->command('CLIENT', 'KILL', 'TYPE', 'normal');
    is_first await_answer($nginx, '/dead/4'), 201, 1, 'the last addresses are used after the resolver was killed';
    $nginx->stop(allowed => qr/\[crit\].*(?:recv|send)/);
    $names->start;
};

subtest 'A name that is removed' => sub {
    $names->set('gone.test' => ['127.0.0.2'], 'silent.test' => ['SILENT'], 'empty.test' => []);
    my $nginx = start_nginx("redis://gone.test:$port");
    is_first await_answer($nginx, '/gone/1'), 201, 1, 'a request runs';
    $names->set('gone.test' => undef);
    ok $nginx->await_error_log(qr/\[error\].*gone\.test:$port" of store "main" cannot be resolved \(3: Host not found\)/), 'the log says that the name does not exist';
    is_first await_answer($nginx, '/gone/2'), 201, 1, 'and its last address is still used';
    $names->set('gone.test' => ['127.0.0.3']);
    ok $nginx->await_error_log(qr/\[warn\].*gone\.test:$port" of store "main" is resolved again/), 'until the name exists again';
    $nginx->stop;

    for my $name ('silent.test', 'empty.test', 'nobody.test') {
        $nginx = start_nginx("redis://$name:$port", store => 'connect_timeout 300ms; timeout 300ms;');
        my $answer = ask($nginx, "/$name");
        is_problem $answer, 503, 'store_unavailable', "$name: a request is refused";
        cmp_ok $answer->elapsed, '<', 1 + 2, 'within the timeouts';
        ok $nginx->await_error_log(qr/\[error\].*redis "$name:$port" of store "main" is unavailable: its name/), 'and the log has a line about it';
        $nginx->stop(allowed => qr/\[crit\].*(?:recv|send)/);
    }
};

done_testing;
