# Duplicates while the first request is still running.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Client qw(finish);
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Requests qw(@who);

my $nginx = IdempotencyTest::Nginx->start(
    short_leases => 1, log_format => '$request_uri $idempotency_status $idempotency_store_time $pid',
    server => <<'END');
        idempotency main;
        location / { proxy_pass http://app; }
        location /wait/ { idempotency_conflict wait 15s; proxy_pass http://app; }
        location /impatient/ { idempotency_conflict wait 300ms; proxy_pass http://app; }
        location /lease/ { idempotency_lease 1s; idempotency_unknown release; proxy_pass http://app; }
END

sub send_to {
    my ($path, $key, %request) = @_;
    return $nginx->send_request(path => $path, key => $key, body => 'body', @who, %request);
}

# Twenty at once, refused.
{
    my @clients = map { send_to('/twenty?gate=twenty', 'twenty') } 1 .. 20;
    my @answers;
    await(sub {
        for my $client (@clients) {
            next if $client->is_silent_for(0);
            $client->read_some;
            my $answer = $client->parse(0);
            push @answers, $answer if $answer;
        }
        return @answers == 19;
    });

    is scalar(@answers), 19, 'of twenty duplicates at once nineteen get a response while one runs';
    is scalar(grep { $_->status == 409 && $_->code eq 'request_in_progress' } @answers), 19, 'a 409 with the code request_in_progress';
    is scalar(grep { ($_->header('Retry-After') // '') =~ /^[1-9]\d*$/ } @answers), 19, 'and with Retry-After';

    app()->open_gate('twenty');
    my ($running) = grep { @{$_->{awaited}} } @clients;
    my $first = $running->response;
    is_first $first, 201, 1, 'the request that runs gets its response';
    is app()->count('/twenty'), 1, 'the application executed the request once';
    is_replay_of send_to('/twenty?gate=twenty', 'twenty')->response, $first, 'and a retry is replayed';
    ok $nginx->await_access_log(qr{^/twenty\S* IN_PROGRESS}), '$idempotency_status of a refused one is IN_PROGRESS';
}

# Over two workers.
{
    my ($one, $two) = $nginx->workers;
    my $first = $nginx->over($one, sub { my $client = send_to('/two?gate=two', 'two'); app()->await_arrival('/two'); return $client });
    is_problem $nginx->over($two, sub { send_to('/two?gate=two', 'two')->response }), 409, 'request_in_progress',
        'one worker knows what runs at the other';
    app()->open_gate('two');
    my $answer = $first->response;
    is_first $answer, 201, 1, 'where it gets a response';
    is_replay_of $nginx->over($_, sub { send_to('/two?gate=two', 'two')->response }), $answer, 'and both workers replay the response' for $one, $two;

    $nginx->await_access_log(qr{^/two\S* REPLAYED .* $_$}) or fail "worker $_ has not had its request" for $one, $two;
    ok $nginx->await_access_log(qr{^/two\S* NEW .* $one$}), 'the first worker had the first request';
    ok $nginx->await_access_log(qr{^/two\S* IN_PROGRESS .* $two$}), 'the second worker had its duplicate';
}

# Twenty at once, held.
{
    my @clients = map { send_to('/wait/twenty?gate=held', 'held') } 1 .. 20;
    app()->await_arrival('/wait/twenty');
    is scalar(grep { !$_->is_silent_for(0.02) } @clients), 0, 'held duplicates get no response while one request runs';

    app()->open_gate('held');
    my @answers = finish(@clients);
    is scalar(grep { $_->status == 201 && $_->body eq $answers[0]->body } @answers), 20, 'then all twenty get the same response';
    is scalar(grep { $_->is_replay } @answers), 19, 'nineteen responses are replays';
    is app()->count('/wait/twenty'), 1, 'the application executed the request once';
}

# Not held for longer than configured.
{
    my $first = send_to('/impatient/a?gate=impatient', 'impatient');
    app()->await_arrival('/impatient/a');
    my $held = send_to('/impatient/a?gate=impatient', 'impatient')->response;
    is_problem $held, 409, 'request_in_progress', 'a duplicate that was held too long is refused';
    cmp_ok $held->elapsed, '>=', 0.29, 'after the configured time';
    cmp_ok $held->elapsed, '<', 5, 'and not much later';
    app()->open_gate('impatient');
    is_first $first->response, 201, 1, 'the first request is not affected';
}

# Another request with the key of a running request.
{
    my $first = send_to('/wait/other?gate=other', 'other');
    app()->await_arrival('/wait/other');
    is_problem send_to('/wait/other?gate=other', 'other', body => 'another')->response, 422, 'idempotency_key_reused',
        'another request under a key in use is refused at once';
    app()->open_gate('other');
    is_first $first->response, 201, 1, 'and the running request is not affected';
}

# A response that is not kept lets the held requests run, one at a time.
{
    my $path = '/wait/busy';
    my $first = send_to("$path?status=503,201&gate=busy", 'busy');
    app()->await_arrival($path);
    my @held = map { send_to("$path?status=503,201&gate=busy", 'busy') } 1 .. 5;
    is scalar(grep { !$_->is_silent_for(0.02) } @held), 0, 'duplicates are held';
    app()->open_gate('busy');
    is_first $first->response, 503, 1, 'the first gets its 503';
    my @answers = finish(@held);
    is scalar(grep { $_->status == 201 && $_->body =~ /^#2 / } @answers), 5, 'the held requests get the response of the next execution';
    is app()->count($path), 2, 'there was one next execution';
}

# Held requests whose client disconnects.
{
    my $path = '/wait/leaves';
    my $first = send_to("$path?gate=leaves", 'leaves');
    app()->await_arrival($path);
    my @held = map { send_to("$path?gate=leaves", 'leaves') } 1 .. 4;
    is scalar(grep { !$_->is_silent_for(0.02) } @held), 0, 'duplicates are held';
    $_->close for @held[0, 1];
    app()->open_gate('leaves');
    my $answer = $first->response;
    is_first $answer, 201, 1, 'the first request gets its response though held clients have disconnected';
    is_replay_of $_->response, $answer, 'a held client that is still connected gets its response' for @held[2, 3];
}

# A claim is renewed while its request runs.
{
    my $first = send_to('/lease/a?gate=lease', 'lease');
    app()->await_arrival('/lease/a');
    select undef, undef, undef, 2.5;
    is_problem send_to('/lease/a?gate=lease', 'lease')->response, 409, 'request_in_progress', 'a claim is renewed beyond its lease while its request runs';
    app()->open_gate('lease');
    is_first $first->response, 201, 1, 'and its response is delivered';
    is app()->count('/lease/a'), 1, 'it is from the only execution';
}

# Many keys at once are independent.
{
    my @clients = map { send_to("/many/$_", "many-$_") } 1 .. 100;
    my @answers = finish(@clients);
    is scalar(grep { $answers[$_ - 1]->body =~ m{^#1 POST /many/$_ } } 1 .. 100), 100, 'a hundred keys at once get their own responses';
    my @replays = finish(map { send_to("/many/$_", "many-$_") } 1 .. 100);
    is scalar(grep { $replays[$_]->is_replay && $replays[$_]->lasting eq $answers[$_]->lasting } 0 .. 99), 100, 'and their own replays';
}

# No key is blocked for longer than its lease after a worker was killed.
{
    my $first = send_to('/lease/killed?gate=killed', 'killed');
    app()->await_arrival('/lease/killed');
    my @workers = $nginx->workers;
    kill KILL => @workers;
    ok await(sub { 2 == grep { my $pid = $_; !grep { $_ == $pid } @workers } $nginx->workers }), 'new workers are started';
    app()->open_gate('killed');

    my $next;
    my $tries = 0;
    await(sub { $tries++; $next = send_to('/lease/killed?gate=killed', 'killed')->response; $next->status == 201 });
    is_first $next, 201, 2, 'after the lease of a killed worker its key is free';
    cmp_ok $tries, '>', 1, 'and not before';
}

$nginx->stop(allowed => qr/exited on signal 9/);
done_testing;
