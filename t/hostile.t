# What a client, an application and another user of the store may try: lengths at and over every limit, malformed keys, fields of this module,
# bytes that end lines, foreign values in Redis; and that a response reveals nothing about keys of another scope.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Client qw(finish);
use IdempotencyTest::Environment qw(app redis store_directives store_mode);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Requests qw(@who);

my $prefix = "hostile-$$-" . int(time) . ':';
my $store = store_mode() eq 'redis' ? 'redis unix:' . redis()->socket . "; prefix $prefix;" : store_directives();

my $nginx = IdempotencyTest::Nginx->start(
    stores => "idempotency_store main { $store }",
    log_format => '$request_uri $status [$idempotency_status]',
    http => 'client_header_buffer_size 1k; large_client_header_buffers 4 8k;',
    server => <<'END');
        idempotency main;
        add_header X-Id $idempotency_key_id always;
        location / { proxy_pass http://app; }
        location /required/ { idempotency main required; proxy_pass http://app; }
        location /named/ { idempotency_replayed_header X-Again; proxy_pass http://app; }
        location /unnamed/ { idempotency_replayed_header off; proxy_pass http://app; }
        location /from/ { idempotency_key $http_x_request_id; proxy_pass http://app; }
        location /decoded/ { idempotency_key $uri; idempotency_fingerprint same; proxy_pass http://app; }
        location /scope/ { idempotency_scope $http_x_tenant; proxy_pass http://app; }
        location /body/ { client_max_body_size 100k; proxy_pass http://app; }
        location /answer/ { idempotency_max_body 1000; proxy_pass http://app; }
        location /lease/ { idempotency_lease 2s; proxy_pass http://app; }
        location = /figures { idempotency_status; }
        location /plain/ { proxy_pass http://app; add_header X-Id ''; }
END

sub ask {
    my ($path, $key, %request) = @_;
    return $nginx->request(path => $path, key => $key, @who, %request);
}

# Lengths of a key: the limit applies to its value.
{
    my %key = (
        'bare' => sub { 'k' x $_[0] },
        'quoted' => sub { '"' . 'q' x $_[0] . '"' },
        'escaped' => sub { '"' . '\\"' x $_[0] . '"' },
    );

    for my $form (sort keys %key) {
        for my $length (1, 254, 255) {
            my $key = $key{$form}->($length);
            my $first = ask("/length/$form$length", $key);
            is_first $first, 201, 1, "a $form key of $length bytes is valid";
            is_replay_of ask("/length/$form$length", $key), $first, "and its retry is replayed ($form, $length)";
        }
        for my $length (0, 256, 257, 4000) {
            is_problem ask("/length/$form$length", $key{$form}->($length)), 400, 'idempotency_key_invalid', "a $form key of $length bytes is invalid";
            is app()->count("/length/$form$length"), 0, "and does not run ($form, $length)";
        }
    }

    my $parameters = '"p";a=' . 'x' x 4000;
    my $first = ask('/length/parameters', $parameters);
    is_first $first, 201, 1, 'parameters are ignored';
    is_replay_of ask('/length/parameters', '"p"'), $first, 'parameters of any length';
    is_replay_of ask('/length/parameters', 'p'), $first, 'because they are not part of the key';

    # nginx's own limit for a line
    my $huge = ask('/length/huge', 'k' x 9000);
    is $huge->status, 400, 'a line past large_client_header_buffers is refused by nginx';
    is app()->count('/length/huge'), 0, 'and does not run';
}

# Invalid keys of all kinds: each invalid byte at each position.
{
    my @bytes = grep { $_ != 10 && $_ != 13 && $_ != 0 } 1 .. 32, 127 .. 255;
    my $wrong = 0;
    my $connection = $nginx->connect;
    for my $byte (@bytes) {
        for my $key ('a' . chr($byte) . 'b', '"a' . chr($byte) . 'b"') {
            # a quoted key may contain spaces
            next if $byte == 32 && $key =~ /^"/;
            my $answer = $connection->send(path => '/bytes', key => $key, @who)->response;
            next if $answer->status == 400;
            $wrong++;
            diag sprintf 'byte %d: %s', $byte, $answer->status_line;
        }
        $connection = $nginx->connect;
    }
    is $wrong, 0, 'a key with a byte that is not visible ASCII is invalid';

    for my $key ('"', '"a', '"a\\"', '"\\', '"\\a"', '"a"b', '"a" b', '"a";', '"a";=', '"a";A=1', '"a";a=', '"a";a="', '"a", "b"', 'a, b', '"a";a=?2', '""', '"";a') {
        is_problem ask('/forms', $key), 400, 'idempotency_key_invalid', "not a valid key: $key";
    }
    is app()->count('/bytes') + app()->count('/forms'), 0, 'none of them runs';

    # lines that end early, and what ends a string in C
    my %raw = ('NUL' => "Idempotency-Key: a\0b", 'CR' => "Idempotency-Key: a\rX-Forged: 1", 'a fold' => "Idempotency-Key: a\r\n b");
    for my $what (sort keys %raw) {
        my $answer = $nginx->connect->send_raw("POST /raw HTTP/1.1\r\nHost: localhost\r\nX-API-Key: alice\r\n$raw{$what}\r\n\r\n", 'POST')->response;
        is $answer->status, 400, "$what in a key's field is refused";
    }
    is app()->count('/raw'), 0, 'and does not run';

    # bytes that only a variable can contain
    for my $path (map { "/decoded/a$_" } '%01b', '%0d%0aX-Forged:%201', '%ff', '%7f') {
        my $answer = ask($path, undef);
        is_problem $answer, 400, 'idempotency_key_invalid', "a key with such a byte is invalid: $path";
        is $answer->header('X-Forged'), undef, 'and the response does not contain it';
    }

    is ask('/decoded/a%00b', undef)->status, 400, 'a path with NUL is refused by nginx';

    for my $pair (['a', 'b'], ['a', 'a'], ['"a"', 'a'], ['', 'a'], ['a', '']) {
        my $answer = $nginx->request(path => '/twice', headers => ['X-API-Key: alice', map { "Idempotency-Key: $_" } @$pair]);
        is_problem $answer, 400, 'idempotency_key_invalid', "two fields are not a valid key: '$pair->[0]' and '$pair->[1]'";
    }
    is app()->count('/twice'), 0, 'and the requests do not run';

    # other field names
    for my $name ('Idempotency_Key', 'Idempotency-Key2', 'X-Idempotency-Key', 'Idempotency-Ke') {
        $nginx->request(path => "/names/$name", headers => ['X-API-Key: alice', "$name: a"]) for 1 .. 2;
        is app()->count("/names/$name"), 2, "the field $name is not a key";
    }
}

# Scopes of all lengths and with all bytes that a field may contain.
{
    my %scope = (short => 's', long => 's' x 4000, longer => 's' x 7000, quoted => '"s"', spaces => 's t', latin => "s\xe9", colon => 'a:b', digits => '12:34');
    for my $name (sort keys %scope) {
        my $request = sub { $nginx->request(path => '/scope/same', key => 'same', headers => ["X-Tenant: $scope{$name}"]) };
        my $first = $request->();
        ok $first->status == 201 && !$first->is_replay, "a scope that is $name has its own response";
        is_replay_of $request->(), $first, "and its own replay ($name)";
    }

    # no part of the scope can be taken for a part of the key
    my %id;
    for (['a', 'bc'], ['ab', 'c'], ['a:b', 'c'], ['a', 'b:c'], ['1', '1'], ['11', '1'], ['1', '11'], ['a"', 'b'], ['a', '"b"'], ['b', 'a'], ['a', 'b']) {
        my ($scope, $key) = @$_;
        $id{$nginx->request(path => '/scope/parts', key => $key, headers => ["X-Tenant: $scope"])->header('X-Id')}{"$scope " . $key =~ tr/"//dr} = 1;
    }
    is join('; ', grep { /,/ } map { join ', ', sort keys %$_ } values %id), '', 'scope and key are always separated';

    # two fields of a credential
    my $one = $nginx->request(path => '/credentials', key => 'c', headers => ['Authorization: ab', 'X-API-Key: c']);
    my $two = $nginx->request(path => '/credentials', key => 'c', headers => ['Authorization: a', 'X-API-Key: c']);
    isnt $one->header('X-Id'), $two->header('X-Id'), 'other credentials have another identity';
}

# Bodies and responses at their limits.
{
    for my $size (0, 1, 102_400) {
        my $first = ask("/body/$size", "body-$size", body => 'b' x $size);
        is_first $first, 201, 1, "a request with $size bytes runs";
        is_replay_of ask("/body/$size", "body-$size", body => 'b' x $size), $first, "its retry is replayed ($size)";
        is_problem ask("/body/$size", "body-$size", body => 'b' x ($size > 1 ? $size - 1 : $size + 1)), 422, 'idempotency_key_reused', "another length is another request ($size)";
    }
    is ask('/body/past', 'body-past', body => 'b' x 102_401)->status, 413, 'a request past client_max_body_size is refused by nginx';
    is_first ask('/body/past', 'body-past', body => 'b'), 201, 1, 'and has claimed nothing';

    for my $size (999, 1000) {
        my $first = ask("/answer/$size?size=$size", "answer-$size");
        is_replay_of ask("/answer/$size?size=$size", "answer-$size"), $first, "a response of $size bytes is kept";
    }
    for my $framing (qw(length chunked close)) {
        is length ask("/answer/past-$framing?size=1001&framing=$framing", "answer-past-$framing")->body, 1001, "a response over the limit is delivered ($framing)";
        my $retry;
        await(sub { $retry = ask("/answer/past-$framing?size=1001&framing=$framing", "answer-past-$framing"); $retry->code ne 'request_in_progress' });
        is_problem $retry, 409, 'response_not_kept', "and not kept ($framing)";
    }

    # the largest response head that nginx reads, and a larger one
    for my $length (1000, 3000) {
        my $path = "/fields/$length?header=X-Long:" . 'v' x $length;
        my $first = ask($path, "fields-$length");
        is $first->status, 201, "a response with a field of $length bytes";
        is_replay_of ask($path, "fields-$length"), $first, 'is replayed byte for byte';
    }
}

# Fields of this module from the client.
{
    my @forged = ('Idempotent-Replayed: true', 'X-Accel-Idempotency: release', 'X-Accel-Idempotency: no-store', 'X-Accel-Idempotency: ttl=1', 'X-Again: true');
    my $request = sub { $nginx->request(path => '/forged', key => 'forged', headers => ['X-API-Key: alice', @_]) };
    my $first = $request->(@forged);
    is_first $first, 201, 1, 'a request with fields of this module runs like any other';
    is $first->header('Idempotent-Replayed'), undef, 'and is not marked as a replay';
    my %seen = map { lc "$_->[0]: $_->[1]" => 1 } @{app()->last_request('/forged')->{headers}};
    is join(', ', grep { !$seen{lc $_} } @forged), '', 'the application gets these fields';
    is_replay_of $request->(), $first, 'the response is still kept';
    my $retry = $request->(@forged);
    is_replay_of $retry, $first, 'and a retry with such fields gets the replay';
    is scalar($retry->headers('Idempotent-Replayed')), 1, 'the replay is marked once';
    is $retry->header('X-Accel-Idempotency'), undef, 'the mark has no other value';
    is app()->count('/forged'), 1, 'it was executed once';
}

# Fields of this module from the application.
{
    my $forged = 'header=Idempotent-Replayed:true&header=idempotent-replayed:false&header=IDEMPOTENT-REPLAYED:';
    my $again = 'header=X-Again:true&header=x-again:1';

    my $first = ask("/claims?$forged", 'claims');
    is scalar($first->headers('Idempotent-Replayed')), 0, 'the mark of a replay is removed from a response of the application';
    my $retry = ask("/claims?$forged", 'claims');
    is join(', ', $retry->headers('Idempotent-Replayed')), 'true', 'a replay is marked once';
    is $retry->body, $first->body, 'and it is a replay';

    $first = ask("/named/claims?$again", 'named');
    is scalar($first->headers('X-Again')), 0, 'a mark with another name is removed too';
    is join(', ', ask("/named/claims?$again", 'named')->headers('X-Again')), 'true', 'if this name is configured';

    $first = ask("/unnamed/claims?$forged&$again", 'unnamed');
    $retry = ask("/unnamed/claims?$forged&$again", 'unnamed');
    is_deeply [$retry->headers('X-Again')], [$first->headers('X-Again')], 'without a mark the field belongs to the application and is kept';
    is app()->count('/unnamed/claims'), 1, 'and the response is replayed';

    # bytes that end a line: nginx refuses them, and such a response is not kept
    for my $bytes ('a%0d%0aX-Forged:1', 'a%00b', 'a%0aX-Forged:1') {
        my $path = '/lines/' . $bytes =~ s/\W/-/gr;
        my @answers = map { ask("$path?header=X-Value:$bytes", $path =~ tr{/}{-}r) } 1 .. 2;
        is $answers[1]->lasting, $answers[0]->lasting, "a retry gets the same ($bytes)" if $answers[0]->status == 201;
        ok app()->count($path) == 1, "the application executed the request once ($bytes)";
    }

    # invalid directives
    for my $word ('release%3Bno-store', '%00release', 'ttl%3D-1', 'ttl%3D99999999999999999999', 'ttl%3D', 'RELEASES', '%2C%2C%2C') {
        my $path = '/words/' . $word =~ s/\W/-/gr;
        ask("$path?header=X-Accel-Idempotency:$word", $path =~ tr{/}{-}r) for 1 .. 2;
        is app()->count($path), 1, "not a directive of X-Accel-Idempotency: $word";
    }
}

# Whether a key of another scope exists: the same request with and without this key.
{
    my $shape = sub {
        my ($answer) = @_;
        # the identity is that of the client's own scope and key
        return join "\n", $answer->status_line, (map { "$_->[0]: " . ($_->[0] =~ /^(?:Date|X-Id|Content-Length)$/i ? '' : $_->[1]) } @{$answer->{fields}}),
            $answer->body =~ s{/exists/\w+}{}r =~ s/^#\d+//r;
    };
    my $of = sub { my ($who, $path, $key, %more) = @_; return $nginx->request(path => $path, key => $key, headers => ["X-API-Key: $who"], %more) };

    # Alice has a kept response, one that is not kept, one with an unknown outcome and a running request.
    $of->('alice', '/exists/kept', 'exists-kept');
    $of->('alice', '/answer/exists?size=2000', 'exists-large');
    $of->('alice', '/exists/lost?abort=before', 'exists-lost');
    my $running = $nginx->send_request(path => '/exists/running?gate=exists', key => 'exists-running', headers => ['X-API-Key: alice']);
    app()->await_arrival('/exists/running');

    my $none = $shape->($of->('bob', '/exists/probe', 'exists-none'));
    for my $key (map { "exists-$_" } qw(kept large lost running)) {
        is $shape->($of->('carol', '/exists/probe', $key)), $none, "no difference shows that another scope has $key";
        is $shape->($of->('dave', '/exists/probe', $key, body => 'x')), $shape->($of->('dave', '/exists/probe', "$key-none", body => 'x')), "and none for another request ($key)";
    }

    # The time of a response reveals nothing either: the calls to the store, their lengths and the length of the response are the same.
    my $calls = sub { return $nginx->request(method => 'GET', path => '/figures')->json->{stores}{main}{store_calls} };
    my $effort = sub {
        my ($key) = @_;
        my ($before, $answer, @commands) = $calls->();
        my $ask = sub { $answer = $of->('erin', '/exists/probe?size=60', $key) };
        store_mode() eq 'redis' ? @commands = redis()->commands_during($ask) : $ask->();

        my $after = $calls->();
        my $id = $answer->header('X-Id');
        ok $answer->status == 201 && !$answer->is_replay, "a request runs ($key)";
        return join "\n", 'an answer of ' . length($answer->head . $answer->body),
            (map { "$_: " . ($after->{$_} - $before->{$_}) } sort keys %$after), map { lengths_of_command($_) } grep { /\Q$id\E/ } @commands;
    };
    my $least = $effort->('exists-nowhere');
    like $least, qr/\nclaim: 1\n.*settle: 1/s, 'the commands of a request are recorded';
    is scalar(() = $least =~ /^EVALSHA(?: \d+)+$/mg), 2, 'they contain commands to Redis' if store_mode() eq 'redis';
    is $effort->("exists-$_"), $least, "the commands are the same if another scope has $_" for qw(kept large lost);
    is $effort->('exists-running'), $least, 'or if a request of another scope is running';

    app()->open_gate('exists');
    is $running->response->status, 201, 'and requests of other scopes are not affected';
}

# A line of MONITOR as its command and the lengths of the arguments.
sub lengths_of_command {
    my ($line) = @_;
    my ($command, @arguments) = $line =~ /"((?:[^"\\]|\\.)*)"/g;
    s/\\(?:x[0-9a-f]{2}|.)/./g for @arguments;
    return join ' ', uc $command, map { length } @arguments;
}

# Another user writes into the same Redis.
if (store_mode() eq 'redis') {
    my $redis = redis();
    my $name_of = sub { return $prefix . $_[0]->header('X-Id') };
    my $value_of = sub { return $redis->command('GET', $name_of->($_[0])) };

    my $mine = ask('/tenant/mine', 'tenant-mine');
    my $other = $nginx->request(path => '/tenant/other', key => 'tenant-other', headers => ['X-API-Key: mallory']);
    my ($good, $foreign) = ($value_of->($mine), $value_of->($other));

    $redis->command('SET', $name_of->($mine), $foreign, 'PX', 60_000);
    is_problem ask('/tenant/mine', 'tenant-mine'), 503, 'store_unavailable', 'a record of another request in its place is not replayed';
    $redis->command('SET', $name_of->($mine), 'x' x 5_000_000, 'PX', 60_000);
    is_problem ask('/tenant/mine', 'tenant-mine'), 503, 'store_unavailable', 'five megabytes of other data are not replayed';
    $redis->command('SET', $name_of->($mine), $good);
    is_replay_of ask('/tenant/mine', 'tenant-mine'), $mine, 'a record whose time to live was removed is replayed';
    $redis->command('SET', $name_of->($mine), $good, 'PX', 1000 * 86400 * 365 * 20);
    is_replay_of ask('/tenant/mine', 'tenant-mine'), $mine, 'a record with a longer time to live is replayed';
    $redis->command('DEL', $name_of->($mine));
    is_first ask('/tenant/mine', 'tenant-mine'), 201, 2, 'after its record was deleted the request runs again';

    # while a request runs
    my $tampered = sub {
        my ($what, $tamper) = @_;
        my $path = "/lease/$what";
        my $claim = $nginx->send_request(path => "$path?gate=$what", key => $what, @who);
        app()->await_arrival($path);
        my $refused = ask("$path?gate=$what", $what);
        is_problem $refused, 409, 'request_in_progress', "a request runs ($what)";
        $tamper->($name_of->($refused));
        return $claim;
    };

    my $claim = $tampered->('deleted', sub { $redis->command('DEL', $_[0]) });
    app()->open_gate('deleted');
    my $first = $claim->response;
    is_first $first, 201, 1, 'a request whose claim was deleted gets its response';
    is_replay_of ask('/lease/deleted?gate=deleted', 'deleted'), $first, 'the response is kept if no other request came';

    my $name;
    $claim = $tampered->('replaced', sub { $name = $_[0]; $redis->command('SET', $name, $foreign, 'PX', 60_000) });
    app()->open_gate('replaced');
    is_first $claim->response, 201, 1, 'a request whose claim was replaced gets its response';
    is $redis->command('GET', $name), $foreign, 'and the new value is not changed';
    ok $nginx->await_error_log(qr/\[error\].*in store "main".*the claim was lost/), 'the log has a line about it';
    $redis->command('DEL', $name);

    $claim = $tampered->('persisted', sub { $name = $_[0]; $redis->command('PERSIST', $name) });
    ok await(sub { $redis->command('PTTL', $name) > 0 }), 'a claim whose time to live was removed gets one with its next renewal';
    app()->open_gate('persisted');
    $first = $claim->response;
    is_replay_of ask('/lease/persisted?gate=persisted', 'persisted'), $first, 'and its response is kept';
    cmp_ok $redis->command('PTTL', $name), '>', 0, 'with a time to live';

    $claim = $tampered->('list', sub { $name = $_[0]; $redis->command('DEL', $name); $redis->command('RPUSH', $name, 'a') });
    app()->open_gate('list');
    is_first $claim->response, 201, 1, 'a request whose claim became a list gets its response';
    is_problem ask('/lease/list?gate=list', 'list'), 503, 'store_unavailable', 'and its retry is refused';
}

$nginx->stop;
unlike join("\n", $nginx->error_log, $nginx->access_log), qr/X-API-Key|alice|mallory|"k{200}/, 'no credential is in a log';
done_testing;
