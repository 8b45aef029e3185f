# TLS to Redis: which certificates are trusted, and for which name; certificates of nginx; sessions; and every error
# gives a 503 in time and a line in the error log that says why.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Certificates;
use IdempotencyTest::Client qw(finish);
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await temporary_directory);
use IdempotencyTest::Redis;
use IdempotencyTest::RedisCluster;
use IdempotencyTest::RedisSentinel;
use IdempotencyTest::Requests qw(@who ask);
use IdempotencyTest::TlsFront;

plan skip_all => 'is about the Redis store' if store_mode() ne 'redis';

my $authority = IdempotencyTest::Certificates->new;
my $other_authority = IdempotencyTest::Certificates->new(name => 'Another authority');
my $trusted = 'ssl_trusted_certificate ' . $authority->authority . ';';
my $certificate = $authority->server;
my $redis = IdempotencyTest::Redis->new(tls => $certificate, bind => ['127.0.0.1', '::1']);

# One worker with these stores, each with a location of the same name.
sub start_nginx {
    my ($stores, %options) = @_;
    return IdempotencyTest::Nginx->start(workers => 1, %options,
        stores => join("\n", map { "idempotency_store $_ { $stores->{$_} prefix $_:; }" } sort keys %$stores),
        server => join "\n", 'location /uncovered { proxy_pass http://app; }',
            map { "location /$_ { idempotency $_; proxy_pass http://app; }" } sort keys %$stores);
}

sub works {
    my ($nginx, $name, $path) = @_;
    $path //= $name;
    my $first;
    await(sub { $first = ask($nginx, "/$path", "$path"); $first->status != 503 });
    is_first $first, 201, 1, "$name: a request runs";
    is_replay_of ask($nginx, "/$path", "$path"), $first, "$name: and its response is kept";
}

# `why`: what the log says about the server.
sub fails {
    my ($nginx, $name, $port, $why) = @_;
    is_problem ask($nginx, "/$name", $name), 503, 'store_unavailable', "$name: a request is refused";
    ok $nginx->await_error_log(qr/\[error\].*idempotency: redis "[^"]*:$port" of store "[^"]+" is unavailable: .*$why/i), "$name: and the log says why"
        or diag join "\n", grep { /:$port/ } split /\n/, $nginx->error_log;
}

subtest 'Which servers nginx trusts' => sub {
    my %server = (
        expired => $authority->expired_server,
        stranger => $other_authority->server,
        misnamed => $authority->server('DNS:elsewhere.test'),
        nameless_address => $authority->server('DNS:localhost'),
    );
    $server{$_} = IdempotencyTest::Redis->new(tls => $server{$_}) for keys %server;
    my %port = map { $_ => $server{$_}->tls_port } keys %server;
    my $port = $redis->tls_port;

    my %good = (
        by_name => "redis rediss://localhost:$port; $trusted",
        by_address => "redis rediss://127.0.0.1:$port; $trusted",
        by_address_6 => "redis rediss://[::1]:$port; $trusted",
        by_another_name => "redis rediss://127.0.0.1:$port{misnamed}; $trusted ssl_name elsewhere.test;",
        unverified_expired => "redis rediss://localhost:$port{expired}; ssl_verify off;",
        unverified_stranger => "redis rediss://localhost:$port{stranger}; ssl_verify off;",
        unverified_name => "redis rediss://localhost:$port{misnamed}; $trusted ssl_verify off;",
        protocol => "redis rediss://localhost:$port; $trusted ssl_protocols TLSv1.2;",
    );
    my %bad = (
        expired => ["redis rediss://localhost:$port{expired}; $trusted", $port{expired}, 'expired'],
        stranger => ["redis rediss://localhost:$port{stranger}; $trusted", $port{stranger}, 'certificate'],
        misnamed => ["redis rediss://localhost:$port{misnamed}; $trusted", $port{misnamed}, '(?:localhost|name|certificate)'],
        misnamed_address => ["redis rediss://127.0.0.1:$port{nameless_address}; $trusted", $port{nameless_address}, '(?:127\.0\.0\.1|certificate)'],
    );

    my $nginx = start_nginx({%good, map { $_ => $bad{$_}[0] } keys %bad});
    works($nginx, $_) for sort keys %good;
    fails($nginx, $_, @{$bad{$_}}[1, 2]) for sort keys %bad;
    is app()->count("/$_"), 0, "$_: no request runs" for sort keys %bad;
    is join(' ', map { $server{$_}->command('DBSIZE') } qw(nameless_address)), '0', 'no command was sent to a server that is not trusted';
    $nginx->stop;

    $nginx = start_nginx({system => "redis rediss://localhost:$port;"});
    fails($nginx, 'system', $port, 'certificate');
    $nginx->stop;

    # what a server with the other protocol only cannot accept
    my $new = IdempotencyTest::Redis->new(tls => $certificate, arguments => ['--tls-protocols', 'TLSv1.3']);
    $nginx = start_nginx({old => 'redis rediss://localhost:' . $new->tls_port . "; $trusted ssl_protocols TLSv1.2;"});
    fails($nginx, 'old', $new->tls_port, '(?:protocol|version|handshake)');
    $nginx->stop;
};

