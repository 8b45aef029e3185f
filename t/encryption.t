# encryption_key_file: the values in Redis reveal nothing and can't be changed unnoticed, and keys are changed while requests run.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(sha256);
use Sys::Hostname ();
use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Client qw(finish);
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await temporary_directory);
use IdempotencyTest::Redis;
use IdempotencyTest::RedisCluster;
use IdempotencyTest::Requests qw(@who ask await_status begin);

plan skip_all => 'is about the Redis store' if store_mode() ne 'redis';

my $redis = IdempotencyTest::Redis->new;
my $socket = $redis->socket;
my $directory = temporary_directory();
my $prefixes = 0;

sub file_of {
    my ($name, $content) = @_;
    open my $out, '>:raw', "$directory/$name" or die "$name: $!\n";
    print $out $content;
    close $out or die "$name: $!\n";
    return "$directory/$name";
}

# Keys in each of their forms.
my %file = (
    one => file_of('one.key', unpack('H*', sha256('one')) . "\n"),
    two => file_of('two.key', sha256('two')),
    three => file_of('three.key', do { require MIME::Base64; MIME::Base64::encode_base64(sha256('three')) }),
);

my $server = <<'END';
        idempotency main;
        location / { proxy_pass http://app; }
        location /pass/ { idempotency_store_error pass; proxy_pass http://app; }
        location /short/ { idempotency_lease 2s; proxy_pass http://app; }
        location /wait/ { idempotency_conflict wait 20s; proxy_pass http://app; }
END

# `keys`: names of files; `store`: more directives of its store.
sub stores {
    my ($prefix, $keys, $store) = @_;
    my $encryption = @$keys ? 'encryption_key_file ' . join(' ', map { $file{$_} // $_ } @$keys) . ';' : '';
    return "idempotency_store main { redis unix:$socket; prefix $prefix; $encryption " . ($store // '') . ' }';
}

sub start_nginx {
    my ($keys, %options) = @_;
    my $prefix = delete $options{prefix} // 'p' . ++$prefixes . ':';
    my $store = delete $options{store};
    return IdempotencyTest::Nginx->start(
        stores => stores($prefix, $keys, $store), server => $server, prefix => $prefix,
        log_format => '$request_uri $status [$idempotency_status] $idempotency_key_id', %options);
}

# a word that the tests look for in places where no credential may be
@who = (headers => ['X-API-Key: alice-credential']);

# What $idempotency_key_id was of the last request for a path.
sub known_as {
    my ($nginx, $path) = @_;
    $nginx->await_access_log(qr/^\Q$path\E /);
    return (map { / ([0-9a-f]{64})$/ } grep { /^\Q$path\E / } $nginx->access_log)[-1];
}

sub keys_of {
    my ($nginx) = @_;
    my @names = sort grep { /^\Q$nginx->{prefix}/ } keys %{$redis->contents};
    return @names;
}

subtest 'Kept records reveal nothing' => sub {
    my $path = '/secret-path?text=precious-body&header=X-Precious:precious-header';
    my $words = qr/precious|secret-path|alice-credential|X-Precious|text\/plain/;

    # the same without encryption, to compare
    my $plain = start_nginx([]);
    ask($plain, $path, 'precious-key', body => 'precious-upload');
    my ($name) = keys_of($plain);
    my $record = $redis->command('GET', $name);
    my $fingerprint = substr $record, 40, 32;
    my $raw_id = substr $name, length $plain->{prefix};
    like $record, $words, 'a plain record contains the response';
    $plain->stop;

    my $nginx = start_nginx(['one']);
    my $monitor = IdempotencyTest::Redis->new(socket => $socket);
    $monitor->command('MONITOR');
    my $running = $nginx->send_request(path => "$path&gate=secret", key => 'running-key', @who, body => 'precious-upload');
    app()->await_arrival('/secret-path', 2);
    my $claims = join "\n", %{$redis->contents};
    app()->open_gate('secret');
    is_first $running->response, 201, 2, 'a request runs';
    my $first = ask($nginx, $path, 'precious-key', body => 'precious-upload');
    is_first $first, 201, 3, 'another request runs';
    like $first->body, qr/precious-body/, 'with its own response';
    is_replay_of ask($nginx, $path, 'precious-key', body => 'precious-upload'), $first, 'a retry is a replay';
    is_problem ask($nginx, $path, 'precious-key', body => 'other'), 422, 'idempotency_key_reused', 'another request is refused';

    $redis->command('ECHO', 'that was all');
    my $said = '';
    while ((my $line = $monitor->read_reply) !~ /"that was all"/) {
        $said .= "$line\n";
    }
    like $said, qr/EVALSHA/, 'what nginx says to Redis is seen';
    unlike $said, $words, 'no request data is in plain text in the commands';

    my $contents = $redis->contents;
    delete $contents->{$name};
    my $all = join "\n", $claims =~ s/\Q$record\E//r, %$contents;
    unlike $all, $words, 'no request data is in plain text in the values in Redis';
    is index($all, $fingerprint), -1, 'the fingerprint is not in the values';
    is index(lc unpack('H*', $all), $raw_id), -1, 'the digest of the key is not in the values';
    is scalar(grep { /$raw_id/ } keys %$contents), 0, 'the digest of the key is not in the names of Redis keys';

    my $id = known_as($nginx, $path);
    like $contents->{$nginx->{prefix} . $id}, qr/^IDM\x02\0\0\0K/, '$idempotency_key_id is the name of a sealed result in Redis';
    $nginx->stop;
    unlike join("\n", $nginx->error_log, $nginx->access_log), qr/precious-key|running-key|alice-credential/,
        'neither key nor credential is in a log';
};

subtest 'Each secret gives other names' => sub {
    my %known_as;
    for my $keys (['one'], ['two'], ['three'], ['one', 'two'], ['two', 'one']) {
        my $nginx = start_nginx($keys);
        ask($nginx, '/named', 'named');
        $known_as{"@$keys"} = known_as($nginx, '/named');
        is scalar(keys_of($nginx)), scalar(@$keys), 'a result is kept once for each key';
        $nginx->stop;
    }
    isnt $known_as{one}, $known_as{two}, 'two secrets give two names for one key';
    isnt $known_as{two}, $known_as{three}, 'there is a name for each secret';
    is $known_as{'one two'}, $known_as{one}, 'with several secrets the first one gives the name';
    is $known_as{'two one'}, $known_as{two}, 'in any order';
};

subtest 'A changed value is not replayed' => sub {
    my $nginx = start_nginx(['one']);
    my $path = '/changed';
    my %first = map { $_ => ask($nginx, $path, $_) } qw(a b);
    my %name = map { ask($nginx, "/name-$_", $_); ($_ => $nginx->{prefix} . known_as($nginx, "/name-$_")) } qw(a b);
    my %good = map { $_ => $redis->command('GET', $name{$_}) } qw(a b);
    my $id = substr $name{a}, length $nginx->{prefix};

    my $other = start_nginx(['two'], prefix => 'other:');
    ask($other, $path, 'a');
    my $foreign = $redis->command('GET', 'other:' . known_as($other, $path));
    $other->stop;

    my $plain = start_nginx([], prefix => 'plain:');
    ask($plain, $path, 'a');
    my $unsealed = $redis->command('GET', 'plain:' . known_as($plain, $path));
    my $plain_name = 'plain:' . known_as($plain, $path);

    my $length = length $good{a};
    my $flipped = sub { my ($at) = @_; my $v = $good{a}; substr($v, $at, 1) ^= "\x01"; return $v };
    my @damage = (
        (map { ["byte $_ changed" => $flipped->($_), qr/./] } 0, 3, 4, 8, 15),
        ['its state changed' => do { my $v = $good{a}; substr($v, 7, 1) = 'N'; $v }, qr/does not open/],
        ['the key that sealed it changed' => $flipped->(40), qr/not among "encryption_key_file"/],
        (map { ["byte $_ changed" => $flipped->($_), qr/does not open: it was changed, or is of another key/] } 24, 35, 36, 100, $length - 17, $length - 16, $length - 1),
        (map { ["all after $_ bytes cut" => substr($good{a}, 0, $_), qr/./] } 0, 2, 8, 40, 131, $length - 1),
        ['more behind it' => "$good{a}x", qr/does not open/],
        ['the value of another key' => $good{b}, qr/does not open/],
        ['a value that another secret sealed' => $foreign, qr/not among "encryption_key_file"/],
        ['a value that is not sealed' => $unsealed, qr/is not sealed/],
    );

    for my $damage (@damage) {
        my ($what, $value, $why) = @$damage;
        $redis->command('SET', $name{a}, $value, 'PX', 60_000);
        my $logged = length $nginx->error_log;

        is_problem ask($nginx, $path, 'a'), 503, 'store_unavailable', "$what: a 503";
        like substr($nginx->error_log, $logged), qr/\[(?:error|info)\].*idempotency: the value of key $id in store "main" .*$why/, "$what: the error log has a line about it";
        is $redis->command('GET', $name{a}), $value, "$what: the value in Redis is not changed";
    }

    is app()->count($path), 4, 'the application got no further request';
    $redis->command('SET', $name{a}, $good{a}, 'PX', 60_000);
    is_replay_of ask($nginx, $path, 'a'), $first{a}, 'the value itself is replayed';
    is_replay_of ask($nginx, $path, 'b'), $first{b}, 'the other value is replayed too';

    $redis->command('SET', $plain_name, $good{a}, 'PX', 60_000);
    is_problem ask($plain, $path, 'a'), 503, 'store_unavailable', 'a sealed value in a store without keys: a 503';
    ok $plain->await_error_log(qr/\[error\].*is encrypted, and the store has no "encryption_key_file"/), 'the error log has a line about it';
    $_->stop for $nginx, $plain;
};

subtest 'A claim was changed' => sub {
    my $nginx = start_nginx(['one']);
    my $running = begin($nginx, '/claimed', 'claimed');
    my ($name) = keys_of($nginx);
    my $good = $redis->command('GET', $name);
    # 108 bytes of the seal; head, and who made the claim
    is length $good, 108 + 100 + 10 + length Sys::Hostname::hostname(), 'a claim is a sealed record of one size';

    my $broken = $good;
    substr($broken, 50, 1) ^= "\x01";
    $redis->command('SET', $name, $broken, 'KEEPTTL');
    is_problem ask($nginx, '/claimed?gate=claimed', 'claimed'), 503, 'store_unavailable', 'a duplicate is refused';
    is app()->count('/claimed'), 1, 'and does not run';
    $redis->command('SET', $name, $good, 'KEEPTTL');
    is_problem ask($nginx, '/claimed?gate=claimed', 'claimed'), 409, 'request_in_progress', 'with the claim itself it is in progress';
    app()->open_gate('claimed');
    is_first $running->response, 201, 1, 'the request gets its response';
    $nginx->stop;
};

subtest 'Large responses and many' => sub {
    my $nginx = start_nginx(['one']);
    my @paths = map { "/large/$_?size=$_" } 0, 1, 15, 16, 17, 4096, 16_384, 65_536, 1_000_000;
    my %first = map { $_ => ask($nginx, $_, $_) } @paths;
    is_replay_of ask($nginx, $_, $_), $first{$_}, "$_ is replayed" for @paths;

    my @answers = finish(map { $nginx->send_request(path => "/many/$_", key => "many-$_", @who) } 1 .. 200);
    my @replays = finish(map { $nginx->send_request(path => "/many/$_", key => "many-$_", @who) } 1 .. 200);
    is scalar(grep { $replays[$_]->is_replay && $replays[$_]->lasting eq $answers[$_]->lasting } 0 .. 199), 200, 'two hundred at once are replayed';
    $nginx->stop;
};

subtest 'Leases are renewed' => sub {
    my $nginx = start_nginx(['one', 'two'], workers => 1);
    my $running = begin($nginx, '/short/renewed', 'renewed');
    my @names = keys_of($nginx);
    is scalar(@names), 2, 'a claim is there under each key';
    is substr($redis->command('GET', $names[0]), 8, 24), substr($redis->command('GET', $names[1]), 8, 24), 'with one claim id and token';

    for my $name (@names) {
        my $left = 1e9;
        ok await(sub { my $before = $left; $left = $redis->command('PTTL', $name); $left > $before }), 'and it is renewed';
    }
    app()->open_gate('renewed');
    is_first $running->response, 201, 1, 'the request gets its response';
    $nginx->stop;
};

subtest 'A retriable response leaves nothing under any key' => sub {
    my $nginx = start_nginx(['one', 'two']);
    is ask($nginx, '/busy?status=503', 'busy')->status, 503, 'a retriable response is delivered';
    ok await(sub { !keys_of($nginx) }), 'and no key is left';
    $nginx->stop;
};

# The steps from one key to another, host by host.
my @steps = (['one'], ['one', 'two'], ['two', 'one'], ['two']);

# The same steps with other keys.
sub with {
    my %other = @_;
    return [map { [map { $other{$_} } @$_] } @steps];
}

subtest 'Keys are changed by reloads' => sub {
    for my $way (
        \@steps, with(one => 'three', two => 'one'),
        # encryption is enabled and disabled with the same steps
        with(one => 'off', two => 'one'), with(one => 'one', two => 'off'),
        [[], ['off', 'two'], ['two', 'off'], ['two']])
    {
        my $nginx = start_nginx($way->[0], workers => 1);
        my $name = join ' -> ', map { "[@$_]" } @$way;
        my (%kept, @running);

        for my $step (0 .. $#$way) {
            if ($step > 0) {
                $nginx->set(stores => stores($nginx->{prefix}, $way->[$step]))->reload(requests_run => 1);
            }

            # a request that still runs when the next step is made
            my $path = "/$step-runs$nginx->{prefix}";
            push @running, {path => $path, request => $nginx->send_request(path => "$path?gate=$path", key => $path, @who)};
            app()->await_arrival($path);
            if ($step > 0) {
                my $before = $running[-2];
                is_problem ask($nginx, "$before->{path}?gate=$before->{path}", $before->{path}), 409, 'request_in_progress', "$name, step $step: a request from the step before is in progress";
                app()->open_gate($before->{path});
                my $answer = $before->{request}->response;
                is_first $answer, 201, 1, "$name, step $step: it gets its response";
                is_replay_of ask($nginx, "$before->{path}?gate=$before->{path}", $before->{path}), $answer, "$name, step $step: and replayed";
            }

            # results of the first step are kept with the first key only: the last step is made when they have expired
            for my $old (sort grep { $step < 3 || $kept{$_}{step} == 2 } keys %kept) {
                is_replay_of ask($nginx, $old, $old), $kept{$old}{answer}, "$name, step $step: kept responses are replayed";
                is app()->count($old), 1, "$name, step $step: the application executed the request once";
            }

            my $new = "/$step-kept$nginx->{prefix}";
            $kept{$new} = {step => $step, answer => ask($nginx, $new, $new)};
            is_first $kept{$new}{answer}, 201, 1, "$name, step $step: a new request runs";
            is_replay_of ask($nginx, $new, $new), $kept{$new}{answer}, "$name, step $step: and is replayed";
        }

        app()->open_gate($running[-1]{path});
        is_first $running[-1]{request}->response, 201, 1, "$name: the last request gets its response";
        $nginx->stop;
    }
};

subtest 'Hosts with neighbouring keys' => sub {
    my $to_encryption = with(one => 'off', two => 'two');
    for my $pair (map { my $way = $_; map { [@$way[$_, $_ + 1]] } 0 .. 2 } \@steps, $to_encryption) {
        my @pair = @$pair;
        my $name = join ' and ', map { "[@$_]" } @pair;
        my $one = start_nginx($pair[0], workers => 1);
        my $two = start_nginx($pair[1], workers => 1, prefix => $one->{prefix});
        my $run = $one->{prefix} =~ s/://r;

        for my $hosts ([$one, $two], [$two, $one]) {
            my $path = "/$run-" . ($hosts->[0] == $one ? 'one' : 'two');
            my $running = $hosts->[0]->send_request(path => "$path?gate=$path", key => $path, @who);
            app()->await_arrival($path);
            is_problem ask($hosts->[1], "$path?gate=$path", $path), 409, 'request_in_progress', "$name: a request that runs at one host is in progress at the other";
            app()->open_gate($path);
            my $first = $running->response;
            is_first $first, 201, 1, "$name: it gets its response";
            is_replay_of ask($_, "$path?gate=$path", $path), $first, "$name: and both hosts replay it" for @$hosts;
        }

        # many requests at both hosts at once: each key runs once
        my @paths = map { "/wait/$run-$_" } 1 .. 25;
        my @answers = finish(map { my $path = $_; map { $_->send_request(path => $path, key => $path, @who) } $one, $two, $two, $one } @paths);
        is scalar(grep { $_->status == 201 } @answers), 100, "$name: all get their responses" or diag join ' ', map { $_->status } @answers;
        is join(' ', grep { app()->count($_) != 1 } @paths), '', "$name: no key ran twice";
        is scalar(grep { !$_->is_replay } @answers), 25, "$name: all other responses are replays";
        $_->stop for $one, $two;
    }
};

subtest 'Redis stalls while there are two keys' => sub {
    my $nginx = start_nginx(['one', 'two'], workers => 1, store => 'timeout 300ms; connect_timeout 300ms;');
    my $running = begin($nginx, '/stalls', 'stalls');
    $redis->stall;
    is_problem ask($nginx, '/other', 'other'), 503, 'store_unavailable', 'a request is refused';
    app()->open_gate('stalls');
    my $first = $running->response;
    is_first $first, 201, 1, 'a running request gets its response';
    $redis->resume;

    my $retry;
    await(sub { $retry = ask($nginx, '/stalls?gate=stalls', 'stalls'); $retry->status == 201 });
    is_replay_of $retry, $first, 'and the response is kept when Redis runs again';
    ok await(sub { 2 == grep { $redis->command('GET', $_) =~ /^IDM\x02\0\0\0K/ } keys_of($nginx) }), 'under each key';
    is_first await_status($nginx, '/other', 'other', 201), 201, 1, 'the refused request runs';
    $nginx->stop;
};

# The identities of one key are in different slots, and usually on different nodes.
subtest 'In a cluster' => sub {
    my $cluster = IdempotencyTest::RedisCluster->new(replicas => 0);
    my $nodes = 'redis ' . $cluster->urls . '; topology cluster; prefix sealed:; encryption_key_file';
    my @hosts = map { IdempotencyTest::Nginx->start(stores => "idempotency_store main { $nodes $_; }", server => $server, workers => 1) }
        "$file{one} $file{two}", "$file{two} $file{one}";

    my @paths = map { "/wait/cluster-$_" } 1 .. 20;
    my @answers = finish(map { my $path = $_; map { $_->send_request(path => $path, key => $path, @who) } @hosts, @hosts } @paths);
    is scalar(grep { $_->status == 201 } @answers), 80, 'all requests get their responses' or diag join ' ', map { $_->status } @answers;
    is join(' ', grep { app()->count($_) != 1 } @paths), '', 'no key ran twice';
    is scalar(grep { !$_->is_replay } @answers), 20, 'all other responses are replays';

    my $running = $hosts[0]->send_request(path => '/cluster?gate=cluster', key => 'cluster', @who);
    app()->await_arrival('/cluster');
    is_problem ask($hosts[1], '/cluster?gate=cluster', 'cluster'), 409, 'request_in_progress', 'a request that runs at one host is in progress at the other';
    app()->open_gate('cluster');
    my $first = $running->response;
    is_first $first, 201, 1, 'it gets its response';
    is_replay_of ask($_, '/cluster?gate=cluster', 'cluster'), $first, 'and both hosts replay it' for @hosts;

    my $contents = $cluster->contents;
    is scalar(grep { /^IDM\x02\0\0\0K/ } values %$contents), 42, 'a sealed result is there under each identity of each key';
    $_->stop for @hosts;
};

subtest 'With a near cache' => sub {
    my $nginx = start_nginx(['one'], store => 'near_cache 1m;');
    my $first = ask($nginx, '/near', 'near');
    is_replay_of ask($nginx, '/near', 'near'), $first, 'a retry is a replay';
    my $id = known_as($nginx, '/near');
    ok defined $redis->command('GET', $nginx->{prefix} . $id), '$idempotency_key_id is the name of the key in Redis';
    $nginx->stop;
};

subtest 'Invalid key files' => sub {
    my $nginx = IdempotencyTest::Nginx->new;
    my $says = sub {
        my ($directive) = @_;
        my ($status, $output) = $nginx->set(stores => "idempotency_store main { redis unix:$socket; $directive }")->test_configuration;
        return $status == 0 ? 'ok' : ($output =~ /^\w+: (\[emerg\] .*)$/m)[0] // $output;
    };

    is $says->("encryption_key_file $file{$_};"), 'ok', "$_ is a valid key" for sort keys %file;
    like $says->("encryption_key_file $directory/missing.key;"), qr{"encryption_key_file" can't open "$directory/missing\.key" \(2: No such file or directory\)}, 'a missing file';
    like $says->("encryption_key_file $directory;"), qr{"encryption_key_file" can't use "$directory": it is not a regular file}, 'a directory';

    my %bad = (short => 'ab' x 31, long => 'ab' x 33, password => 'correct horse battery staple', hex32 => 'ab' x 16, bytes => "\xff" x 31, huge => "\xff" x 100_000);
    for my $name (sort keys %bad) {
        my $file = file_of("$name.bad", $bad{$name});
        my $said = $says->("encryption_key_file $file{one} $file;");
        like $said, qr/invalid value "\Q$file\E" in "encryption_key_file": a key of 32 random bytes is needed.*openssl rand -hex 32/, "a file that is $name";
        unlike $said, qr/correct horse|abab/, 'the error does not contain the content of the file';
    }

    my $empty = file_of('empty.key', '');
    like $says->("encryption_key_file $empty;"), qr/"encryption_key_file" can't use "\Q$empty\E": the file is empty, and must have a key: "openssl rand -hex 32" makes one/, 'an empty file';

    my $again = file_of('again.key', sha256('one'));
    like $says->("encryption_key_file $file{one} $again;"), qr/invalid value "\Q$again\E" in "encryption_key_file": it is the same key as an earlier one/, 'the same key twice';
    my @many = map { file_of("many-$_.key", sha256("many $_")) } 1 .. 9;
    like $says->("encryption_key_file @many;"), qr/invalid number of arguments in "encryption_key_file"/, 'too many keys';
    is $says->("encryption_key_file @many[0 .. 7];"), 'ok', 'the highest number of keys';
    is $says->('encryption_key_file off;'), 'ok', 'off';
    is $says->("encryption_key_file off $file{one};"), 'ok', 'off before a key';
    like $says->("encryption_key_file off $file{one} off;"), qr/invalid value "off" in "encryption_key_file": it is the same key as an earlier one/, 'off twice';
    like $says->("encryption_key_file $file{one}; encryption_key_file $file{two};"), qr/duplicate directive "encryption_key_file"/, 'the directive twice';
};

done_testing();
