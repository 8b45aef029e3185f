# The status page: its counters, over all workers and over a reload, its formats and the choice of one.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use IPC::Open2 qw(open2);
use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Client qw(finish);
use IdempotencyTest::Environment qw(app redis store_mode);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Redis;
use IdempotencyTest::Requests qw(@who);
use Time::HiRes qw(sleep);

my $is_redis = store_mode() eq 'redis';
my $prefixes = 0;

my $server = <<'END';
        add_header X-Id $idempotency_key_id always;
        idempotency main;
        location / { proxy_pass http://app; }
        location /required { idempotency main required; proxy_pass http://app; }
        location /bypass { idempotency_bypass 1; proxy_pass http://app; }
        location /small/ { idempotency_max_body 100; proxy_pass http://app; }
        location /short/ { idempotency_lease 700ms; idempotency_unknown release; proxy_pass http://app; }
        location /other/ { idempotency other; proxy_pass http://app; }
        location = /idempotency { idempotency_status; allow 127.0.0.1; allow unix:; deny all; }
        location = /denied { idempotency_status; deny all; }
        location = /json { idempotency_status json; }
        location = /prometheus { idempotency_status prometheus; }
        location = /html { idempotency_status html; }
END

sub start_nginx {
    my (%options) = @_;
    my $redis = delete $options{redis} // ($is_redis ? redis() : undef);
    my $prefix = "status:$$:" . ++$prefixes . ':';
    my $store = $is_redis ? 'redis unix:' . $redis->socket . "; prefix $prefix; timeout 500ms; connect_timeout 200ms;" : 'memory 1m;';
    return IdempotencyTest::Nginx->start(
        stores => "idempotency_store main { $store } idempotency_store other { memory 256k; }", server => $server,
        log_format => '$uri $idempotency_status', prefix => $prefix, %options);
}

sub begin { my ($nginx, $path, $key, %request) = @_; return $nginx->send_request(path => $path, key => $key, @who, %request) }
sub ask { return begin(@_)->response }
sub figures { my ($nginx, $store) = @_; return $nginx->request(method => 'GET', path => '/json')->json->{stores}{$store // 'main'} }

# A request is counted when it has ended, shortly after its response.
sub comes_to {
    my ($nginx, $name, $read, $expected) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $got;
    await(sub { $got = $read->(figures($nginx)); $got eq $expected }, 5);
    is $got, $expected, $name;
}

sub requests_are {
    my ($nginx, $name, %expected) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    comes_to($nginx, $name, sub { flat($_[0]{requests}) }, flat(\%expected));
}

sub counters {
    my $figures = figures(@_);
    return {map { $_ => $figures->{$_} } qw(requests results store_calls store_call_seconds kept_bytes)};
}

# The counters above 0, in one line.
sub flat {
    my ($counts) = @_;
    return join ' ', map { "$_=$counts->{$_}" } grep { $counts->{$_} } sort keys %$counts;
}

subtest 'The outcomes of requests' => sub {
    my $nginx = start_nginx();
    is flat(figures($nginx)->{requests}), '', 'all counters are 0 at first';

    my $first = ask($nginx, '/one', 'one');
    is_first $first, 201, 1, 'a request runs';
    is_replay_of ask($nginx, '/one', 'one'), $first, 'its retry gets a replay';
    is_replay_of ask($nginx, '/one', 'one'), $first, 'and replayed again';
    is_problem ask($nginx, '/another', 'one'), 422, 'idempotency_key_reused', 'its key is reused';
    is_problem ask($nginx, '/one', 'a b'), 400, 'idempotency_key_invalid', 'a key is invalid';
    is_problem $nginx->request(path => '/required', @who), 400, 'idempotency_key_missing', 'a key is missing';
    is ask($nginx, '/bypass', 'bypass')->status, 201, 'a request is bypassed';
    is $nginx->request(path => '/unscoped', key => 'unscoped')->status, 201, 'a request has no scope';
    is ask($nginx, '/uncovered', 'uncovered', method => 'GET')->status, 201, 'a request is not covered';

    is ask($nginx, '/small/1?size=200', 'small')->status, 201, 'a response is too large';
    is_problem ask($nginx, '/small/1?size=200', 'small'), 409, 'response_not_kept', 'and was not kept';
    is ask($nginx, '/retriable?status=503', 'retriable')->status, 503, 'a response is retriable';
    is ask($nginx, '/broken?abort=reset', 'broken')->status, 502, 'an exchange breaks';
    is_problem ask($nginx, '/broken?abort=reset', 'broken'), 409, 'outcome_unknown', 'its outcome is unknown';

    my $running = begin($nginx, '/running?gate=status', 'running');
    app()->await_arrival('/running');
    is_problem ask($nginx, '/running?gate=status', 'running'), 409, 'request_in_progress', 'a request runs';
    app()->open_gate('status');
    is_first $running->response, 201, 1, 'and gets its response';
    is ask($nginx, '/other/one', 'one')->status, 201, 'another store has a request';

    comes_to $nginx, 'requests without a key are counted', sub { $_[0]{requests_without_key} }, 1;
    requests_are $nginx, 'all are counted',
        new => 4, replayed => 2, reused => 1, invalid => 1, missing => 1, bypass => 1, unscoped => 1, not_kept => 1, unknown => 2, in_progress => 1;
    my $figures = figures($nginx);
    is flat($figures->{results}), 'kept=2 not_kept=1 released=1 unknown=1', 'the calls to the store are counted';
    is flat($figures->{store_calls}), 'claim=11 release=1 settle=4', 'with the number of calls';
    is flat($figures->{store_errors}), '', 'no call has failed';
    is flat({map { $_ => $figures->{$_} } qw(late_results unkept_answers retries unrecorded_outcomes)}), '', 'no errors are counted';
    is flat($figures->{not_kept}), 'size=1', 'with the reason';
    is flat($figures->{released}), 'status=1', 'also of what was released';
    is $figures->{executions_saved}, 6, 'what was not executed is counted';
    cmp_ok $figures->{replayed_bytes}, '>=', 300, 'and the bytes of replays';
    cmp_ok $figures->{kept_bytes}, '>=', 300, 'and of kept responses';
    is $figures->{store_up}, 1, 'the store is available';
    is $figures->{engine}, store_mode(), 'the engine is named';
    is flat(figures($nginx, 'other')->{requests}), 'new=1', 'the other store has its own counters';

    if ($is_redis) {
        ok !exists $figures->{memory_keys}, 'a Redis store has no figures of a memory store';
    }
    else {
        is $figures->{memory_keys}, 4, 'the memory store counts its keys';
        is $figures->{memory_size_bytes} - $figures->{memory_used_bytes}, 512 * $figures->{memory_free_blocks}, 'and its blocks';
        cmp_ok $figures->{memory_used_bytes}, '>=', 4 * 512, 'some blocks are in use';
        cmp_ok $figures->{memory_size_bytes}, '<=', 1024 * 1024, 'the numbers are not larger than the total';
    }

    my $other = counters($nginx, 'other');
    $nginx->reload;
    is flat(figures($nginx)->{requests}), flat($figures->{requests}), 'a reload keeps all counters';
    is_deeply counters($nginx, 'other'), $other, 'the counters of every store';
    is ask($nginx, '/one', 'one')->status, 201, 'and goes on counting';
    comes_to $nginx, 'goes on', sub { $_[0]{requests}{replayed} }, 3;

    my @workers = $nginx->workers;
    kill KILL => @workers;
    await(sub { 2 == grep { my $pid = $_; !grep { $_ == $pid } @workers } $nginx->workers });
    comes_to $nginx, 'so do they when workers die', sub { $_[0]{requests}{replayed} }, 3;
    $nginx->stop(allowed => qr/exited on signal 9/);
};

subtest 'Many requests over two workers' => sub {
    my $nginx = start_nginx();
    my @clients = map { $nginx->connect } 1 .. 40;

    for my $round (1 .. 10) {
        begin_on($_, $round, $clients[$_]) for 0 .. $#clients;
        $_->response for @clients;
    }

    close $_->{socket} for @clients;
    my %expected;
    ok await(sub { %expected = counted_by_log($nginx); my $sum = 0; $sum += $_ for values %expected; $sum == 400 }), 'all are in the log';
    requests_are $nginx, 'the sum of all workers is that of the log', %expected;

    my $figures = figures($nginx);
    my $first = $figures->{requests}{new};
    is $first, 100, 'one request of each key ran';
    is flat($figures->{results}), "kept=$first", 'and was kept';
    is $figures->{store_calls}{settle}, $first, 'with one call for each response';
    is $figures->{store_calls}{claim}, 400, 'each request made one claim';
    $nginx->stop;
};

# Four clients use each key.
sub begin_on {
    my ($number, $round, $client) = @_;
    $client->send(path => "/many/$round", key => "many-$round-" . int($number / 4), @who);
}

sub counted_by_log {
    my ($nginx) = @_;
    my %count;
    m{^/many/\S+ (\S+)$} and $count{lc $1}++ for $nginx->access_log;
    return %count;
}

subtest 'A late result' => sub {
    my $nginx = start_nginx();
    my ($old, $young) = $nginx->workers;
    my $late = $nginx->over($old, sub {
        my $client = begin($nginx, '/short/late?gate=late', 'late');
        app()->await_arrival('/short/late');
        return $client;
    });

    kill STOP => $old;
    my $next;
    await(sub {
        $next = begin($nginx, '/short/late?gate=late', 'late');
        await(sub { app()->count('/short/late') > 1 || !$next->is_silent_for(0.01) });
        app()->count('/short/late') > 1;
    });
    app()->open_gate('late');
    is_first $next->response, 201, 2, 'the next request gets its response';
    kill CONT => $old;
    is_first $late->response, 201, 1, 'and the late request gets its response too';
    comes_to $nginx, 'it is counted', sub { $_[0]{late_results} }, 1;
    comes_to $nginx, 'beside the one that was kept', sub { flat($_[0]{results}) }, 'kept=1';
    comes_to $nginx, 'as a request whose answer was not kept', sub { $_[0]{requests}{new} . $_[0]{requests}{store_error} }, 11;
    $nginx->stop;
};

subtest 'A store that is unavailable' => sub {
    plan skip_all => 'is about the Redis store' if !$is_redis;
    my $redis = IdempotencyTest::Redis->new;
    my $nginx = start_nginx(redis => $redis, workers => 1);
    my @running = map { begin($nginx, "/$_?gate=away$_", "away-$_") } 'short/1', 'long';
    app()->await_arrival($_) for '/short/1', '/long';

    $redis->kill;
    is_problem ask($nginx, '/refused', 'refused'), 503, 'store_unavailable', 'a request is refused';
    comes_to $nginx, 'the store is told to be down', sub { $_[0]{store_up} }, 0;
    app()->open_gate("away$_") for 'short/1', 'long';
    is $_->response->status, 201, 'a running request gets its response' for @running;

    comes_to $nginx, 'answers that were not kept are counted', sub { $_[0]{unkept_answers} }, 2;
    comes_to $nginx, 'and what was given up', sub { $_[0]{unrecorded_outcomes} }, 1;
    requests_are $nginx, 'the requests had an error of the store', store_error => 3;
    my $figures = figures($nginx);
    cmp_ok $figures->{retries}, '>=', 2, 'attempts are counted';
    cmp_ok $figures->{store_errors}{connection}, '>=', 3 + $figures->{retries}, 'and failed calls are counted';

    $redis->start;
    comes_to $nginx, 'the store is told to be up', sub { $_[0]{store_up} }, 1;
    comes_to $nginx, 'and the other result is kept', sub { flat($_[0]{results}) }, 'kept=1';
    $nginx->stop(allowed => qr/\[crit\].*connect\(\)/);
};

subtest 'A store that is full' => sub {
    my $nginx = start_nginx(workers => 1);
    my $n = 0;
    await(sub { ask($nginx, '/other/' . ++$n . '?size=20000', "full-$n")->status == 503 });
    cmp_ok figures($nginx, 'other')->{store_errors}{full}, '>=', 1, 'requests for which there was no memory are counted';
    $nginx->stop;
};

# What is wrong with the JSON: one fault in each line.
sub checked_status {
    my ($answer) = @_;
    my $pid = open2(my $out, my $in, 'python3', "$FindBin::Bin/lib/check_status.py");
    print $in $answer->body;
    close $in;
    my $faults = join '', <$out>;
    waitpid $pid, 0;
    return $? && !$faults ? 'check_status.py has failed' : $faults;
}

sub format_of {
    my ($nginx, $path, @accept) = @_;
    my $answer = $nginx->request(method => 'GET', path => $path, headers => [map { "Accept: $_" } @accept]);
    return $answer->status . ' ' . ($answer->status == 200 ? $answer->header('Content-Type') =~ /^([^;]+)/ && $1 : '');
}

subtest 'The choice of the format' => sub {
    my $nginx = start_nginx(workers => 1);
    my $prometheus = 'application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1';
    my $browser = 'text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8';

    is format_of($nginx, '/idempotency?format=json', $browser), '200 application/json', 'the argument json';
    is format_of($nginx, '/idempotency?format=prometheus'), '200 text/plain', 'the argument prometheus';
    is format_of($nginx, '/idempotency?format=html', 'application/json'), '200 text/html', 'the argument html';
    is format_of($nginx, '/idempotency?format=xml'), '400 ', 'another argument';
    is format_of($nginx, '/idempotency', $prometheus), '200 text/plain', 'Prometheus';
    is format_of($nginx, '/idempotency', $browser), '200 text/html', 'a browser';
    is format_of($nginx, '/idempotency', '*/*'), '200 application/json', 'curl';
    is format_of($nginx, '/idempotency', 'Application/JSON;q=0.9, TEXT/html ; Q=0.8'), '200 application/json', 'the highest quality counts';
    is format_of($nginx, '/idempotency', 'image/png', 'text/html;q=0.1'), '200 text/html', 'two headers';
    is format_of($nginx, '/idempotency', 'text/html;q=0, text/plain;q=0.001'), '200 text/plain', 'a quality of 0';
    is format_of($nginx, '/idempotency', ', ;;q, text/html;q=x'), '200 application/json', 'an ill-formed header';
    is format_of($nginx, '/json?format=html', $browser), '200 application/json', 'the directive has a format';
    is $nginx->request(method => 'GET', path => '/idempotency')->header('Vary'), 'Accept', 'and the response says that it was chosen';
    $nginx->stop;
};

# All figures as NAME{LABEL} => value, without the label of the store.
sub from_json {
    my ($answer, $store) = @_;
    my %figure = %{$answer->json->{stores}{$store}};
    delete @figure{qw(engine health store_call_seconds last_error nodes events)};
    return {map { my $name = $_; ref $figure{$name} ? map { ("$name $_" => $figure{$name}{$_}) } keys %{$figure{$name}} : ($name => $figure{$name}) } keys %figure};
}

sub from_prometheus {
    my ($answer, $store) = @_;
    my %figure;

    for (split /\n/, $answer->body) {
        next if /^#/;
        next if /^idempotency_(?:store_call_seconds|last_error_timestamp_seconds|redis_)/;
        /^idempotency_(\w+?)(?:_total)?\{store="\Q$store\E"(?:,\w+="(\w+)")?\} ([\d.]+|\+Inf)$/ and $figure{defined $2 ? "$1 $2" : $1} = $3 eq '+Inf' ? undef : $3;
    }

    return \%figure;
}

sub from_html {
    my ($answer, $store) = @_;
    my ($head, @rows) = $answer->body =~ m{<tr.*?</tr>}g;
    my @stores = $head =~ m{<th[^>]*>(.*?)</th>}g;
    my ($column) = grep { $stores[$_] eq $store } 1 .. $#stores;
    my %figure;

    for (@rows) {
        my ($name, @values) = m{<t[hd][^>]*>(.*?)</t[hd]>}g;
        my $value = $values[$column - 1];
        $figure{$name} = $value eq '-' ? undef : $value if $name ne 'engine' && $value ne '';
    }

    return \%figure;
}

subtest 'The formats' => sub {
    my $nginx = start_nginx();
    ask($nginx, '/one', 'one') for 1 .. 3;
    requests_are $nginx, 'requests are counted', new => 1, replayed => 2;
    my %answer = map { $_ => $nginx->request(method => 'GET', path => "/$_") } qw(json prometheus html idempotency);

    is $answer{$_}->status, 200, "the format $_ is available" for sort keys %answer;
    is $answer{$_}->header('Cache-Control'), 'no-store', "the format $_ has Cache-Control: no-store" for sort keys %answer;
    is $answer{$_}->header('Content-Length'), length $answer{$_}->body, "the format $_ has a Content-Length" for sort keys %answer;
    is $answer{json}->header('Content-Type'), 'application/json', 'JSON has its type';
    is $answer{prometheus}->header('Content-Type'), 'text/plain; version=0.0.4; charset=utf-8', 'the format for Prometheus has its type';
    is $answer{html}->header('Content-Type'), 'text/html; charset=utf-8', 'HTML has its type';
    is $answer{idempotency}->header('Content-Type'), 'application/json', 'without an argument it is JSON';
    is $answer{json}->json->{version}, 1, 'it contains its version';
    is join(' ', sort keys %{$answer{json}->json->{stores}}), 'main other', 'and has all stores';

    for my $store ('main', 'other') {
        my $json = from_json($answer{json}, $store);
        cmp_ok scalar(keys %$json), '>=', 26, "store $store has its figures";
        is_deeply from_prometheus($answer{prometheus}, $store), $json, "the format for Prometheus has the same figures (store $store)";
        is_deeply from_html($answer{html}, $store), $json, "and so does HTML (store $store)";
    }

    is checked_status($answer{json}), '', 'docs/status.schema.json describes the JSON';
    my %described = map { $_ => 1 } $answer{prometheus}->body =~ /^# HELP (\w+) .+\n# TYPE \1 (?:counter|gauge|histogram)$/mg;
    is join(' ', grep { !$described{s/_seconds_(?:bucket|sum|count)$/_seconds/r} } $answer{prometheus}->body =~ /^(\w+)[{ ]/mg), '', 'every figure is described';
    like $answer{prometheus}->body, qr/^idempotency_requests_total\{store="main",status="replayed"\} 2$/m, 'as in the reference';
    $nginx->stop;
};

subtest 'A near cache' => sub {
    plan skip_all => 'is about the Redis store' if !$is_redis;
    my $prefix = "status:$$:" . ++$prefixes . ':';
    my $nginx = start_nginx(stores => 'idempotency_store main { redis unix:' . redis()->socket . "; prefix $prefix; timeout 500ms; connect_timeout 200ms; near_cache 1m; } idempotency_store other { memory 256k; }");
    ask($nginx, '/near', 'near') for 1 .. 2;
    my $figures = figures($nginx);
    is $figures->{near_cache_keys}, 1, 'its results are counted';
    cmp_ok $figures->{near_cache_used_bytes}, '>=', 512, 'with the memory that they use';
    cmp_ok $figures->{near_cache_size_bytes}, '<=', 1024 * 1024, 'of the available memory';
    ok !exists $figures->{memory_keys}, 'it has no figures of a memory store';
    requests_are $nginx, 'requests are counted', new => 1, replayed => 1;
    is_deeply from_prometheus($nginx->request(method => 'GET', path => '/prometheus'), 'main'), from_json($nginx->request(method => 'GET', path => '/json'), 'main'), 'all formats contain it';
    $nginx->stop;
};

subtest 'Access and methods' => sub {
    my $nginx = start_nginx(workers => 1);
    is $nginx->request(method => 'GET', path => '/denied')->status, 403, 'access checks are applied';
    is ask($nginx, '/json', 'json', method => $_)->status, 405, "$_ is not allowed" for qw(POST PUT DELETE OPTIONS);
    requests_are $nginx, 'and the location is not covered';

    my $head = $nginx->request(method => 'HEAD', path => '/json');
    is $head->status, 200, 'HEAD is allowed';
    is $head->body, '', 'without a body';
    # the times in the page have a varying number of digits
    ok await(sub {
        my $whole = $nginx->request(method => 'GET', path => '/json');
        $nginx->request(method => 'HEAD', path => '/json')->header('Content-Length') == length $whole->body;
    }), 'but with its length';
    is $nginx->request(method => 'GET', path => '/json', body => 'more')->status, 200, 'a request body is ignored';
    $nginx->stop;
};

subtest 'What no response contains' => sub {
    my $url = 'redis://shop:open-sesame@127.0.0.1:' . IdempotencyTest::Process::dead_port();
    my $nginx = start_nginx(stores => qq{idempotency_store main { memory 1m; }
        idempotency_store 'other"\\\\<b>&' { memory 256k; }
        idempotency_store other { redis $url; timeout 500ms; connect_timeout 200ms; }});
    ask($nginx, '/one', 'precious-key') for 1 .. 2;
    my %answer = map { $_ => $nginx->request(method => 'GET', path => "/$_") } qw(json prometheus html);

    ok exists $answer{json}->json->{stores}{'other"\\<b>&'}, 'the name of a store may contain any character';
    like $answer{prometheus}->body, qr/\{store="other\\"\\\\<b>&"\}/, 'in all formats';
    like $answer{html}->body, qr/>other"\\&lt;b&gt;&amp;</, 'escaped for the format';
    unlike $_->body, qr/sesame|precious|alice|shop/, 'nothing of credentials or keys' for values %answer;
    $nginx->stop(allowed => qr/\[crit\].*connect\(\)/);
};

subtest 'Without a store' => sub {
    my $nginx = IdempotencyTest::Nginx->start(stores => '', server => 'location /json { idempotency_status; }', workers => 1);
    my $page = $nginx->request(method => 'GET', path => '/json');
    is_deeply $page->json->{stores}, {}, 'there is a page';
    is checked_status($page), '', 'docs/status.schema.json describes it';
    $nginx->stop;
};

done_testing;