subtest 'TLS on one side only' => sub {
    my $plain = IdempotencyTest::Redis->new;
    my ($to_plain, $to_tls) = ($plain->port, $redis->tls_port);
    my $nginx = start_nginx({
        tls_to_plain => "redis rediss://localhost:$to_plain; $trusted",
        plain_to_tls => "redis redis://localhost:$to_tls;",
    });
    fails($nginx, 'tls_to_plain', $to_plain, 'does it speak TLS');
    fails($nginx, 'plain_to_tls', $to_tls, 'closed the connection');
    $nginx->stop;
};

subtest 'Certificates of this nginx' => sub {
    my $asks = IdempotencyTest::Redis->new(tls => $certificate, client_certificates => 'yes');
    my $port = $asks->tls_port;
    my ($own, $foreign) = ($authority->client, $other_authority->client);
    my $give = sub { "ssl_certificate $_[0]{certificate}; ssl_certificate_key $_[0]{key};" };
    my $nginx = start_nginx({given => "redis rediss://localhost:$port; $trusted " . $give->($own)});
    works($nginx, 'given');
    $nginx->stop;

    for my $case (['missing', '', 'certificate required'], ['foreign', $give->($foreign), 'unknown ca']) {
        my ($name, $directives, $why) = @$case;
        $nginx = start_nginx({$name => "redis rediss://localhost:$port; $trusted $directives"});
        fails($nginx, $name, $port, $why);
        $nginx->stop;
    }
};

subtest 'What the server sees' => sub {
    my $front = IdempotencyTest::TlsFront->new(to => $redis->socket, certificate => $authority->server(qw(DNS:localhost DNS:elsewhere.test IP:127.0.0.1)),
        authority => $authority->authority);
    my $port = $front->port;

    for my $case (
        ['seen_name', 'localhost', "redis rediss://localhost:$port; $trusted"],
        ['seen_address', undef, "redis rediss://127.0.0.1:$port; $trusted"],
        ['seen_other', 'elsewhere.test', "redis rediss://127.0.0.1:$port; $trusted ssl_name elsewhere.test;"])
    {
        my ($name, $sni, $store) = @$case;
        $front->forget;
        my $nginx = start_nginx({$name => $store});
        works($nginx, $name);
        is $front->await_seen->{sni}, $sni, "$name: the server is asked for " . ($sni // 'no name');
        is scalar(grep { defined $_->{client} } $front->seen), 0, "$name: and the server got no certificate";
        $nginx->stop;
    }

    $front->forget;
    my $nginx = start_nginx({seen_old => "redis rediss://localhost:$port; $trusted ssl_protocols TLSv1.2;"});
    works($nginx, 'seen_old');
    is $front->await_seen->{protocol}, 'TLSv1.2', 'the protocol is that of ssl_protocols';
    $nginx->stop;
};

for my $protocol ('TLSv1.2', 'TLSv1.3') {
    subtest "Sessions of $protocol" => sub {
        my $front = IdempotencyTest::TlsFront->new(to => $redis->socket, certificate => $certificate, protocol => $protocol);
        my $name = 'reused' . $protocol =~ tr/.//dr;
        my $nginx = start_nginx({$name => 'redis rediss://localhost:' . $front->port . "; $trusted"});
        works($nginx, $name);
        ok !$front->await_seen->{reused}, 'the first connection has a new session';

        $front->forget;
        $redis->command('CLIENT', 'KILL', 'TYPE', 'normal');
        works($nginx, $name, "$name/again");
        ok $front->await_seen(sub { $_[0]{reused} }), 'a later connection reuses the session';
        $nginx->stop;
    };
}

subtest 'A reload uses new certificates' => sub {
    my $front = IdempotencyTest::TlsFront->new(to => $redis->socket, certificate => $certificate, authority => $authority->authority);
    my $nginx = IdempotencyTest::Nginx->new;
    # Another file each time: since nginx 1.27.4 a reload reads a certificate anew only if its inode or the second of its change differs.
    my $copy = sub {
        my ($from) = @_;
        for my $kind (qw(certificate key)) {
            $nginx->write_file('client.new', slurp($from->{$kind}));
            rename $nginx->directory . '/client.new', $nginx->directory . "/client.$kind" or die "rename: $!\n";
        }
    };
    my $files = 'ssl_certificate ' . $nginx->directory . '/client.certificate; ssl_certificate_key ' . $nginx->directory . '/client.key;';
    $copy->($authority->client('the first'));
    $nginx->set(workers => 1, stores => 'idempotency_store main { redis rediss://localhost:' . $front->port . "; $trusted $files prefix reload:; }",
        server => 'idempotency main; location / { proxy_pass http://app; }')->start;
    works($nginx, 'reloaded', 'reloaded/1');
    is $front->await_seen->{client}, 'the first', 'nginx sends its certificate';

    $copy->($authority->client('the second'));
    $nginx->reload;
    works($nginx, 'reloaded', 'reloaded/2');
    ok $front->await_seen(sub { $_[0]{client} eq 'the second' }), 'and after a reload the new certificate';
    $nginx->stop;
};

subtest 'Redis becomes unavailable and available again' => sub {
    my $mortal = IdempotencyTest::Redis->new(tls => $certificate);
    my $nginx = start_nginx({mortal => 'redis rediss://localhost:' . $mortal->tls_port . "; $trusted"});
    works($nginx, 'mortal');

    for my $end (qw(kill stop)) {
        $mortal->$end;
        is_problem ask($nginx, "/mortal/$end/down", "$end-down"), 503, 'store_unavailable', 'a request is refused' for 1 .. 3;
        $mortal->start;
        works($nginx, 'mortal', "mortal/$end");
    }
    $nginx->stop(allowed => qr/\[crit\].*connect\(\)/);
};

subtest 'A server that sends nothing' => sub {
    my $silent = IdempotencyTest::TlsFront->new(silent => 1);
    my $port = $silent->port;
    my $nginx = start_nginx({silent => "redis rediss://127.0.0.1:$port; $trusted connect_timeout 500ms; timeout 500ms;"});
    $silent->await_accepted(1);
    my $answer = ask($nginx, '/silent', 'silent');
    is_problem $answer, 503, 'store_unavailable', 'a request is refused';
    cmp_ok $answer->elapsed, '<', 1 + 2, 'within connect_timeout and timeout, and what a slow machine adds';
    is $nginx->request(path => '/uncovered')->status, 201, 'and no other request waits';
    ok $nginx->await_error_log(qr/\[error\].*redis "127.0.0.1:$port" of store "[^"]+" is unavailable/), 'the log has a line about it';
    $silent->await_accepted(3);
    is_problem ask($nginx, '/silent', 'silent'), 503, 'store_unavailable', 'the next request tries again, and is refused';
    $nginx->stop;
};

subtest 'A cluster' => sub {
    my $cluster = IdempotencyTest::RedisCluster->new(tls => $certificate, replicas => 0);
    my $nginx = start_nginx({spread => 'redis ' . $cluster->urls(2) . "; $trusted topology cluster;"});
    works($nginx, 'spread', "spread/$_") for 1 .. 20;
    is scalar(grep { !$_->command('DBSIZE') } $cluster->nodes), 0, 'each node has keys';
    unlike $nginx->error_log, qr/\[error\]/, 'the error log has no line about a node';
    $nginx->stop;

    $nginx = start_nginx({untrusted => 'redis ' . $cluster->urls(1) . '; topology cluster;'});
    is_problem ask($nginx, '/untrusted', 'untrusted'), 503, 'store_unavailable', 'a cluster is not trusted without its authority';
    ok $nginx->await_error_log(qr/\[error\].*certificate verify failed/), 'the log has a line about it';
    $nginx->stop;
};

subtest 'Sentinels' => sub {
    my $watched = IdempotencyTest::RedisSentinel->new(server => {tls => $certificate});
    my $nginx = start_nginx({watched => 'redis ' . $watched->urls . "; $trusted topology sentinel " . $watched->name . ';'});
    works($nginx, 'watched', 'watched/1');
    is $watched->master->await_replication(2), 2, 'the replicas have the response';
    my $new = $watched->failover;
    ok $nginx->await_error_log(qr/redis "127\.0\.0\.1:${\ $new->tls_port}" is the master/), 'the log names a new master';
    works($nginx, 'watched', 'watched/2');
    is scalar(grep { /^watched:/ } @{$new->command('KEYS', '*')}), 2, 'a new master is followed over TLS';
    unlike $nginx->error_log, qr/certificate|TLS/, 'the error log has no line about a node';
    $nginx->stop;
};

subtest 'TLS to sentinels alone, and to the master alone' => sub {
    my $directory = temporary_directory();
    my $file = "$directory/sentinel.password";
    open my $out, '>', $file or die "$file: $!\n";
    print {$out} "sesame\n";
    close $out;

    for my $case (
        ['the sentinels' => 'sentinels_tls', 'off', {sentinel_tls => $certificate}, sub { 'rediss://127.0.0.1:' . $_[0]->tls_port }, sub { $_[0]->port }],
        ['the master' => 'master_tls', 'on', {server => {tls => $certificate}}, sub { 'redis://' . $_[0]->address }, sub { $_[0]->tls_port }])
    {
        my ($name, $store, $ssl, $options, $url, $port) = @$case;
        my $watched = IdempotencyTest::RedisSentinel->new(sentinel_user => 'watcher', sentinel_password => 'sesame', %$options);
        my $urls = join ' ', map { $url->($_) } $watched->sentinels;
        my $topology = 'topology sentinel ' . $watched->name;
        my $nginx = start_nginx({$store => "redis $urls; $trusted $topology master_ssl=$ssl sentinel_user=watcher sentinel_password_file=$file;"});
        works($nginx, $store, "$store/1");
        is $watched->master->await_replication(2), 2, 'the replicas have the response';
        my $new = $watched->failover;
        ok $nginx->await_error_log(qr/redis "127\.0\.0\.1:${\ $port->($new)}" is the master/), "TLS to $name: the log names a new master";
        works($nginx, $store, "$store/2");
        is scalar(grep { /^$store:/ } @{$new->command('KEYS', '*')}), 2, 'a new master is followed';
        unlike $nginx->error_log, qr/certificate|TLS|sesame/, 'the error log has no line about a node, and no password';
        $nginx->stop;
    }
};

subtest 'Many responses at a time' => sub {
    my $nginx = start_nginx({much => 'redis rediss://localhost:' . $redis->tls_port . "; $trusted timeout 20s;"});
    my @first = finish(map { $nginx->send_request(path => "/much/$_?kind=binary&size=" . 3000 * $_, key => "much-$_", @who) } 1 .. 60);
    is scalar(grep { $_->status == 201 && length $_->body } @first), 60, 'many responses of every size at a time';
    my @again = finish(map { $nginx->send_request(path => "/much/$_?kind=binary&size=" . 3000 * $_, key => "much-$_", @who) } 1 .. 60);
    is scalar(grep { $again[$_]->is_replay && $again[$_]->lasting eq $first[$_]->lasting } 0 .. 59), 60, 'are replayed byte for byte';

    my $large = ask($nginx, '/much/large?kind=binary&size=1000000', 'much-large');
    is_replay_of ask($nginx, '/much/large?kind=binary&size=1000000', 'much-large'), $large, 'and so is a large response';
    $nginx->stop;
};

done_testing;
